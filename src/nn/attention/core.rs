//! The parts that both kinds of attention share: the rotation by positions, and attention itself, with or without a cache.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::cache::KvCache;
use crate::nn::config::{ModelConfig, Pairing};
use crate::nn::params::{Frequencies, ParamBuilder, RotaryId};
use crate::nn::pass::Pass;
use crate::ops::{Attention, CachedAttention, Concat, Reshape, Rope, Slice};
use crate::tensor::Tensor;

/// The rotary position embedding of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    rotary: RotaryId,
    width: usize,
    pairing: Pairing,
    scaling: f32,
}

impl Rotation {
    pub(super) fn new(params: &mut ParamBuilder, config: &ModelConfig) -> Self {
        let width = config.attention.rope_dim(config.head_dim);
        let theta = config.rope_theta;
        let yarn = config.attention.yarn.and_then(|yarn| yarn.inverse_frequencies(width, theta).ok());
        // Settings that give no frequencies are refused when a model is made.
        let rotary =
            params.add_rotary(yarn.map_or(Frequencies::Theta { head_dim: width, theta }, Frequencies::Inverse));
        let scaling = config.attention.yarn.map_or(1.0, |yarn| yarn.rotary_factor);
        Self { rotary, width, pairing: config.attention.rope_pairs, scaling }
    }

    /// Turns the `heads` heads of each token, in whatever shape they lie behind each other.
    pub(super) fn apply(&self, tape: &mut Tape, pass: &Pass<'_>, heads: usize, x: Var) -> Result<Var> {
        let shape = tape.value(x).shape();
        let rows = shape.numel() / (heads * self.width);
        let rope = Rope {
            first: pass.cache.map_or(0, KvCache::len),
            pairing: self.pairing,
            scaling: self.scaling,
            ..Rope::new(pass.params.rotary(self.rotary), heads, pass.seq)
        };
        if shape.dims() == [rows, heads * self.width] {
            return tape.apply(rope, &[x]);
        }
        let flat = tape.apply(Reshape::to([rows, heads * self.width]), &[x])?;
        let turned = tape.apply(rope, &[flat])?;
        let shaped = tape.apply(Reshape::to(shape), &[turned])?;
        tape.release(&[flat, turned]);
        Ok(shaped)
    }
}

/// Attention of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Core {
    layer: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Width of a head of queries and keys.
    pub(super) key_dim: usize,
    /// Width of a head of values.
    value_dim: usize,
    /// The factor on the scores, where it is not `key_dim^(-1/2)`.
    scale: Option<f32>,
    window: Option<usize>,
}

impl Core {
    pub(super) fn new(layer: usize, config: &ModelConfig) -> Self {
        let settings = &config.attention;
        Self {
            layer,
            heads: config.heads,
            kv_heads: config.kv_heads,
            key_dim: config.head_dim,
            value_dim: settings.value_dim(config.head_dim),
            scale: settings.yarn.map(|yarn| yarn.score_factor / (config.head_dim as f32).sqrt()),
            window: settings.window_of(layer),
        }
    }

    /// `q: [tokens, heads * key_dim]`, `k: [tokens, kv_heads * key_dim]`, `v: [tokens, kv_heads * value_dim]` to
    /// `[tokens, heads * value_dim]`. Releases all three.
    pub(super) fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, [q, k, v]: [Var; 3]) -> Result<Var> {
        if let Some(cache) = pass.cache {
            let (keys, values) = cache.append(self.layer, tape.value(k), tape.value(v))?;
            let op = CachedAttention {
                scale: self.scale,
                window: self.window,
                ..CachedAttention::new(self.heads, self.kv_heads, self.key_dim, self.value_dim)
            };
            let mixed = op.forward(tape.value(q), keys, values, cache.len())?;
            tape.release(&[q, k, v]);
            return Ok(tape.constant(&mixed));
        }
        let op = Attention {
            scale: self.scale,
            window: self.window,
            ..Attention::new(self.heads, self.kv_heads, self.key_dim, pass.seq)
        };
        if self.value_dim == self.key_dim {
            let mixed = tape.apply(op, &[q, k, v])?;
            tape.release(&[q, k, v]);
            return Ok(mixed);
        }
        // Values as wide as keys: what is added are zeros, and so is what comes of them.
        let tokens = tape.value(v).rows();
        let heads = tape.apply(Reshape::to([tokens * self.kv_heads, self.value_dim]), &[v])?;
        let rest = [tokens * self.kv_heads, self.key_dim - self.value_dim];
        let zeros = Tensor::empty(tape.gpu(), rest, tape.value(v).dtype())?;
        zeros.clear()?;
        let zeros = tape.constant(&zeros);
        let padded = tape.apply(Concat, &[heads, zeros])?;
        let wide = tape.apply(Reshape::to([tokens, self.kv_heads * self.key_dim]), &[padded])?;
        tape.release(&[v, heads, zeros, padded]);
        let mixed = tape.apply(op, &[q, k, wide])?;
        tape.release(&[q, k, wide]);
        let heads = tape.apply(Reshape::to([tokens * self.heads, self.key_dim]), &[mixed])?;
        let narrow = tape.apply(Slice { start: 0, width: self.value_dim }, &[heads])?;
        let output = tape.apply(Reshape::to([tokens, self.heads * self.value_dim]), &[narrow])?;
        tape.release(&[mixed, heads, narrow]);
        Ok(output)
    }
}
