//! DeepSeek-V2 and V3: latent attention, shared experts without a gate, dense layers first. They differ in the router.

use serde_json::Value;

use super::base::{Defaults, MAX_LAYERS, MAX_SIZE, experts, with_heads};
use super::fields::Fields;
use crate::error::Result;
use crate::nn::config::{GroupScore, LatentConfig, ModelConfig, Pairing, Score, SharedGate};

/// Added to the mean square in the norms of the narrow projections, whatever `rms_norm_eps` says.
const LATENT_EPS: f32 = 1e-6;

/// DeepSeek-V2: softmax scores; groups by their largest score where `topk_method` is `group_limited_greedy`.
pub(super) fn v2(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = shared(fields, 0)?;
    fields.only("scoring_func", "softmax")?;
    // DeepSeek's own code renormalises where it is set, transformers does not.
    fields.only("norm_topk_prob", false)?;
    let groups = groups(fields)?;
    match fields.text("topk_method")?.as_deref() {
        None | Some("greedy") => {}
        Some("group_limited_greedy") => (config.moe.groups, config.moe.groups_kept) = groups,
        Some(other) => {
            let message = format!("only `greedy` and `group_limited_greedy` are supported, got `{other}`");
            return Err(fields.bad("topk_method", message));
        }
    }
    Ok(config)
}

/// DeepSeek-V3: sigmoid scores, a bias that only the choice sees, groups by the sum of their two largest choices.
pub(super) fn v3(fields: &mut Fields) -> Result<ModelConfig> {
    let mut config = shared(fields, 3)?;
    fields.only("scoring_func", "sigmoid")?;
    fields.only("topk_method", "noaux_tc")?;
    config.moe.score = Score::Sigmoid;
    config.moe.choice_bias = true;
    config.moe.renormalize = fields.flag("norm_topk_prob", true)?;
    (config.moe.groups, config.moe.groups_kept) = groups(fields)?;
    if config.moe.groups > 1 {
        config.moe.group_score = GroupScore::TwoLargest;
        if config.moe.experts < 2 * config.moe.groups {
            let message = format!("expected groups of at least two of {} experts", config.moe.experts);
            return Err(fields.bad("n_group", format!("{message}, got {} groups", config.moe.groups)));
        }
    }
    Ok(config)
}

/// The number of groups, and of those that a token's experts may lie in.
fn groups(fields: &mut Fields) -> Result<(usize, usize)> {
    let groups = fields.optional("n_group", MAX_SIZE)?.unwrap_or(1);
    Ok((groups, fields.optional("topk_group", MAX_SIZE)?.unwrap_or(groups)))
}

/// The settings that both have; `dense` layers come first where the config names no number.
fn shared(fields: &mut Fields, dense: usize) -> Result<ModelConfig> {
    let heads = fields.size("num_attention_heads", MAX_SIZE)?;
    let (nope, rope) = (fields.size("qk_nope_head_dim", MAX_SIZE)?, fields.size("qk_rope_head_dim", MAX_SIZE)?);
    // transformers writes the width of the part with position as `head_dim`, and the whole as `qk_head_dim`.
    fields.only("head_dim", rope)?;
    fields.only("qk_head_dim", nope + rope)?;
    fields.only("attention_bias", false)?;
    fields.only("mlp_bias", false)?;
    fields.only("num_key_value_heads", heads)?;
    fields.only("moe_layer_freq", 1)?;
    let d_model = fields.size("hidden_size", MAX_SIZE)?;
    let mut config = with_heads(fields, Defaults::default(), d_model, heads, nope + rope)?;
    let latent = LatentConfig {
        q_rank: fields.optional("q_lora_rank", MAX_SIZE)?,
        kv_rank: fields.size("kv_lora_rank", MAX_SIZE)?,
        rope_dim: rope,
        value_dim: fields.size("v_head_dim", MAX_SIZE)?,
        norm_eps: LATENT_EPS,
    };
    config.attention.latent = Some(latent);
    let halves = !fields.flag("rope_interleave", true)?;
    config.attention.rope_pairs = if halves { Pairing::Halves } else { Pairing::Neighbours };
    let dense = fields.count("first_k_dense_replace")?.unwrap_or(dense);
    if dense > config.layers.min(MAX_LAYERS) {
        let message = format!("expected at most num_hidden_layers = {}, got {dense}", config.layers);
        return Err(fields.bad("first_k_dense_replace", message));
    }
    let d_expert = fields.size("moe_intermediate_size", MAX_SIZE)?;
    let names = ["n_routed_experts", "num_local_experts", "num_experts"];
    experts(fields, &mut config, &names, Some(d_expert), (0..dense).collect())?;
    let shared = fields.count("n_shared_experts")?.unwrap_or(0);
    config.moe.d_shared = shared.saturating_mul(d_expert);
    if config.moe.d_shared > MAX_SIZE {
        return Err(
            fields.bad("n_shared_experts", format!("expected a width of at most {MAX_SIZE} together, got {shared}"))
        );
    }
    config.moe.shared_gate = SharedGate::None;
    config.moe.scaling = fields.number("routed_scaling_factor")?.unwrap_or(1.0) as f32;
    if config.moe.scaling < 0.0 {
        let message = format!("expected a number of at least 0, got {}", config.moe.scaling);
        return Err(fields.bad("routed_scaling_factor", message));
    }
    // transformers has no load-balance loss for these; a weight of it would be another computation.
    fields.only("router_aux_loss_coef", Value::from(0.0))?;
    Ok(config)
}
