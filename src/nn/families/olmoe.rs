//! OLMoE: all heads' queries together are normalised, and their keys; limits on queries, keys and values.

use super::base::{Defaults, balance_loss, base, experts};
use super::fields::Fields;
use super::rope::without_score_factor;
use crate::error::Result;
use crate::nn::config::{ModelConfig, QkNorm};

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults { norm_eps: 1e-5, ..Defaults::default() })?;
    without_score_factor(&mut config.attention.yarn);
    let bias = fields.flag("attention_bias", false)?;
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    config.attention.qk_norm = QkNorm::Whole;
    config.attention.clip_qkv = fields.number("clip_qkv")?.map(|clip| clip as f32);
    if config.attention.clip_qkv.is_some_and(|clip| clip <= 0.0) {
        return Err(fields.bad("clip_qkv", "expected a number above 0, got one that is not"));
    }
    let width = config.d_dense;
    experts(fields, &mut config, &["num_experts", "num_local_experts"], Some(width), Vec::new())?;
    config.moe.renormalize = fields.flag("norm_topk_prob", false)?;
    config.moe.balance_loss = balance_loss(fields, 0.01)?;
    Ok(config)
}
