//! Qwen2-MoE: the attention of Qwen2, and a shared expert that is multiplied by a sigmoid.

use super::base::{Defaults, MAX_SIZE, balance_loss, base, experts, sparse_steps};
use super::fields::Fields;
use super::rope::without_score_factor;
use super::window::{Windowed, qwen};
use crate::error::Result;
use crate::nn::config::{ModelConfig, SharedGate};

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults::default())?;
    without_score_factor(&mut config.attention.yarn);
    config.attention.qkv_bias = fields.flag("qkv_bias", true)?;
    qwen(fields, &mut config, Windowed::OddBefore)?;
    let dense = sparse_steps(fields, config.layers)?;
    experts(fields, &mut config, &["num_experts", "num_local_experts"], None, dense)?;
    config.moe.renormalize = fields.flag("norm_topk_prob", false)?;
    config.moe.d_shared = fields.size("shared_expert_intermediate_size", MAX_SIZE)?;
    config.moe.shared_gate = SharedGate::Sigmoid;
    config.moe.balance_loss = balance_loss(fields, 0.001)?;
    Ok(config)
}
