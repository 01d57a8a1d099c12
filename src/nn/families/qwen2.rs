//! Qwen2: dense; queries, keys and values have biases, the output has none.

use super::base::{Defaults, base};
use super::fields::Fields;
use super::rope::without_score_factor;
use super::window::{Windowed, qwen};
use crate::error::Result;
use crate::nn::config::ModelConfig;

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults::default())?;
    without_score_factor(&mut config.attention.yarn);
    config.attention.qkv_bias = true;
    qwen(fields, &mut config, Windowed::From)?;
    Ok(config)
}
