//! Qwen3-MoE: the attention of Qwen3, no shared expert, weights renormalised where `norm_topk_prob` is set.

use super::base::{Defaults, balance_loss, base, experts, sparse_steps};
use super::fields::Fields;
use super::qwen3::attention;
use super::window::{Windowed, qwen};
use crate::error::Result;
use crate::nn::config::ModelConfig;

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults::default())?;
    attention(fields, &mut config)?;
    qwen(fields, &mut config, Windowed::All)?;
    let dense = sparse_steps(fields, config.layers)?;
    experts(fields, &mut config, &["num_experts", "num_local_experts"], None, dense)?;
    config.moe.renormalize = fields.flag("norm_topk_prob", false)?;
    config.moe.balance_loss = balance_loss(fields, 0.001)?;
    Ok(config)
}
