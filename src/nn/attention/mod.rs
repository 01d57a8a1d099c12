//! Causal self-attention with rotary positions.

mod core;
mod grouped;
mod latent;

pub use grouped::GroupedAttention;
pub use latent::LatentAttention;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::ModelConfig;
use crate::nn::params::ParamBuilder;
use crate::nn::pass::Pass;

/// Attention of one of its kinds.
#[derive(Clone, Debug)]
pub enum AttentionLayer {
    /// Each head of keys and values has a projection of its own.
    Grouped(GroupedAttention),
    /// Keys and values come through a narrow projection.
    Latent(LatentAttention),
}

impl AttentionLayer {
    /// Registers the parameters of layer `layer` under `prefix`.
    pub fn new(params: &mut ParamBuilder, prefix: &str, layer: usize, config: &ModelConfig) -> Self {
        match config.attention.latent {
            Some(latent) => Self::Latent(LatentAttention::new(params, prefix, layer, config, latent)),
            None => Self::Grouped(GroupedAttention::new(params, prefix, layer, config)),
        }
    }

    /// `x: [tokens, d_model]`, whole sequences behind each other, to the same shape.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Var> {
        match self {
            Self::Grouped(attention) => attention.forward(tape, pass, x),
            Self::Latent(attention) => attention.forward(tape, pass, x),
        }
    }
}
