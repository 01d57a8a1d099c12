//! The settings of a run: `config.toml`, complete, so that the file alone (and the data) reproduces the run.
//!
//! Layers, each over the last: the preset, the `--config` file, the flags. A file says only what it changes; what it
//! leaves out comes from its preset.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::nn::config::{MAX_STEPS, ModelConfig, Precision, Preset, SpectralConfig};
use crate::optim::config::OptimizerConfig;

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
    /// What to train on.
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
    /// Share of each file's bytes, from its end, that is held out for validation.
    pub validation_fraction: f64,
}

/// What backward makes again instead of finding it in memory; the results are the same to the bit.
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
    /// What activations and the weights in products are stored in.
    pub precision: Precision,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Sequences a micro-batch.
    pub batch: usize,
    /// Bytes a sequence.
    pub seq: usize,
    /// Micro-batches whose gradients make one step.
    pub accumulate: u64,
    /// What backward makes again instead of finding it in memory.
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
        Self { paths: Vec::new(), validation_fraction: 0.1 }
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

    /// Reads a file of settings over those of a preset: `preset`, or the file's, or `tiny`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Config`] with the file's name for a syntax error and with the setting's name else.
    pub fn from_file(path: &Path, preset: Option<Preset>) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        Self::from_toml(&text, &path.display().to_string(), preset)
    }

    /// As [`RunConfig::from_file`], from its text; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn from_toml(text: &str, origin: &str, preset: Option<Preset>) -> Result<Self> {
        let mut file: Table = toml::from_str(text).map_err(|e| {
            let start = e.span().map_or(0, |s| s.start.min(text.len()));
            let number = text[..start].matches('\n').count() + 1;
            let line: String = text.lines().nth(number - 1).unwrap_or_default().trim().chars().take(120).collect();
            Error::config(format!("{origin}, line {number}"), format!("{} in `{line}`", one_line(e.message())))
        })?;
        let preset = match (preset, file.get("preset")) {
            (Some(preset), _) => preset,
            (None, Some(name)) => {
                name.clone().try_into().map_err(|e: toml::de::Error| Error::config("preset", one_line(e.message())))?
            }
            (None, None) => Preset::Tiny,
        };
        file.remove("preset");
        let mut table = Self::preset(preset).to_table()?;
        // The one setting that a complete file may lack has to be known too.
        let mut known = table.clone();
        known.insert("adapter".into(), Value::String(String::new()));
        reject_unknown(&file, &known, "")?;
        let preset = table.clone();
        merge(&mut table, file.clone());
        Value::Table(table).try_into().map_err(|e: toml::de::Error| {
            // Which setting it is, the error of the whole does not tell.
            blame(&file, &preset, &[]).unwrap_or_else(|| Error::config(origin, one_line(e.message())))
        })
    }

    /// The complete settings as the text of `config.toml`.
    ///
    /// # Errors
    /// [`Error::Config`] when a value has no form in TOML: a path that is not UTF-8, an integer above 2^63.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("config.toml", one_line(&e.to_string())))
    }

    fn to_table(&self) -> Result<Table> {
        Table::try_from(self).map_err(|e| Error::config("config.toml", one_line(&e.to_string())))
    }

    /// The settings of a pass in f32 over at most `batch` windows of at most `seq` bytes.
    pub(crate) fn windows(&self, batch: usize, seq: usize) -> Self {
        let mut config = self.clone();
        config.train.precision = Precision::F32;
        (config.train.batch, config.train.seq) = (self.train.batch.min(batch), self.train.seq.min(seq));
        config
    }

    /// Checks every setting that can be checked without data and device.
    ///
    /// # Errors
    /// [`Error::Config`] names the first impossible setting as `config.toml` does.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        // A byte-level model needs a token for every byte.
        require(self.model.vocab >= 256, "model.vocab", "at least 256 (one for each byte)", self.model.vocab)?;
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

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fails on the first key of `table` that `known` lacks, with its full name.
fn reject_unknown(table: &Table, known: &Table, prefix: &str) -> Result<()> {
    for (key, value) in table {
        let field = format!("{prefix}{key}");
        match (known.get(key), value) {
            (None, _) => {
                let names = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::config(field, format!("unknown setting; expected one of {names}")));
            }
            (Some(Value::Table(known)), Value::Table(inner)) => reject_unknown(inner, known, &format!("{field}."))?,
            (Some(_), _) => {}
        }
    }
    Ok(())
}

/// The error of the first setting of `file` below `path` that, alone over the preset, cannot be what it has to be.
fn blame(file: &Table, preset: &Table, path: &[&str]) -> Option<Error> {
    file.iter().find_map(|(key, value)| {
        let path = [path, &[key]].concat();
        // Of a table where there must be no table, or the other way round, the whole is to blame.
        if let (Value::Table(inner), Some(Value::Table(_))) = (value, at(preset, &path)) {
            return blame(inner, preset, &path);
        }
        let alone = path
            .iter()
            .rev()
            .fold(value.clone(), |inner, key| Value::Table([(key.to_string(), inner)].into_iter().collect()));
        let mut table = preset.clone();
        merge(&mut table, alone.try_into().ok()?);
        let tried: Result<RunConfig, toml::de::Error> = Value::Table(table).try_into();
        tried.err().map(|e| Error::config(path.join("."), one_line(e.message())))
    })
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_table()?, rest) }
}

/// Puts the values of `over` into `base`, table by table.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        RunConfig::from_toml(text, "run.toml", None).and_then(|c| c.validate()).unwrap_err().to_string()
    }

    #[test]
    fn the_complete_file_gives_back_the_run() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Base] {
            let mut config = RunConfig::preset(preset);
            config.validate().unwrap();
            config.adapter = Some("llvm".into());
            config.data.paths = vec!["a/b".into()];
            config.spectral.matrices.pop();
            let text = config.to_toml().unwrap();
            assert!(text.contains("weight_decay = 0.1\n"), "f32 values are written short: {text}");
            assert_eq!(RunConfig::from_toml(&text, "x", None).unwrap(), config);
        }
    }

    #[test]
    fn a_file_changes_its_preset_only_where_it_speaks() {
        let text = "preset = \"small\"\n[model]\nlayers = 2\n[model.moe]\nexperts = 4\n[optimizer]\nlr = 0.5";
        let config = RunConfig::from_toml(text, "x", None).unwrap();
        let mut expected = RunConfig::preset(Preset::Small);
        (expected.model.layers, expected.model.moe.experts, expected.optimizer.lr) = (2, 4, 0.5);
        assert_eq!(config, expected);
        let config = RunConfig::from_toml(text, "x", Some(Preset::Tiny)).unwrap();
        assert_eq!((config.preset, config.model.d_model, config.model.layers), (Preset::Tiny, 128, 2));
        assert_eq!(RunConfig::from_toml("", "x", None).unwrap(), RunConfig::default());
    }

    #[test]
    fn a_short_run_has_a_short_warm_up_unless_another_was_chosen() {
        let fitted = |text: &str| {
            let mut config = RunConfig::from_toml(text, "x", None).unwrap();
            config.fit_warmup();
            let warmup = config.optimizer.warmup_steps;
            config.fit_warmup();
            assert_eq!(config.optimizer.warmup_steps, warmup, "once is enough");
            warmup
        };
        assert_eq!(fitted("[train]\nsteps = 100"), 10);
        assert_eq!(fitted("[train]\nsteps = 5"), 1);
        assert_eq!(fitted("[train]\nsteps = 3000"), 30);
        assert_eq!(fitted("[train]\nsteps = 100\n[optimizer]\nwarmup_steps = 50"), 50);
        assert_eq!(fitted("preset = \"base\"\n[train]\nsteps = 1000"), 50);
    }

    #[test]
    fn settings_of_a_decoupling_that_is_not_there_cannot_be_wrong() {
        for text in [
            "[spectral]\nenabled = false\n[model.moe]\nd_expert = 4",
            "[spectral]\nmatrices = []\n[model.moe]\nd_expert = 4",
            "[spectral]\nrank = 0\nrefresh_every = 0",
            // A side of at most 64 gets a full SVD, without oversampling.
            "[spectral]\nrank = 60\noversampling = 8\n[model.moe]\nd_expert = 60",
        ] {
            let config = RunConfig::from_toml(text, "x", None).unwrap();
            config.validate().unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    }

    #[test]
    fn mistakes_are_named_as_in_the_file() {
        for (text, expected) in [
            ("[model.moe]\nexpertz = 3", "config: model.moe.expertz: unknown setting; expected one of "),
            ("sede = 3", "config: sede: unknown setting"),
            ("preset = \"huge\"", "config: preset: unknown variant `huge`"),
            ("seed = 1\nseed = ", "config: run.toml, line 2: "),
            ("[train]\nsteps = \"many\"", "config: train.steps: invalid type: string \"many\""),
            ("[train]\nsteps = -1", "config: train.steps: invalid value: integer `-1`"),
            ("[train]\nprecision = 16", "config: train.precision: "),
            ("[train]\nrecompute = \"half\"", "unknown variant `half`, expected `none` or `experts`"),
            ("model = 3", "config: model: invalid type: integer `3`"),
            ("[train]\nsteps = 0", "config: train.steps: expected at least 1, got 0"),
            ("[train]\nbatch = 4611686018427387904", "config: train.batch: expected at most 1048576, got"),
            (
                "[train]\nbatch = 1048576\nseq = 2048",
                "config: train.batch: expected batch x seq x top_k of at most 2^31",
            ),
            ("[train]\nbatch = 2048\nseq = 1048576", "config: train.seq: expected batch x seq x top_k of at most 2^31"),
            ("[spectral]\nrank = 65", "config: spectral.rank: expected at most 64 where min"),
            ("[model]\nvocab = 100", "config: model.vocab: expected at least 256"),
            ("[model.moe]\ntop_k = 9", "config: model.moe.top_k: expected at most model.moe.experts = 8, got 9"),
            ("[spectral]\nrank = 129", "config: spectral.rank: expected at most min(d_model, d_expert) = 128"),
            (
                "[spectral]\nrank = 8\noversampling = 57",
                "config: spectral.oversampling: expected at most 64 with the rank, 8",
            ),
            ("[model]\nkv_heads = 3", "config: model.kv_heads: expected a divisor of model.heads = 4, got 3"),
            ("[optimizer]\nlr = nan", "config: optimizer.lr: expected a number above 0 and at most 1e30, got NaN"),
            ("[optimizer]\nbeta2 = 1", "config: optimizer.beta2: expected a number in [0, 1), got 1"),
            ("[data]\nvalidation_fraction = 1.0", "config: data.validation_fraction: expected a number between"),
        ] {
            let message = error(text);
            assert!(message.contains(expected) && !message.contains('\n'), "{text:?} gave {message:?}");
        }
    }
}
