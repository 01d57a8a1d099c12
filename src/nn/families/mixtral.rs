//! Mixtral: experts in all layers, weights renormalised over the chosen ones, a sliding window where there is one.

use super::base::{Defaults, balance_loss, base, experts};
use super::fields::Fields;
use super::rope::without_score_factor;
use super::window::everywhere;
use crate::error::Result;
use crate::nn::config::ModelConfig;

pub(super) fn config(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = base(fields, Defaults { rope_theta: 1e6, norm_eps: 1e-5 })?;
    without_score_factor(&mut config.attention.yarn);
    everywhere(fields, &mut config)?;
    let width = config.d_dense;
    experts(fields, &mut config, &["num_local_experts", "num_experts"], Some(width), Vec::new())?;
    config.moe.renormalize = true;
    config.moe.balance_loss = balance_loss(fields, 0.001)?;
    Ok(config)
}
