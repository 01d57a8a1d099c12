//! The settings of a demonstration; a link holds them, or a file.

use sdmoe::RunConfig;
use sdmoe::nn::config::Preset;
use serde::{Deserialize, Serialize};

/// How large the two models are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// Two layers of width 64: for software drivers and small graphics units.
    #[default]
    Small,
    /// Four layers of width 128.
    Medium,
}

/// The treatment of the experts' own parts where a refresh turns the bases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// What enters the common directions moves to the common part; updates are projected.
    #[default]
    Absorb,
    /// As the paper has it: nothing.
    Published,
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The seed of both models and of their batches.
    pub seed: u64,
    /// The sizes.
    pub size: Size,
    /// The experts of a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub top_k: usize,
    /// Rank of the common part.
    pub rank: usize,
    /// The variant of decoupling.
    pub variant: Variant,
    /// Learning rate.
    pub lr: f32,
    /// Weight of the load-balance loss at the start.
    pub balance_loss: f32,
    /// Steps after which the learning rate has fallen; training goes on with the last.
    pub steps: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            size: Size::Small,
            experts: 8,
            top_k: 2,
            rank: 8,
            variant: Variant::Absorb,
            lr: 3e-3,
            balance_loss: 0.01,
            steps: 2000,
        }
    }
}

/// Bytes of a sequence; a batch has [`BATCH`] of them.
pub const SEQ: usize = 64;
/// Sequences of a batch.
pub const BATCH: usize = 8;

impl Settings {
    /// The run, with decoupling or without.
    pub fn run(&self, decoupled: bool) -> RunConfig {
        let mut config = RunConfig::preset(Preset::Tiny);
        let (layers, d) = match self.size {
            Size::Small => (2, 64),
            Size::Medium => (4, 128),
        };
        let model = &mut config.model;
        (model.layers, model.d_model, model.head_dim) = (layers, d, d / model.heads);
        (model.moe.experts, model.moe.top_k) = (self.experts, self.top_k);
        (model.moe.d_expert, model.moe.d_shared) = (d, 0);
        model.moe.balance_loss = self.balance_loss;
        config.seed = self.seed;
        (config.train.batch, config.train.seq, config.train.steps) = (BATCH, SEQ, self.steps);
        (config.optimizer.lr, config.optimizer.warmup_steps) = (self.lr, 20);
        config.spectral.enabled = decoupled;
        config.spectral.rank = self.rank;
        config.spectral.as_published = self.variant == Variant::Published;
        config
    }

    /// Checks that both runs are possible.
    ///
    /// # Errors
    /// The message of the setting that is not.
    pub fn validate(&self) -> Result<(), String> {
        [true, false].into_iter().try_for_each(|on| self.run(on).validate().map_err(|e| e.to_string()))
    }

    /// Writes the settings as the part of a link behind `#`.
    pub fn to_link(&self) -> String {
        let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(self) else { return String::new() };
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join("&")
    }

    /// Reads settings from the part of a link behind `#`; what is not there stays as it is by default.
    ///
    /// # Errors
    /// A message for an unknown name or an impossible value.
    pub fn from_link(link: &str) -> Result<Self, String> {
        let mut fields = serde_json::Map::new();
        for part in link.trim_start_matches('#').split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("expected name=value, got `{part}`"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            fields.insert(name.to_owned(), value);
        }
        let settings: Self = serde_json::from_value(fields.into()).map_err(|e| format!("link: {e}"))?;
        settings.validate().map(|()| settings)
    }

    /// Reads a settings file.
    ///
    /// # Errors
    /// A message for an unknown name or an impossible value.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_json(text: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(text).map_err(|e| format!("settings: {e}"))?;
        settings.validate().map(|()| settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_a_link_and_a_file() {
        let settings = Settings { seed: 7, variant: Variant::Published, lr: 1e-3, ..Settings::default() };
        assert_eq!(Settings::from_link(&format!("#{}", settings.to_link())).unwrap(), settings);
        assert_eq!(Settings::from_json(&serde_json::to_string(&settings).unwrap()).unwrap(), settings);
        assert_eq!(Settings::from_link("").unwrap(), Settings::default());
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        for (link, part) in [
            ("seeds=3", "seeds"),
            ("experts=0", "experts"),
            ("top_k=9", "top_k"),
            ("seed", "seed"),
            ("size=huge", "huge"),
        ] {
            let message = Settings::from_link(link).unwrap_err();
            assert!(message.contains(part), "{link}: {message}");
        }
    }
}
