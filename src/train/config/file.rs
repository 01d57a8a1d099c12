//! Settings as the text of a file: `config.toml`, and what a person writes over a preset.

use std::path::Path;

use toml::{Table, Value};

use super::RunConfig;
use crate::error::{Error, Result};
use crate::nn::config::{ModelConfig, Preset};
use crate::optim::Rule;

impl RunConfig {
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
        let mut file = Self::table(text, origin)?;
        let preset = match (preset, file.get("preset")) {
            (Some(preset), _) => preset,
            (None, Some(name)) => {
                name.clone().try_into().map_err(|e: toml::de::Error| Error::config("preset", one_line(e.message())))?
            }
            (None, None) => Preset::Tiny,
        };
        file.remove("preset");
        Self::preset(preset).with_table(file, origin)
    }

    /// Reads a file of settings over these; what it says of a preset has no meaning here.
    ///
    /// # Errors
    /// As [`RunConfig::from_file`].
    pub fn with_file(&self, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
        let origin = path.display().to_string();
        let mut file = Self::table(&text, &origin)?;
        file.remove("preset");
        self.with_table(file, &origin)
    }

    fn table(text: &str, origin: &str) -> Result<Table> {
        toml::from_str(text).map_err(|e| {
            let start = e.span().map_or(0, |s| s.start.min(text.len()));
            let number = text[..start].matches('\n').count() + 1;
            let line: String = text.lines().nth(number - 1).unwrap_or_default().trim().chars().take(120).collect();
            Error::config(format!("{origin}, line {number}"), format!("{} in `{line}`", one_line(e.message())))
        })
    }

    /// Settings over these.
    fn with_table(&self, mut file: Table, origin: &str) -> Result<Self> {
        let mut table = self.to_table()?;
        let soft = take_routing(&mut file);
        // What a complete file may lack has to be known too.
        let mut every = Self { adapter: Some(String::new()), ..Self::default() };
        every.model = ModelConfig::with_every_setting();
        every.optimizer.freeze = vec![String::new()];
        (every.optimizer.rule, every.optimizer.momentum) = (Rule::Muon, 0.0);
        every.spectral.layers = vec![0];
        every.data.tokenizer = Some(Default::default());
        reject_unknown(&file, &every.to_table()?, "")?;
        let preset = table.clone();
        merge(&mut table, file.clone());
        let config: Self = Value::Table(table).try_into().map_err(|e: toml::de::Error| {
            // Which setting it is, the error of the whole does not tell.
            blame(&file, &preset, &[]).unwrap_or_else(|| Error::config(origin, one_line(e.message())))
        })?;
        let moe = &config.model.moe;
        if soft && moe.top_k != moe.experts {
            let message = format!(
                "model.moe.routing = \"soft\" visits every expert: expected {}, got {}",
                moe.experts, moe.top_k
            );
            return Err(Error::config("model.moe.top_k", message));
        }
        Ok(config)
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
}

/// Removes `model.moe.routing`, which older programs wrote: `top_k` says as much. Whether it was soft, that is all experts.
fn take_routing(file: &mut Table) -> bool {
    let moe = file.get_mut("model").and_then(Value::as_table_mut).and_then(|model| model.get_mut("moe"));
    let Some(moe) = moe.and_then(Value::as_table_mut) else { return false };
    let soft = match moe.get("routing").and_then(Value::as_str) {
        Some("top_k") => false,
        Some("soft") => true,
        _ => return false,
    };
    moe.remove("routing");
    soft
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
    fn settings_that_are_written_only_where_they_differ_are_read_too() {
        let model = ModelConfig::with_every_setting();
        let config = RunConfig { model, ..RunConfig::preset(Preset::Tiny) };
        let text = config.to_toml().unwrap();
        assert_eq!(RunConfig::from_toml(&text, "run.toml", None).unwrap(), config);
        let usual = RunConfig::preset(Preset::Tiny).to_toml().unwrap();
        for written in ["dense_layers", "yarn", "latent", "q_rank", "clip_qkv", "groups_kept", "choice_bias"] {
            assert!(text.contains(written) && !usual.contains(written), "{written}");
        }
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
    fn files_of_older_programs_that_name_the_routing_are_read() {
        let read = |routing: &str, k: usize| {
            RunConfig::from_toml(&format!("[model.moe]\nexperts = 4\ntop_k = {k}\nrouting = \"{routing}\""), "x", None)
        };
        assert_eq!(read("top_k", 2).unwrap().model.moe.top_k, 2);
        assert_eq!(read("soft", 4).unwrap(), read("top_k", 4).unwrap());
        let message = read("soft", 2).unwrap_err().to_string();
        assert!(
            message.contains("model.moe.top_k: model.moe.routing = \"soft\" visits every expert: expected 4, got 2")
        );
        assert!(read("hard", 2).unwrap_err().to_string().contains("model.moe.routing: unknown setting"));
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
