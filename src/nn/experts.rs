//! The routed experts.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::ExpertMatrix;
use crate::nn::params::{Group, Init, ParamBuilder, ParamId};
use crate::nn::pass::Pass;
use crate::nn::router::Routed;
use crate::ops::{Combine, ExpertMatMul, Permute, SwiGlu};

/// E experts of one layer: `expert(x) = (silu(x W_gate) * (x W_up)) W_down`, with banks of matrices `[E, in, out]`.
#[derive(Clone, Copy, Debug)]
pub struct Experts {
    banks: [ParamId; 3],
}

impl Experts {
    /// Registers the banks under `prefix`.
    pub fn new(params: &mut ParamBuilder, prefix: &str, sizes: ExpertSizes, output: f32) -> Self {
        let banks = ExpertMatrix::ALL.map(|matrix| {
            let (m, n) = expert_shape(matrix, sizes.d_model, sizes.hidden);
            let init = matrix_init(matrix, m, output);
            params.add(format!("{prefix}.{}", matrix.name()), Group::Experts(matrix), &[sizes.experts, m, n], init)
        });
        Self { banks }
    }

    /// The banks in the order of [`ExpertMatrix::ALL`], `[E, m, n]` each.
    pub fn banks(&self) -> [ParamId; 3] {
        self.banks
    }

    /// `x: [tokens, d_model]` to the outputs of the chosen experts, `[capacity, d_model]` by the rows of the routing,
    /// and to the sum of each token's experts, weighted, `[tokens, d_model]`.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, routed: &Routed, x: Var) -> Result<[Var; 2]> {
        let Routed { routing, weights, .. } = routed;
        let slot = tape.constant(&routing.slot);
        let source = tape.constant(&routing.source);
        let grouped = tape.apply_recomputed(Permute, &[x, source, slot])?;
        let product = |tape: &mut Tape, matrix: ExpertMatrix, x: Var| {
            let w = pass.param(tape, self.banks[matrix as usize]);
            let product = ExpertMatMul::new(routing.groups.clone());
            match matrix {
                ExpertMatrix::Gate | ExpertMatrix::Up => tape.apply(product, &[x, w]),
                ExpertMatrix::Down => tape.apply_recomputed(product, &[x, w]),
            }
        };
        let gate = product(tape, ExpertMatrix::Gate, grouped)?;
        let up = product(tape, ExpertMatrix::Up, grouped)?;
        tape.release(&[grouped]);
        let hidden = tape.apply_recomputed(SwiGlu, &[gate, up])?;
        tape.release(&[gate, up]);
        let down = product(tape, ExpertMatrix::Down, hidden)?;
        tape.release(&[hidden]);
        let output = tape.apply(Combine, &[down, *weights, slot, source])?;
        tape.release(&[down, *weights, slot, source]);
        Ok([down, output])
    }
}

/// The sizes of one layer's experts.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Number of experts.
    pub experts: usize,
    /// Width of the model.
    pub d_model: usize,
    /// Width of an expert's hidden layer.
    pub hidden: usize,
}

/// Rows and columns of an expert's matrix.
pub fn expert_shape(matrix: ExpertMatrix, d_model: usize, hidden: usize) -> (usize, usize) {
    match matrix {
        ExpertMatrix::Gate | ExpertMatrix::Up => (d_model, hidden),
        ExpertMatrix::Down => (hidden, d_model),
    }
}

/// The start of a matrix with `inputs` rows; `depth` divides what is added to the residual stream.
pub(super) fn matrix_init(matrix: ExpertMatrix, inputs: usize, depth: f32) -> Init {
    match matrix {
        ExpertMatrix::Gate | ExpertMatrix::Up => Init::fan_in(inputs),
        ExpertMatrix::Down => residual_init(inputs, depth),
    }
}

/// The start of a matrix with `inputs` rows whose product is added to the residual stream: smaller by `depth`, so that the
/// stream keeps its scale over the layers.
pub(super) fn residual_init(inputs: usize, depth: f32) -> Init {
    Init::Normal(1.0 / ((inputs as f32).sqrt() * depth))
}
