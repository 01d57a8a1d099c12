//! The settings of a run: `config.toml`, complete, so that the file alone (with the data, and the
//! model that the run began with, where it was not drawn) reproduces the run.
//!
//! Layers, each over the last: the preset, the `--config` file, the flags. A file says only what it changes; what it
//! leaves out comes from its preset.

#[cfg(feature = "files")]
mod file;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::config::{MAX_STEPS, ModelConfig, Precision, Preset, SpectralConfig};
use crate::nn::model::Model;
use crate::optim::{Frozen, OptimizerConfig};

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RunConfig {
    /// Where the settings started from.
    pub preset: Preset,
    /// Seed of the parameters and of the order of the data.
    pub seed: u64,
    /// The adapter, as a part of its name or its index; none for the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The data to train on.
    pub data: DataConfig,
    /// The model's shape.
    pub model: ModelConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// How long, how much at a time, and what is reported when.
    pub train: TrainConfig,
    /// The spectral decoupling.
    pub spectral: SpectralConfig,
}

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct DataConfig {
    /// Files and folders, relative to the folder that the program is started in; `-` is standard input, none sdmoe's own
    /// sources.
    pub paths: Vec<PathBuf>,
    /// The `tokenizer.json` of the text; without one the tokens are bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Share of each file's bytes, from its end, that is held out for validation.
    pub validation_fraction: f64,
}

/// The values that backward recomputes instead of finding them in memory; the results are the same to the bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// Norms, and of the experts the grouped rows, the hidden products and the routed outputs: about half of all activation
    /// bytes for one of the nine expert products and some elementwise work.
    Experts,
}

/// The `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct TrainConfig {
    /// The type in which activations and the weights in products are stored.
    pub precision: Precision,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Sequences a micro-batch.
    pub batch: usize,
    /// Tokens a sequence.
    pub seq: usize,
    /// Micro-batches whose gradients make one step.
    pub accumulate: u64,
    /// The values that backward recomputes instead of finding them in memory.
    pub recompute: Recompute,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between two validations; 0 for one at the end only.
    pub eval_every: u64,
    /// Batches of a validation, at most.
    pub eval_batches: usize,
    /// Steps between two checkpoints; 0 for one at the end only.
    pub checkpoint_every: u64,
    /// Steps between two spectral blocks in the metrics; 0 for one at the end only.
    pub spectral_every: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { paths: Vec::new(), tokenizer: None, validation_fraction: 0.1 }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        RunConfig::preset(Preset::Tiny).train
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self::preset(Preset::Tiny)
    }
}

impl RunConfig {
    /// The preset's settings.
    pub fn preset(preset: Preset) -> Self {
        // The one table of what a preset sets beside the model.
        let (steps, batch, seq, lr, warmup_steps) = match preset {
            Preset::Tiny => (300, 8, 128, 3e-3, 30),
            Preset::Small => (1_000, 8, 256, 1e-3, 50),
            Preset::Base => (10_000, 16, 512, 6e-4, 500),
        };
        let (log_every, eval_every, eval_batches, checkpoint_every, spectral_every) = match preset {
            Preset::Tiny => (5, 50, 8, 100, 50),
            Preset::Small => (10, 100, 8, 250, 100),
            Preset::Base => (10, 250, 16, 1_000, 250),
        };
        Self {
            preset,
            seed: 1,
            adapter: None,
            data: DataConfig::default(),
            model: preset.model(),
            optimizer: OptimizerConfig { lr, warmup_steps, ..OptimizerConfig::default() },
            train: TrainConfig {
                precision: Precision::F32,
                steps,
                batch,
                seq,
                accumulate: 1,
                recompute: Recompute::None,
                log_every,
                eval_every,
                eval_batches,
                checkpoint_every,
                spectral_every,
            },
            spectral: SpectralConfig::default(),
        }
    }

    /// Settings for going on with a model that is there, made for sequences of up to `context` tokens: 4 sequences of at most 256
    /// tokens a step and a learning rate of 1e-4, low enough for weights that have been trained. Its experts are not decoupled
    /// before that is asked for. The rest is the smallest preset's.
    pub fn continuing(model: &ModelConfig, context: usize) -> Self {
        let mut config = Self::preset(Preset::Tiny);
        config.model = model.clone();
        (config.train.batch, config.train.seq) = (4, context.clamp(1, 256));
        config.optimizer.lr = 1e-4;
        config.spectral.enabled = false;
        config.spectral.rank = config.spectral.rank.min(model.d_model).min(model.moe.d_expert);
        config
    }

    /// Shortens the warm-up with the run: where the warm-up is the preset's and the run has fewer steps than the preset's,
    /// the warm-up keeps its share of the run (at least one step). A warm-up of another length was chosen, and stays. The
    /// program does it once, when a run begins; `config.toml` has the outcome.
    pub fn fit_warmup(&mut self) {
        let preset = Self::preset(self.preset);
        let (steps, warmup) = (preset.train.steps, preset.optimizer.warmup_steps);
        if self.optimizer.warmup_steps == warmup && self.train.steps < steps {
            self.optimizer.warmup_steps = (warmup * self.train.steps / steps).max(1);
        }
    }

    /// The settings of a pass in f32 over at most `batch` windows of at most `seq` tokens.
    #[cfg(feature = "files")]
    pub(crate) fn windows(&self, batch: usize, seq: usize) -> Self {
        let mut config = self.clone();
        config.train.precision = Precision::F32;
        (config.train.batch, config.train.seq) = (self.train.batch.min(batch), self.train.seq.min(seq));
        config
    }

    /// Checks that each pattern of `optimizer.freeze` has a parameter of the model.
    ///
    /// # Errors
    /// [`Error::Config`] names the pattern, with examples of names.
    pub fn require_frozen(&self) -> Result<()> {
        let (shapes, states) = (Model::shapes(&self.model), Model::state_shapes(&self.model));
        let names: Vec<&str> = shapes.iter().chain(&states).map(|(name, _)| name.as_str()).collect();
        Frozen::new(&self.optimizer.freeze).require_matches(&names)
    }

    /// Checks every setting that can be checked without data and device.
    ///
    /// # Errors
    /// [`Error::Config`] names the first impossible setting as `config.toml` does.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        // A byte-level model needs a token for every byte.
        if self.data.tokenizer.is_none() {
            require(self.model.vocab >= 256, "model.vocab", "at least 256 (one for each byte)", self.model.vocab)?;
        }
        self.spectral.validate(&self.model)?;
        self.optimizer.validate()?;
        let fraction = self.data.validation_fraction;
        require(fraction > 0.0 && fraction < 1.0, "data.validation_fraction", "a number between 0 and 1", fraction)?;
        let t = &self.train;
        for (field, value, least, most) in [
            ("train.steps", t.steps, 1, MAX_STEPS),
            ("train.batch", t.batch as u64, 1, 1 << 20),
            ("train.seq", t.seq as u64, 1, 1 << 20),
            ("train.accumulate", t.accumulate, 1, 1 << 16),
            ("train.log_every", t.log_every, 1, MAX_STEPS),
            ("train.eval_every", t.eval_every, 0, MAX_STEPS),
            ("train.eval_batches", t.eval_batches as u64, 1, 1 << 20),
            ("train.checkpoint_every", t.checkpoint_every, 0, MAX_STEPS),
            ("train.spectral_every", t.spectral_every, 0, MAX_STEPS),
        ] {
            require(value >= least, field, &format!("at least {least}"), value)?;
            require(value <= most, field, &format!("at most {most}"), value)?;
        }
        require(i64::try_from(self.seed).is_ok(), "seed", "at most 2^63 - 1", self.seed)?;
        // Routed slots are counted in u32 on the device; none of the bounds lets the product overflow.
        let slots = t.batch as u64 * t.seq as u64 * self.model.moe.top_k as u64;
        let blamed = if t.seq > t.batch * 256 { "train.seq" } else { "train.batch" };
        let got = format!("{} x {} x {}", t.batch, t.seq, self.model.moe.top_k);
        require(slots <= 1 << 31, blamed, "batch x seq x top_k of at most 2^31", got)
    }
}

fn require(ok: bool, field: &str, expected: &str, got: impl std::fmt::Display) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(field, format!("expected {expected}, got {got}"))) }
}
