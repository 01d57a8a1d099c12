//! Families of published models: each one's `config.json` as a [`ModelConfig`], and its tensors' names and shapes.
//!
//! ```
//! use sdmoe::nn::families::FamilyModel;
//!
//! let text = r#"{"model_type": "mixtral", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2,
//!     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 80, "num_local_experts": 8,
//!     "num_experts_per_tok": 2, "max_position_embeddings": 256, "rope_theta": 1e6, "use_cache": true}"#;
//! let model = FamilyModel::parse(text)?;
//! assert_eq!((model.config.moe.experts, model.config.moe.renormalize), (8, true));
//! assert_eq!(model.ignored, ["use_cache"]);
//! # Ok::<(), sdmoe::Error>(())
//! ```
//!
//! Fields are read as published (`rope_theta`, `rope_scaling`, `torch_dtype`) and as transformers 5 writes them
//! (`rope_parameters`, `dtype`, `num_local_experts`). A field that changes what the model computes and is unknown, not
//! supported, or contradicts another one is an error that names it. A family is one file here: what its fields mean. Its
//! tensors are in `tensors.rs`, one description for reading and writing. Nothing here needs a device or a file.

mod base;
mod deepseek;
mod fields;
mod llama;
mod mixtral;
mod olmoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod rope;
mod tensors;
mod window;
mod write;

use serde_json::Value;

use self::fields::{Fields, brief};
pub(crate) use self::tensors::HEAD;
pub use self::tensors::{HubTensor, Layout, Parameter, Part, Piece, TensorMap};
use crate::error::{Error, Result};
use crate::nn::config::ModelConfig;

/// The longest context that a config may name, tokens; 2^40 where sizes have 64 bits.
const MAX_CONTEXT: usize = 1 << (usize::BITS / 2 + 8);

/// Models whose `config.json` and tensors have the same meaning; the name is that of `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// Qwen1.5-MoE, Qwen2-57B-A14B.
    Qwen2Moe,
    /// Qwen3-30B-A3B, Qwen3-235B-A22B.
    Qwen3Moe,
    /// Mixtral 8x7B, 8x22B.
    Mixtral,
    /// OLMoE-1B-7B.
    Olmoe,
    /// DeepSeek-V2, DeepSeek-V2-Lite.
    DeepseekV2,
    /// DeepSeek-V3, DeepSeek-R1.
    DeepseekV3,
    /// Llama, and what has its shape; dense.
    Llama,
    /// Qwen1.5, Qwen2, Qwen2.5; dense.
    Qwen2,
    /// Qwen3; dense.
    Qwen3,
}

impl Family {
    /// All families.
    pub const ALL: [Family; 9] = [
        Family::Qwen2Moe,
        Family::Qwen3Moe,
        Family::Mixtral,
        Family::Olmoe,
        Family::DeepseekV2,
        Family::DeepseekV3,
        Family::Llama,
        Family::Qwen2,
        Family::Qwen3,
    ];

    /// Its `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Qwen2Moe => "qwen2_moe",
            Family::Qwen3Moe => "qwen3_moe",
            Family::Mixtral => "mixtral",
            Family::Olmoe => "olmoe",
            Family::DeepseekV2 => "deepseek_v2",
            Family::DeepseekV3 => "deepseek_v3",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// Its class in transformers.
    fn class(self) -> &'static str {
        match self {
            Family::Qwen2Moe => "Qwen2MoeForCausalLM",
            Family::Qwen3Moe => "Qwen3MoeForCausalLM",
            Family::Mixtral => "MixtralForCausalLM",
            Family::Olmoe => "OlmoeForCausalLM",
            Family::DeepseekV2 => "DeepseekV2ForCausalLM",
            Family::DeepseekV3 => "DeepseekV3ForCausalLM",
            Family::Llama => "LlamaForCausalLM",
            Family::Qwen2 => "Qwen2ForCausalLM",
            Family::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The family whose `model_type` is `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Whether its layers may have experts.
    pub fn has_experts(self) -> bool {
        !matches!(self, Family::Llama | Family::Qwen2 | Family::Qwen3)
    }

    /// Its settings, from the fields that have not been read yet.
    fn config(self, fields: &mut Fields) -> Result<ModelConfig> {
        match self {
            Family::Qwen2Moe => qwen2_moe::config(fields),
            Family::Qwen3Moe => qwen3_moe::config(fields),
            Family::Mixtral => mixtral::config(fields),
            Family::Olmoe => olmoe::config(fields),
            Family::DeepseekV2 => deepseek::v2(fields),
            Family::DeepseekV3 => deepseek::v3(fields),
            Family::Llama => llama::config(fields),
            Family::Qwen2 => qwen2::config(fields),
            Family::Qwen3 => qwen3::config(fields),
        }
    }
}

/// The content of a `config.json`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FamilyModel {
    /// The family.
    pub family: Family,
    /// The model. It is what the text says; whether this program can run it, [`ModelConfig::validate`] tells.
    pub config: ModelConfig,
    /// The longest sequence that the model is made for, tokens.
    pub context: usize,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The type of the stored weights, in PyTorch's words (`bfloat16`).
    pub dtype: Option<String>,
    /// Layers after the model's own that predict later tokens, which no forward pass uses (DeepSeek-V3).
    pub later_layers: usize,
    /// Fields that are known to change nothing of a forward pass, in alphabetical order.
    pub ignored: Vec<String>,
    /// Fields that are not known and do not seem to change a forward pass.
    pub unknown: Vec<String>,
}

impl FamilyModel {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names the field that is missing, not supported, unknown or contradicts another one.
    pub fn parse(text: &str) -> Result<Self> {
        let mut fields = Fields::parse(text)?;
        let known = || Family::ALL.map(Family::name).join(", ");
        let name = fields.text("model_type")?;
        let name =
            name.ok_or_else(|| Error::config("model_type", format!("expected one of {}, found none", known())))?;
        let family = Family::by_name(&name).ok_or_else(|| {
            Error::config("model_type", format!("expected one of {}, got `{}`", known(), brief(&Value::from(name))))
        })?;
        for class in fields.texts("architectures")?.unwrap_or_default() {
            if !class.ends_with("ForCausalLM") {
                let message = format!("expected one that predicts the next token (..ForCausalLM), got `{class}`");
                return Err(Error::config("architectures", message));
            }
        }
        let context = fields.size("max_position_embeddings", MAX_CONTEXT)?;
        let bos = fields.ids("bos_token_id")?.first().copied();
        let eos = fields.ids("eos_token_id")?;
        let dtype = fields.agreed(&["dtype", "torch_dtype"], Fields::text)?;
        let later_layers = if family == Family::DeepseekV3 {
            // Published models have one, and some name no number.
            fields.count("num_nextn_predict_layers")?.unwrap_or(1).min(base::MAX_LAYERS)
        } else {
            0
        };
        fields.context = context;
        let config = family.config(&mut fields)?;
        base::consistent(&config)?;
        let (ignored, unknown) = fields.finish()?;
        Ok(Self { family, config, context, bos, eos, dtype, later_layers, ignored, unknown })
    }
}
