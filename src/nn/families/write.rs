//! The `config.json` of a model, in the style of the hub.

use serde_json::{Map, Value, json};

use super::{Family, FamilyModel};
use crate::error::{Error, Result};
use crate::nn::config::{BalanceScope, ModelConfig, MoeConfig, Pairing, YarnConfig};

impl FamilyModel {
    /// A model of a family with sequences of up to `context` tokens.
    ///
    /// # Errors
    /// [`Error::Config`] names a setting that no model of the family has.
    pub fn new(family: Family, config: &ModelConfig, context: usize) -> Result<Self> {
        let dtype = Some("float32".to_owned());
        let (ignored, unknown, eos) = (Vec::new(), Vec::new(), Vec::new());
        let config = config.clone();
        let model = Self { family, config, context, bos: None, eos, dtype, later_layers: 0, ignored, unknown };
        model.to_json()?;
        Ok(model)
    }

    /// The text of its `config.json`, as published models have it, which both older and newer transformers read.
    ///
    /// # Errors
    /// [`Error::Config`] names a setting that no model of the family has.
    pub fn to_json(&self) -> Result<String> {
        let text = format!("{:#}\n", Value::Object(self.fields()));
        self.require_described(&Self::parse(&text)?)?;
        Ok(text)
    }

    /// As [`FamilyModel::to_json`], with all that `source` says, the text of the `config.json` of the same model: only the type
    /// of the weights is this one's, and layers that predict later tokens are none, because no parameter is theirs.
    ///
    /// # Errors
    /// [`Error::Config`] names what is wrong with `source`, or a setting in which it describes another model.
    pub fn to_json_like(&self, source: &str) -> Result<String> {
        self.require_described(&Self::parse(source)?)?;
        // What was parsed is an object.
        let mut fields: Map<String, Value> =
            serde_json::from_str(source).map_err(|e| Error::config("config.json", e.to_string()))?;
        let dtype = json!(self.dtype.as_deref().unwrap_or("float32"));
        let names = ["dtype", "torch_dtype"];
        for name in names.into_iter().filter(|name| fields.contains_key(*name)).collect::<Vec<_>>() {
            fields.insert(name.to_owned(), dtype.clone());
        }
        if !names.iter().any(|name| fields.contains_key(*name)) {
            fields.insert("torch_dtype".to_owned(), dtype);
        }
        if self.later_layers > 0 {
            fields.insert("num_nextn_predict_layers".to_owned(), json!(0));
        }
        Ok(format!("{:#}\n", Value::Object(fields)))
    }

    /// Checks that another description is that of this model, as far as a forward pass depends on it.
    fn require_described(&self, other: &Self) -> Result<()> {
        let (wanted, got) = (compared(&self.config), compared(&other.config));
        if wanted == got {
            return Ok(());
        }
        let value = |config: &ModelConfig| serde_json::to_value(config).unwrap_or_default();
        let (field, own, there) = difference("model", &value(&wanted), &value(&got))
            .unwrap_or_else(|| ("model".into(), "something else".into(), String::new()));
        let family = other.family.name();
        Err(Error::config(field, format!("a {family} model would have {there} in its place, got {own}")))
    }

    fn fields(&self) -> Map<String, Value> {
        let (c, moe, family) = (&self.config, &self.config.moe, self.family);
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        let with_experts = !c.moe_layers().is_empty();
        set("architectures", json!([family.class()]));
        set("model_type", json!(family.name()));
        set("torch_dtype", json!(self.dtype.as_deref().unwrap_or("float32")));
        set("bos_token_id", json!(self.bos));
        set("eos_token_id", if let [one] = self.eos[..] { json!(one) } else { json!(some(&self.eos)) });
        set("max_position_embeddings", json!(self.context));
        set("vocab_size", json!(c.vocab));
        set("hidden_size", json!(c.d_model));
        set("hidden_act", json!("silu"));
        set("num_hidden_layers", json!(c.layers));
        set("num_attention_heads", json!(c.heads));
        set("num_key_value_heads", json!(c.kv_heads));
        set("rms_norm_eps", number(c.norm_eps));
        set("rope_theta", number(c.rope_theta));
        set("tie_word_embeddings", json!(c.tied_head));
        set("attention_dropout", json!(0.0));
        set("initializer_range", json!(0.02));
        set("use_cache", json!(true));
        let latent = c.attention.latent;
        let yarn = c.attention.yarn.map(|yarn| rope_scaling(&yarn, latent.is_some()));
        set("rope_scaling", yarn.unwrap_or(Value::Null));
        // Where all layers have experts most families still name a width of dense ones.
        let alone = matches!(family, Family::Mixtral | Family::Olmoe);
        set("intermediate_size", json!(if alone || c.dense_layers.is_empty() { moe.d_expert } else { c.d_dense }));
        if latent.is_none() {
            set("head_dim", json!(c.head_dim));
        }
        if !matches!(family, Family::Mixtral | Family::Qwen2 | Family::Qwen2Moe) {
            set("attention_bias", json!(c.attention.output_bias));
        }
        match family {
            Family::Mixtral => set("sliding_window", json!(c.attention.window)),
            Family::Qwen2Moe | Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => {
                set("use_sliding_window", json!(c.attention.window.is_some()));
                set("sliding_window", json!(c.attention.window));
                set("max_window_layers", json!(c.layers));
                if family != Family::Qwen3Moe {
                    let kind =
                        |l| if c.attention.window_of(l).is_some() { "sliding_attention" } else { "full_attention" };
                    set("layer_types", (0..c.layers).map(kind).collect());
                }
            }
            Family::Olmoe => set("clip_qkv", json!(c.attention.clip_qkv.map(number))),
            Family::Llama => set("mlp_bias", json!(false)),
            Family::DeepseekV2 | Family::DeepseekV3 => {}
        }
        if let Some(latent) = latent {
            set("q_lora_rank", json!(latent.q_rank));
            set("kv_lora_rank", json!(latent.kv_rank));
            set("qk_rope_head_dim", json!(latent.rope_dim));
            set("qk_nope_head_dim", json!(c.head_dim.saturating_sub(latent.rope_dim)));
            set("v_head_dim", json!(latent.value_dim));
        }
        if !family.has_experts() {
            return fields;
        }
        let count = if family == Family::Mixtral { "num_local_experts" } else { "num_experts" };
        let deepseek = matches!(family, Family::DeepseekV2 | Family::DeepseekV3);
        set(if deepseek { "n_routed_experts" } else { count }, json!(moe.experts));
        set("num_experts_per_tok", json!(moe.top_k));
        if !alone {
            set("moe_intermediate_size", json!(moe.d_expert));
        }
        if family != Family::Mixtral {
            set("norm_topk_prob", json!(moe.renormalize));
        }
        if !deepseek {
            set("router_aux_loss_coef", number(moe.balance_loss));
            set("output_router_logits", json!(false));
        }
        match family {
            Family::Qwen2Moe | Family::Qwen3Moe => {
                set("mlp_only_layers", json!(c.dense_layers));
                set("decoder_sparse_step", json!(1));
                if family == Family::Qwen2Moe {
                    set("qkv_bias", json!(c.attention.qkv_bias));
                    set("shared_expert_intermediate_size", json!(moe.d_shared));
                }
            }
            Family::DeepseekV2 | Family::DeepseekV3 => {
                set("first_k_dense_replace", json!(c.dense_layers.len()));
                set("moe_layer_freq", json!(1));
                let shared = moe.d_shared.checked_div(moe.d_expert).unwrap_or(0);
                set("n_shared_experts", if shared > 0 && with_experts { json!(shared) } else { Value::Null });
                set("routed_scaling_factor", number(moe.scaling));
                set("n_group", json!(moe.groups));
                set("topk_group", json!(moe.groups_kept));
                if family == Family::DeepseekV3 {
                    set("scoring_func", json!("sigmoid"));
                    set("topk_method", json!("noaux_tc"));
                    set("num_nextn_predict_layers", json!(0));
                    set("rope_interleave", json!(c.attention.rope_pairs == Pairing::Neighbours));
                } else {
                    set("scoring_func", json!("softmax"));
                    let greedy = if moe.groups > 1 { "group_limited_greedy" } else { "greedy" };
                    set("topk_method", json!(greedy));
                }
            }
            _ => {}
        }
        fields
    }
}

/// None for an empty list.
fn some(list: &[u32]) -> Option<&[u32]> {
    (!list.is_empty()).then_some(list)
}

/// A number with the fewest digits that give the same f32: 1e-6, and not what f64 makes of it.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// YaRN's settings: `attention_factor` is the factor in cosines and sines, `mscale_all_dim` gives DeepSeek the one on scores.
fn rope_scaling(yarn: &YarnConfig, deepseek: bool) -> Value {
    let mut fields = json!({
        "type": "yarn", "rope_type": "yarn", "factor": number(yarn.factor),
        "original_max_position_embeddings": yarn.original_context, "attention_factor": number(yarn.rotary_factor),
        "beta_fast": number(yarn.beta_fast), "beta_slow": number(yarn.beta_slow),
    });
    let (score, log) = (f64::from(yarn.score_factor), f64::from(yarn.factor).ln());
    if deepseek && score != 1.0 && log > 0.0 {
        fields["mscale_all_dim"] = json!((score.sqrt() - 1.0) / (0.1 * log));
    }
    fields
}

/// The settings without those that no forward pass depends on, or that families lack because only training has them.
fn compared(config: &ModelConfig) -> ModelConfig {
    let mut c = config.clone();
    c.moe.choice_bias |= c.moe.balance_bias > 0.0;
    (c.moe.balance_bias, c.moe.balance_loss, c.moe.z_loss, c.moe.balance_scope) = (0.0, 0.0, 0.0, BalanceScope::Layer);
    if c.dense_layers.is_empty() {
        c.d_dense = 0;
    }
    if c.moe_layers().is_empty() {
        c.moe = MoeConfig::default();
    }
    c
}

/// The first setting in which two configs differ, with both values.
fn difference(path: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    if a == b {
        return None;
    }
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
        let get = |map: &Map<String, Value>, name: &str| map.get(name).cloned().unwrap_or_default();
        return names.into_iter().find_map(|name| difference(&format!("{path}.{name}"), &get(a, name), &get(b, name)));
    }
    Some((path.to_owned(), a.to_string(), b.to_string()))
}
