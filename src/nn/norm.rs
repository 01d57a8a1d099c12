//! The norm.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::params::{Group, Init, ParamBuilder, ParamId};
use crate::nn::pass::Pass;
use crate::ops::RmsNorm;

/// RMSNorm (Zhang and Sennrich, arXiv 1910.07467) with its weight: `y = x / sqrt(mean(x^2) + eps) * w`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    weight: ParamId,
    eps: f32,
}

impl Norm {
    /// Registers the weight under `name`, `[width]`, which starts with ones.
    pub fn new(params: &mut ParamBuilder, name: impl Into<String>, width: usize, eps: f32) -> Self {
        Self { weight: params.add(name, Group::NoDecay, &[width], Init::Ones), eps }
    }

    /// `x: [.., width]` to the same shape. Where memory is to be saved, backward computes it anew.
    ///
    /// # Errors
    /// The errors of the op.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let weight = pass.param(tape, self.weight);
        tape.apply_recomputed(RmsNorm { eps: self.eps }, &[x, weight])
    }
}
