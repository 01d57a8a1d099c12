//! Llama: dense, grouped-query attention, with biases where `attention_bias` is set.

use super::base::{Defaults, base};
use super::fields::Fields;
use super::rope::without_score_factor;
use crate::error::Result;
use crate::nn::config::ModelConfig;

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults::default())?;
    without_score_factor(&mut config.attention.yarn);
    let bias = fields.flag("attention_bias", false)?;
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    fields.only("mlp_bias", false)?;
    Ok(config)
}
