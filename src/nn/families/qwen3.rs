//! Qwen3: dense; the queries and keys of each head are normalised.

use super::base::{Defaults, base};
use super::fields::Fields;
use super::rope::without_score_factor;
use super::window::{Windowed, qwen};
use crate::error::Result;
use crate::nn::config::{ModelConfig, QkNorm};

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults::default())?;
    attention(fields, &mut config)?;
    qwen(fields, &mut config, Windowed::From)?;
    Ok(config)
}

/// The attention of Qwen3, with experts and without.
pub(super) fn attention(fields: &mut Fields, config: &mut ModelConfig) -> Result<()> {
    without_score_factor(&mut config.attention.yarn);
    config.attention.qk_norm = QkNorm::Head;
    let bias = fields.flag("attention_bias", false)?;
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    Ok(())
}
