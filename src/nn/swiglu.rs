//! The dense feed-forward network, also as the expert that all tokens share.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::ExpertMatrix;
use crate::nn::experts::{expert_shape, matrix_init};
use crate::nn::linear::Linear;
use crate::nn::params::ParamBuilder;
use crate::nn::pass::Pass;
use crate::ops::SwiGlu;

/// `y = (silu(x W_gate) * (x W_up)) W_down` (Shazeer 2020, arXiv 2002.05202).
#[derive(Clone, Copy, Debug)]
pub struct SwiGluLayer {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl SwiGluLayer {
    /// Registers the matrices under `prefix`. `depth` divides the start of the output's, which goes to the residual stream.
    pub fn new(params: &mut ParamBuilder, prefix: &str, d_model: usize, hidden: usize, depth: f32) -> Self {
        let [gate, up, down] = ExpertMatrix::ALL.map(|matrix| {
            let (m, n) = expert_shape(matrix, d_model, hidden);
            Linear::new(params, format!("{prefix}.{}", matrix.name()), [m, n], matrix_init(matrix, m, depth))
        });
        Self { gate, up, down }
    }

    /// `x: [tokens, d_model]` to the same shape.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        let gate = self.gate.forward(tape, pass, x)?;
        let up = self.up.forward(tape, pass, x)?;
        let hidden = tape.apply_recomputed(SwiGlu, &[gate, up])?;
        tape.release(&[gate, up]);
        let output = self.down.forward(tape, pass, hidden)?;
        tape.release(&[hidden]);
        Ok(output)
    }
}
