//! Causal self-attention with rotary positions and grouped key/value heads.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::ModelConfig;
use crate::nn::params::{Group, ParamBuilder, ParamId};
use crate::nn::pass::Pass;
use crate::ops::{Attention, MatMul, Rope, RotaryTable};

/// `attn(x) = attention(rope(x W_q), rope(x W_k), x W_v) W_o`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionLayer {
    wq: ParamId,
    wk: ParamId,
    wv: ParamId,
    wo: ParamId,
}

impl AttentionLayer {
    /// Registers the parameters under `prefix`.
    pub fn new(params: &mut ParamBuilder, prefix: &str, config: &ModelConfig) -> Self {
        let (d, q, kv) = (config.d_model, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut add = |name: &str, shape: [usize; 2]| params.add(format!("{prefix}.{name}"), Group::Decay, &shape);
        Self { wq: add("wq", [d, q]), wk: add("wk", [d, kv]), wv: add("wv", [d, kv]), wo: add("wo", [q, d]) }
    }

    /// `x: [tokens, d_model]`, whole sequences behind each other, to the same shape; `rotary` has the frequencies of the
    /// positions.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(
        &self,
        tape: &mut Tape,
        pass: &Pass<'_>,
        config: &ModelConfig,
        rotary: &RotaryTable,
        x: Var,
    ) -> Result<Var> {
        let project = |id, tape: &mut Tape| {
            let w = pass.param(tape, id);
            tape.apply(MatMul { trans_b: false }, &[x, w])
        };
        let turned = |id, heads, tape: &mut Tape| {
            let rope = Rope::new(rotary, heads, pass.seq);
            let plain = project(id, tape)?;
            let turned = tape.apply(rope, &[plain])?;
            tape.release(&[plain]);
            Ok(turned)
        };
        let (q, k) = (turned(self.wq, config.heads, tape)?, turned(self.wk, config.kv_heads, tape)?);
        let v = project(self.wv, tape)?;
        let op = Attention::new(config.heads, config.kv_heads, config.head_dim, pass.seq);
        let mixed = tape.apply(op, &[q, k, v])?;
        tape.release(&[q, k, v]);
        let wo = pass.param(tape, self.wo);
        let output = tape.apply(MatMul { trans_b: false }, &[mixed, wo])?;
        tape.release(&[mixed]);
        Ok(output)
    }
}
