//! The fields of a `config.json`: each is taken once, with its type and its bounds checked. What nobody has taken in the end
//! is harmless, unknown, or an error.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};

/// Fields that no forward pass depends on.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "aux_loss_alpha",
    "chunk_size_feed_forward",
    "do_sample",
    "ep_size",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "num_beams",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "seq_aux",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Fields that only training depends on: dropout and noise, of which this program has none.
const TRAINING: &[&str] =
    &["attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop", "router_jitter_noise"];

/// Parts of names that belong to what a forward pass computes.
const COMPUTES: &[&str] = &[
    "attention",
    "attn",
    "bias",
    "cap",
    "clip",
    "conv",
    "depth",
    "dim",
    "embed",
    "eps",
    "expert",
    "freq",
    "gate",
    "gating",
    "group",
    "head",
    "interleave",
    "latent",
    "layer",
    "lora",
    "mask",
    "mamba",
    "mlp",
    "moe",
    "mult",
    "norm",
    "pos",
    "quant",
    "rank",
    "resid",
    "rope",
    "rotary",
    "rout",
    "scal",
    "sink",
    "size",
    "skip",
    "slid",
    "softmax",
    "sparse",
    "ssm",
    "tie",
    "topk",
    "width",
    "window",
];

/// The longest part of a value that an error shows, characters.
const SHOWN: usize = 80;

/// A value on one short line without control characters.
pub(super) fn brief(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut letters = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut part: String = letters.by_ref().take(SHOWN).collect();
    if letters.next().is_some() {
        part.push('\u{2026}');
    }
    part
}

/// The fields that nobody has taken yet. A field that is null is one that is not there, as in transformers.
#[derive(Debug)]
pub(super) struct Fields {
    left: BTreeMap<String, Value>,
    /// Stands before a field's name in errors.
    within: &'static str,
    /// The model's longest sequence, tokens.
    pub context: usize,
}

impl Fields {
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Error::config("config.json", format!("expected a JSON object: {e}")))?;
        Self::of("", "config.json", value)
    }

    /// The fields of the object `value`, which is called `name`.
    pub fn of(within: &'static str, name: &str, value: Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::config(name, format!("expected an object, got {}", brief(&value))));
        };
        let left = map.into_iter().filter(|(_, value)| !value.is_null()).collect();
        Ok(Self { left, within, context: 0 })
    }

    /// An error about a field.
    pub fn bad(&self, name: &str, message: impl Into<String>) -> Error {
        Error::config(format!("{}{name}", self.within), message)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    fn expected(&self, name: &str, wanted: &str, got: &Value) -> Error {
        self.bad(name, format!("expected {wanted}, got {}", brief(got)))
    }

    /// A whole number, 0 included.
    pub fn count(&mut self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or_else(|| self.expected(name, "a whole number of at least 0", &value))
    }

    /// A whole number from 1 to `most`, where there is one.
    pub fn optional(&mut self, name: &str, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=most).contains(n));
        number.map(Some).ok_or_else(|| self.expected(name, &format!("a whole number from 1 to {most}"), &value))
    }

    /// A whole number from 1 to `most`, which must be there.
    pub fn size(&mut self, name: &str, most: usize) -> Result<usize> {
        let missing = self.bad(name, format!("expected a whole number from 1 to {most}, found none"));
        self.optional(name, most)?.ok_or(missing)
    }

    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.expected(name, "true or false", &other)),
        }
    }

    /// A finite number of f32's range.
    pub fn number(&mut self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|x| (*x as f32).is_finite());
        number.map(Some).ok_or_else(|| self.expected(name, "a number", &value))
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.expected(name, "a text", &other)),
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(|x| Some(x.as_str()?.to_owned())).collect());
        list.map(Some).ok_or_else(|| self.expected(name, "a list of texts", &value))
    }

    /// A list of whole numbers, empty where there is none.
    pub fn whole_numbers(&mut self, name: &str) -> Result<Vec<usize>> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        let list = value.as_array().and_then(|list| list.iter().map(number).collect());
        list.ok_or_else(|| self.expected(name, "a list of whole numbers", &value))
    }

    /// A field that nobody has taken.
    pub fn first_left(&self) -> Option<&str> {
        self.left.keys().next().map(String::as_str)
    }

    /// A token's number or several.
    pub fn ids(&mut self, name: &str) -> Result<Vec<u32>> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match &value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.expected(name, "a token's number or a list of them", &value))
    }

    /// A value that stands under one of several names; under all of those that are there it must be the same.
    pub fn agreed<T: PartialEq + std::fmt::Debug>(
        &mut self,
        names: &[&str],
        mut read: impl FnMut(&mut Self, &str) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut first: Option<(T, &str)> = None;
        for &name in names {
            match (read(self, name)?, &first) {
                (Some(value), Some((known, other))) if value != *known => {
                    let message = format!("expected the value of {other}, {known:?}, got {value:?}");
                    return Err(self.bad(name, message));
                }
                (Some(value), None) => first = Some((value, name)),
                _ => {}
            }
        }
        Ok(first.map(|(value, _)| value))
    }

    /// Checks that a field, where it is there, has the one value that is supported.
    pub fn only(&mut self, name: &str, supported: impl Into<Value>) -> Result<()> {
        let supported = supported.into();
        match self.take(name) {
            // 1 and 1.0 are one number.
            Some(value) if value != supported && (value.as_f64().is_none() || value.as_f64() != supported.as_f64()) => {
                Err(self.bad(name, format!("only {supported} is supported, got {}", brief(&value))))
            }
            _ => Ok(()),
        }
    }

    /// Sorts what is left into fields that are known to be harmless and unknown ones.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown field with a value whose name belongs to what a forward pass computes.
    pub fn finish(self) -> Result<(Vec<String>, Vec<String>)> {
        let (mut ignored, mut unknown) = (Vec::new(), Vec::new());
        for (name, value) in &self.left {
            let off = matches!(value, Value::Bool(false)) || value.as_f64() == Some(0.0);
            let empty = value.as_str().map(str::len).or(value.as_array().map(Vec::len));
            let off = off || empty == Some(0) || value.as_object().is_some_and(|o| o.is_empty());
            let lower = name.to_ascii_lowercase();
            let shown = brief(&Value::from(name.as_str()));
            if TRAINING.contains(&name.as_str()) && !off {
                ignored.push(format!("{shown} = {} (training goes without it)", brief(value)));
            } else if HARMLESS.contains(&name.as_str()) || off {
                ignored.push(shown);
            } else if COMPUTES.iter().any(|part| lower.contains(part)) {
                let message = format!(
                    "expected no such field, got {}: it is not known, and seems to change what the model computes",
                    brief(value)
                );
                return Err(self.bad(&shown, message));
            } else {
                unknown.push(shown);
            }
        }
        Ok((ignored, unknown))
    }
}
