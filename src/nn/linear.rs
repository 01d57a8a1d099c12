//! The linear layer.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::params::{Group, Init, ParamBuilder, ParamId};
use crate::nn::pass::Pass;
use crate::ops::{Bias, MatMul};

/// `y = x W + b`, with `W: [in, out]` and `b: [out]` or none.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    /// Registers the weight of a hidden layer under `name`, `[in, out]`, without a bias.
    pub fn new(params: &mut ParamBuilder, name: impl Into<String>, shape: [usize; 2], init: Init) -> Self {
        Self { weight: params.add_hidden(name, shape, init), bias: None }
    }

    /// As [`Linear::new`], for a layer whose outputs are scores: a head, a router or a gate. An update rule for the matrices of
    /// hidden layers leaves it out.
    pub fn scoring(params: &mut ParamBuilder, name: impl Into<String>, shape: [usize; 2], init: Init) -> Self {
        Self { weight: params.add(name, Group::Decay, &shape, init), bias: None }
    }

    /// Registers a bias of `width` elements under `name`, which starts with zeros.
    #[must_use]
    pub fn with_bias(self, params: &mut ParamBuilder, name: impl Into<String>, width: usize) -> Self {
        Self { bias: Some(params.add(name, Group::NoDecay, &[width], Init::Zeros)), ..self }
    }

    /// The weight, `[in, out]`.
    pub fn weight(&self) -> ParamId {
        self.weight
    }

    /// `x: [.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let w = pass.param(tape, self.weight);
        self.product(tape, pass, x, w)
    }

    /// As [`Linear::forward`], in f32 whatever the activations are stored in: for what decides, as routers do.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward_f32(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let w = pass.master(tape, self.weight);
        self.product(tape, pass, x, w)
    }

    fn product(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var, w: Var) -> Result<Var> {
        let product = tape.apply(MatMul { trans_b: false }, &[x, w])?;
        let Some(bias) = self.bias else { return Ok(product) };
        let bias = pass.master(tape, bias);
        let sum = tape.apply(Bias, &[product, bias])?;
        tape.release(&[product]);
        Ok(sum)
    }
}
