//! The settings of attention.

use serde::{Deserialize, Serialize};

use super::bounds::{MAX_WIDTH, require, within};
use crate::error::{Error, Result};
use crate::ops::{Pairing, Yarn};

/// Settings of attention beside the numbers of heads and their width, which [`super::ModelConfig`] has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct AttentionConfig {
    /// Whether the projections to queries, keys and values add a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether the output projection adds a bias.
    pub output_bias: bool,
    /// The RMSNorm of queries and keys before their rotation.
    pub qk_norm: QkNorm,
    /// The pairs of elements that RoPE turns.
    pub rope_pairs: Pairing,
    /// Limits queries, keys and values to `-clip_qkv ..= clip_qkv`, after their norms (OLMoE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f32>,
    /// A query sees its own position and the `window - 1` before it; none for all before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// The layers that see everything although `window` is set, in ascending order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub full_layers: Vec<usize>,
    /// Frequencies of RoPE for contexts longer than those of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yarn: Option<YarnConfig>,
    /// Keys and values through a common narrow projection (DeepSeek); none for a projection each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentConfig>,
}

/// The elements of queries and keys that are normalised together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// Nothing.
    #[default]
    None,
    /// Each head by itself, with one weight of `head_dim` elements for all heads (Qwen3).
    Head,
    /// All heads of a token together, with a weight of `heads * head_dim` elements (OLMoE).
    Whole,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434). A query and a key of `head_dim` elements consist of a part
/// without position and a part of `rope_dim` elements that RoPE turns; the latter is one for all heads of a key.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LatentConfig {
    /// Width of the narrow projection of queries; none for a direct one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q_rank: Option<usize>,
    /// Width of the narrow projection of keys and values.
    pub kv_rank: usize,
    /// Width of the part that RoPE turns.
    pub rope_dim: usize,
    /// Width of a head of values.
    pub value_dim: usize,
    /// Added to the mean square in the norms of the narrow projections.
    pub norm_eps: f32,
}

impl LatentConfig {
    /// A projection of keys and values to `kv_rank` elements, with a direct one of queries.
    pub fn new(kv_rank: usize, rope_dim: usize, value_dim: usize) -> Self {
        Self { q_rank: None, kv_rank, rope_dim, value_dim, norm_eps: 1e-6 }
    }
}

/// YaRN (Peng et al. 2023, arXiv 2309.00071), with the names of published configurations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct YarnConfig {
    /// Times the context is lengthened.
    pub factor: f32,
    /// The context of training, tokens.
    pub original_context: usize,
    /// Turns within the original context above which a frequency stays as it is.
    pub beta_fast: f32,
    /// Turns within the original context below which a frequency is divided by `factor`.
    pub beta_slow: f32,
    /// The factor on cosines and sines.
    pub rotary_factor: f32,
    /// The factor on the scale of attention's scores.
    pub score_factor: f32,
}

/// The settings of a model that attention must fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) rope_theta: f32,
}

impl YarnConfig {
    /// YaRN with the usual bounds of 32 turns and one, and no other factor on anything.
    pub fn new(factor: f32, original_context: usize) -> Self {
        Self { factor, original_context, beta_fast: 32.0, beta_slow: 1.0, rotary_factor: 1.0, score_factor: 1.0 }
    }
}

impl YarnConfig {
    /// Radians a position of each pair of the `head_dim` elements that RoPE turns.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize, theta: f32) -> Result<Vec<f64>> {
        let mut yarn = Yarn::new(self.factor.into(), self.original_context);
        (yarn.beta_fast, yarn.beta_slow) = (self.beta_fast.into(), self.beta_slow.into());
        yarn.inverse_frequencies(head_dim, theta.into())
    }
}

impl AttentionConfig {
    /// Settings that all differ from the defaults.
    #[cfg(feature = "files")]
    pub(super) fn with_every_setting() -> Self {
        Self {
            qkv_bias: true,
            output_bias: true,
            qk_norm: QkNorm::Head,
            rope_pairs: Pairing::Neighbours,
            clip_qkv: Some(1.0),
            window: Some(1),
            full_layers: vec![0],
            yarn: Some(YarnConfig::new(2.0, 1)),
            latent: Some(LatentConfig { q_rank: Some(1), ..LatentConfig::new(1, 2, 1) }),
        }
    }

    /// The width of a head of values.
    pub fn value_dim(&self, head_dim: usize) -> usize {
        self.latent.map_or(head_dim, |latent| latent.value_dim)
    }

    /// The elements of a head that RoPE turns.
    pub fn rope_dim(&self, head_dim: usize) -> usize {
        self.latent.map_or(head_dim, |latent| latent.rope_dim)
    }

    /// The window of layer `layer`, if it has one.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| !self.full_layers.contains(&layer))
    }

    pub(super) fn validate(&self, sizes: Sizes) -> Result<()> {
        let Sizes { layers, heads, kv_heads, head_dim, rope_theta } = sizes;
        if let Some(window) = self.window {
            within("model.attention.window", window as u64, 1, u64::from(u32::MAX))?;
        }
        listed("model.attention.full_layers", &self.full_layers, layers)?;
        if let Some(clip) = self.clip_qkv {
            require(clip > 0.0 && clip.is_finite(), "model.attention.clip_qkv", || {
                format!("expected a number above 0, got {clip}")
            })?;
        }
        if let Some(yarn) = self.yarn {
            let positive = [yarn.factor, yarn.beta_fast, yarn.beta_slow, yarn.rotary_factor, yarn.score_factor];
            let good = positive.iter().all(|x| *x > 0.0 && x.is_finite()) && yarn.factor >= 1.0;
            require(good && yarn.original_context > 0, "model.attention.yarn", || {
                format!("expected a factor >= 1 and numbers above 0, got {yarn:?}")
            })?;
            let width = self.rope_dim(head_dim);
            yarn.inverse_frequencies(width, rope_theta)
                .map_err(|e| Error::config("model.attention.yarn", e.to_string()))?;
        }
        let Some(latent) = self.latent else { return Ok(()) };
        within("model.attention.latent.kv_rank", latent.kv_rank as u64, 1, MAX_WIDTH)?;
        within("model.attention.latent.q_rank", latent.q_rank.unwrap_or(1) as u64, 1, MAX_WIDTH)?;
        within("model.attention.latent.value_dim", latent.value_dim as u64, 1, 256)?;
        within("model.attention.latent.rope_dim", latent.rope_dim as u64, 2, head_dim as u64)?;
        require(latent.rope_dim.is_multiple_of(2), "model.attention.latent.rope_dim", || {
            format!("expected an even number (RoPE turns pairs), got {}", latent.rope_dim)
        })?;
        require(latent.norm_eps > 0.0 && latent.norm_eps <= 1.0, "model.attention.latent.norm_eps", || {
            format!("expected a number above 0 and at most 1, got {}", latent.norm_eps)
        })?;
        require(latent.value_dim <= head_dim, "model.attention.latent.value_dim", || {
            format!("expected at most model.head_dim = {head_dim}, got {}", latent.value_dim)
        })?;
        require(heads == kv_heads, "model.kv_heads", || {
            format!("with model.attention.latent expected model.heads = {heads}, got {kv_heads}")
        })?;
        let plain = !self.qkv_bias && self.qk_norm == QkNorm::None && self.clip_qkv.is_none();
        require(plain, "model.attention.latent", || {
            "expected neither qkv_bias nor qk_norm nor clip_qkv beside it, got one of them".into()
        })
    }
}

/// Checks that `list` names layers, each once, in ascending order.
pub(super) fn listed(field: &str, list: &[usize], layers: usize) -> Result<()> {
    let ascending = list.windows(2).all(|pair| pair[0] < pair[1]);
    require(ascending && list.last().is_none_or(|&last| last < layers), field, || {
        format!("expected layers below {layers} in ascending order, got {list:?}")
    })
}
