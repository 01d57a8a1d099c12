//! The fields that the families' configs have in common.

use super::fields::Fields;
use super::rope::rope;
use crate::error::{Error, Result};
use crate::nn::config::{AttentionConfig, BalanceScope, GroupScore, ModelConfig, MoeConfig, Score, SharedGate};

/// The most decoder layers.
pub(super) const MAX_LAYERS: usize = 1 << 12;
/// The largest width of anything, and the most tokens and heads.
pub(super) const MAX_SIZE: usize = 1 << 20;
/// The most experts of a layer.
const MAX_EXPERTS: usize = 1 << 10;
/// The most experts of all layers: four times DeepSeek-V3's. Each has names in tables.
const MAX_ALL_EXPERTS: usize = 1 << 16;

/// The values of a family where its config names none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub rope_theta: f64,
    pub norm_eps: f64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { rope_theta: 1e4, norm_eps: 1e-6 }
    }
}

/// A model without experts: sizes, RoPE, norms, head. All layers are dense, of the width `intermediate_size`.
pub(super) fn base(fields: &mut Fields, defaults: Defaults) -> Result<ModelConfig> {
    let heads = fields.size("num_attention_heads", MAX_SIZE)?;
    let d_model = fields.size("hidden_size", MAX_SIZE)?;
    let head_dim = match fields.optional("head_dim", MAX_SIZE)? {
        Some(head_dim) => head_dim,
        None if d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let message =
                format!("expected a divisor of hidden_size = {d_model}, because there is no head_dim, got {heads}");
            return Err(fields.bad("num_attention_heads", message));
        }
    };
    with_heads(fields, defaults, d_model, heads, head_dim)
}

/// As [`base`], with sizes of heads that are known.
pub(super) fn with_heads(
    fields: &mut Fields,
    defaults: Defaults,
    d_model: usize,
    heads: usize,
    head_dim: usize,
) -> Result<ModelConfig> {
    let layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
    fields.only("hidden_act", "silu")?;
    let (rope_theta, yarn) = rope(fields, defaults.rope_theta)?;
    Ok(ModelConfig {
        vocab: fields.size("vocab_size", MAX_SIZE)?,
        d_model,
        layers,
        heads,
        kv_heads: fields.optional("num_key_value_heads", MAX_SIZE)?.unwrap_or(heads),
        head_dim,
        rope_theta,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(defaults.norm_eps) as f32,
        tied_head: fields.flag("tie_word_embeddings", false)?,
        dense_layers: (0..layers).collect(),
        d_dense: fields.size("intermediate_size", MAX_SIZE)?,
        attention: AttentionConfig { yarn, ..AttentionConfig::default() },
        moe: no_experts(),
    })
}

/// Settings of experts for a model that has none.
fn no_experts() -> MoeConfig {
    MoeConfig {
        experts: 1,
        top_k: 1,
        d_expert: 1,
        d_shared: 0,
        shared_gate: SharedGate::None,
        score: Score::Softmax,
        renormalize: false,
        scaling: 1.0,
        balance_loss: 0.0,
        z_loss: 0.0,
        balance_bias: 0.0,
        balance_scope: BalanceScope::Layer,
        choice_bias: false,
        groups: 1,
        groups_kept: 1,
        group_score: GroupScore::Largest,
    }
}

/// Experts in the layers that are not in `dense_layers`, with softmax scores and transformers' load-balance loss; `names` are
/// the fields that may give their number, and `width` their hidden width, `moe_intermediate_size` where none is known.
pub(super) fn experts(
    fields: &mut Fields,
    config: &mut ModelConfig,
    names: &[&str],
    width: Option<usize>,
    dense_layers: Vec<usize>,
) -> Result<()> {
    let number = fields.agreed(names, |fields, name| fields.optional(name, MAX_EXPERTS))?;
    let missing = || Error::config(names[0], format!("expected a whole number from 1 to {MAX_EXPERTS}, found none"));
    let experts = number.ok_or_else(missing)?;
    config.dense_layers = dense_layers;
    if config.dense_layers.is_empty() {
        config.d_dense = 0;
    }
    let all = experts * (config.layers - config.dense_layers.len());
    if all > MAX_ALL_EXPERTS {
        let message = format!("expected at most {MAX_ALL_EXPERTS} experts in all layers together, got {all}");
        return Err(fields.bad(names[0], message));
    }
    config.moe.experts = experts;
    config.moe.top_k = fields.size("num_experts_per_tok", MAX_EXPERTS)?;
    config.moe.d_expert = width.map_or_else(|| fields.size("moe_intermediate_size", MAX_SIZE), Ok)?;
    config.moe.balance_scope = BalanceScope::Model;
    Ok(())
}

/// The weight of transformers' load-balance loss.
pub(super) fn balance_loss(fields: &mut Fields, default: f64) -> Result<f32> {
    let weight = fields.number("router_aux_loss_coef")?.unwrap_or(default);
    if weight < 0.0 {
        return Err(fields.bad("router_aux_loss_coef", format!("expected a number of at least 0, got {weight}")));
    }
    Ok(weight as f32)
}

/// The dense layers of the Qwen families: those that `mlp_only_layers` names, and all but each `decoder_sparse_step`-th.
pub(super) fn sparse_steps(fields: &mut Fields, layers: usize) -> Result<Vec<usize>> {
    let step = fields.optional("decoder_sparse_step", MAX_LAYERS)?.unwrap_or(1);
    let named = fields.whole_numbers("mlp_only_layers")?;
    if let Some(beyond) = named.iter().find(|l| **l >= layers) {
        let message = format!("expected layers below num_hidden_layers = {layers}, got {beyond}");
        return Err(fields.bad("mlp_only_layers", message));
    }
    Ok((0..layers).filter(|l| named.contains(l) || !(l + 1).is_multiple_of(step)).collect())
}

/// Checks what several fields together say.
pub(super) fn consistent(config: &ModelConfig) -> Result<()> {
    let (heads, kv_heads, head_dim, moe) = (config.heads, config.kv_heads, config.head_dim, &config.moe);
    let bad = |field: &str, message: String| Err(Error::config(field, message));
    if !heads.is_multiple_of(kv_heads) {
        return bad(
            "num_key_value_heads",
            format!("expected a divisor of num_attention_heads = {heads}, got {kv_heads}"),
        );
    }
    if !config.attention.rope_dim(head_dim).is_multiple_of(2) {
        return bad("head_dim", format!("expected an even number (RoPE turns pairs), got {head_dim}"));
    }
    if !(config.norm_eps > 0.0 && config.norm_eps <= 1.0) {
        return bad("rms_norm_eps", format!("expected a number above 0 and at most 1, got {}", config.norm_eps));
    }
    if moe.top_k > moe.experts {
        let message = format!("expected at most the number of experts, {}, got {}", moe.experts, moe.top_k);
        return bad("num_experts_per_tok", message);
    }
    if !moe.experts.is_multiple_of(moe.groups) {
        return bad(
            "n_group",
            format!("expected a divisor of the number of experts, {}, got {}", moe.experts, moe.groups),
        );
    }
    if moe.groups_kept > moe.groups {
        return bad("topk_group", format!("expected at most n_group = {}, got {}", moe.groups, moe.groups_kept));
    }
    let reach = moe.experts / moe.groups * moe.groups_kept;
    if moe.top_k > reach {
        let message = format!("expected at most the {reach} experts of topk_group groups, got {}", moe.top_k);
        return bad("num_experts_per_tok", message);
    }
    Ok(())
}
