//! A layer of the decoder.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::attention::AttentionLayer;
use crate::nn::config::ModelConfig;
use crate::nn::moe::MoeLayer;
use crate::nn::norm::Norm;
use crate::nn::params::ParamBuilder;
use crate::nn::pass::Pass;
use crate::nn::router::Routed;
use crate::nn::swiglu::SwiGluLayer;
use crate::ops::Add;

/// `x += attn(norm(x)); x += ffn(norm(x))`.
#[derive(Clone, Debug)]
pub struct Block {
    attn_norm: Norm,
    attn: AttentionLayer,
    ffn_norm: Norm,
    ffn: Ffn,
}

/// A feed-forward network.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// One for all tokens.
    Dense(SwiGluLayer),
    /// Experts.
    Moe(MoeLayer),
}

/// The outputs of a [`Block`].
pub struct BlockOutput {
    /// The residual stream behind it, `[tokens, d_model]`.
    pub x: Var,
    /// The input of the feed-forward network, after its norm, and its output, `[tokens, d_model]` each.
    pub ffn: [Var; 2],
    /// The routing of its experts, if it has any.
    pub routed: Option<Routed>,
}

impl Block {
    /// Registers the parameters of layer `l` of a model.
    pub fn new(params: &mut ParamBuilder, l: usize, config: &ModelConfig) -> Self {
        let (d, eps, name) = (config.d_model, config.norm_eps, format!("layers.{l}"));
        let attn_norm = Norm::new(params, format!("{name}.attn_norm.weight"), d, eps);
        let attn = AttentionLayer::new(params, &format!("{name}.attn"), l, config);
        let (ffn_norm, ffn) = if config.dense_layers.contains(&l) {
            let norm = Norm::new(params, format!("{name}.ffn_norm.weight"), d, eps);
            let depth = config.depth_scale();
            let ffn = SwiGluLayer::new(params, &format!("{name}.ffn"), d, config.d_dense, depth);
            (norm, Ffn::Dense(ffn))
        } else {
            let norm = Norm::new(params, format!("{name}.moe_norm.weight"), d, eps);
            let number = l - config.dense_layers.iter().filter(|&&dense| dense < l).count();
            (norm, Ffn::Moe(MoeLayer::new(params, &format!("{name}.moe"), number, config)))
        };
        Self { attn_norm, attn, ffn_norm, ffn }
    }

    /// The experts' layer, if it has one.
    pub fn moe(&self) -> Option<&MoeLayer> {
        match &self.ffn {
            Ffn::Moe(moe) => Some(moe),
            Ffn::Dense(_) => None,
        }
    }

    /// As [`Block::moe`], to change its settings.
    pub(super) fn moe_mut(&mut self) -> Option<&mut MoeLayer> {
        match &mut self.ffn {
            Ffn::Moe(moe) => Some(moe),
            Ffn::Dense(_) => None,
        }
    }

    /// `x: [tokens, d_model]`, whole sequences behind each other. Nobody may read `x` afterwards.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<BlockOutput> {
        let add = |tape: &mut Tape, x, branch| {
            let sum = tape.apply(Add, &[x, branch])?;
            tape.release(&[x, branch]);
            Ok(sum)
        };
        let normed = self.attn_norm.forward(tape, pass, x)?;
        let mixed = self.attn.forward(tape, pass, normed)?;
        tape.release(&[normed]);
        let x = add(tape, x, mixed)?;
        let normed = self.ffn_norm.forward(tape, pass, x)?;
        let (output, routed) = match &self.ffn {
            Ffn::Dense(ffn) => (ffn.forward(tape, pass, normed)?, None),
            Ffn::Moe(moe) => {
                let output = moe.forward(tape, pass, normed)?;
                (output.output, Some(output.routed))
            }
        };
        tape.release(&[normed]);
        let x = add(tape, x, output)?;
        Ok(BlockOutput { x, ffn: [normed, output], routed })
    }
}
