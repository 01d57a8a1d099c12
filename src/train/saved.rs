//! A checkpoint as it lies on the disk, read and checked as far as that needs no device.
//!
//! `model.safetensors` says by itself what it is: its metadata hold the settings (`config`, the text of `config.toml`) and
//! the `step`. `optimizer.safetensors` must come from the same step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::RunConfig;
use crate::checkpoint::write_atomically;
use crate::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, TensorFile, TensorToSave, load_tensors, locate, save_tensors};
use crate::error::{Error, Result};
use crate::nn::model::Model;

/// The parameters of a run at one step, in host memory.
#[derive(Debug)]
pub struct SavedModel {
    /// The checkpoint folder.
    pub path: PathBuf,
    /// Steps done.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The settings of the run that wrote it.
    pub config: RunConfig,
    /// The parameters.
    pub tensors: TensorFile,
}

/// A [`SavedModel`] with the optimizer's state: what resuming needs.
#[derive(Debug)]
pub struct SavedRun {
    /// The parameters and the step.
    pub model: SavedModel,
    /// The optimizer's state.
    pub optimizer: TensorFile,
}

/// The metadata entry of the data's [`crate::data::Corpus::fingerprint`], in hexadecimal.
const DATA: &str = "data";

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on; not a product of the step, because a resumed run may have another batch size.
    pub tokens: u64,
    /// [`crate::data::Corpus::fingerprint`] of the data.
    pub data: u64,
}

/// Metadata of a file of this checkpoint.
fn metadata(config: &RunConfig, at: Position) -> Result<BTreeMap<String, String>> {
    let mut metadata = BTreeMap::from([(DATA.to_owned(), format!("{:016x}", at.data))]);
    // Adapter and paths say where the run happened, not what it computed: the same run elsewhere gives the same bytes,
    // and a checkpoint that is passed on tells nothing about the machine.
    let mut config = RunConfig { adapter: None, ..config.clone() };
    config.data.paths.clear();
    metadata.insert("config".into(), config.to_toml()?);
    metadata.insert("step".into(), at.step.to_string());
    metadata.insert("tokens".into(), at.tokens.to_string());
    Ok(metadata)
}

/// Writes the checkpoint of a run that stands `at`, replacing the folder `dir` as a whole.
///
/// # Errors
/// [`Error::Io`] or [`Error::Checkpoint`]; an older checkpoint is then as before.
pub fn save(
    dir: &Path,
    config: &RunConfig,
    at: Position,
    model: &[TensorToSave<'_>],
    optimizer: &[TensorToSave<'_>],
) -> Result<()> {
    let metadata = metadata(config, at)?;
    write_atomically(dir, |temporary| {
        save_tensors(&temporary.join(MODEL_FILE), model, &metadata)?;
        save_tensors(&temporary.join(OPTIMIZER_FILE), optimizer, &metadata)
    })
}

/// The file `name` of a checkpoint folder.
fn part(folder: &Path, name: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    let missing = || Error::checkpoint(folder, format!("expected a checkpoint, found no {name} in it"));
    if file.exists() { Ok(file) } else { Err(missing()) }
}

fn number(file: &TensorFile, path: &Path, entry: &str) -> Result<u64> {
    let text = file.entry(entry)?;
    text.parse().map_err(|_| Error::checkpoint(path, format!("metadata `{entry}`: expected a number, got `{text}`")))
}

impl SavedModel {
    /// Reads the parameters from a checkpoint folder, or from the folder of a run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is none, or it is truncated, damaged or foreign; [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        let of_run = locate(&dir.join("checkpoint")).ok().filter(|_| !dir.join(MODEL_FILE).exists());
        let path = of_run.map_or_else(|| locate(dir), Ok)?;
        let file = part(&path, MODEL_FILE)?;
        let tensors = load_tensors(&file)?;
        let (step, tokens) = (number(&tensors, &file, "step")?, number(&tensors, &file, "tokens")?);
        let config = RunConfig::from_toml(tensors.entry("config")?, &file.display().to_string(), None)?;
        config.validate()?;
        Ok(Self { path, step, tokens, config, tensors })
    }

    /// Checks that the file has the tensors that its own settings promise: sizes are believed after this, not before.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the first tensor that is missing or of another shape.
    pub fn complete(&self) -> Result<()> {
        for (name, shape) in Model::shapes(&self.config.model) {
            let bad = |message: String| {
                let message = format!("tensor `{name}`: {message} (by the file's own settings)");
                Error::checkpoint(&self.path.join(MODEL_FILE), message)
            };
            match self.tensors.shape(&name) {
                Some(there) if there == shape => {}
                Some(there) => return Err(bad(format!("expected shape {shape:?}, got {there:?}"))),
                None => return Err(bad("expected one, found none".into())),
            }
        }
        Ok(())
    }

    /// Whether it was trained on the data with that fingerprint.
    pub fn trained_on(&self, fingerprint: u64) -> bool {
        self.tensors.entry(DATA).is_ok_and(|d| d == format!("{fingerprint:016x}"))
    }

    /// Checks that this checkpoint can go on with other settings: the same model, the same rank if both are decoupled, and
    /// steps left to do.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that was changed.
    pub fn accepts(&self, config: &RunConfig) -> Result<()> {
        let (old, new) = (&self.config, config);
        let mut model = new.model.clone();
        // What only weighs the losses may change on the way.
        model.moe.balance_loss = old.model.moe.balance_loss;
        model.moe.z_loss = old.model.moe.z_loss;
        model.moe.balance_bias = old.model.moe.balance_bias;
        if model != old.model {
            return Err(Error::config("model", "expected the shape that the checkpoint has, got another"));
        }
        if old.spectral.decouples() && new.spectral.decouples() {
            if old.spectral.rank != new.spectral.rank {
                let message = format!("expected the checkpoint's {}, got {}", old.spectral.rank, new.spectral.rank);
                return Err(Error::config("spectral.rank", message));
            }
            if old.spectral.matrices != new.spectral.matrices {
                return Err(Error::config("spectral.matrices", "expected those of the checkpoint, got others"));
            }
        }
        if new.train.steps <= self.step {
            let message = format!("expected more than the {} steps already done, got {}", self.step, new.train.steps);
            return Err(Error::config("train.steps", message));
        }
        Ok(())
    }
}

impl SavedRun {
    /// Reads parameters and optimizer state.
    ///
    /// # Errors
    /// As [`SavedModel::open`], and when the two files belong to different steps.
    pub fn open(dir: &Path) -> Result<Self> {
        let model = SavedModel::open(dir)?;
        let file = part(&model.path, OPTIMIZER_FILE)?;
        let optimizer = load_tensors(&file)?;
        let step = number(&optimizer, &file, "step")?;
        if step != model.step {
            let message = format!("expected the state of step {}, got that of step {step}", model.step);
            return Err(Error::checkpoint(&file, message));
        }
        Ok(Self { model, optimizer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_says_what_it_is_from_its_own_folder_and_from_its_runs() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoint");
        let config = RunConfig { adapter: Some("x".into()), seed: 9, ..RunConfig::default() };
        let w = [TensorToSave::f32("w", &[1], &[1.0])];
        save(&dir, &config, Position { step: 7, tokens: 99, data: 0x1f }, &w, &w).unwrap();
        for place in [run.path(), &dir] {
            let saved = SavedRun::open(place).unwrap();
            assert!(saved.model.trained_on(0x1f) && !saved.model.trained_on(0x1e));
            assert_eq!(
                (saved.model.step, saved.model.tokens, saved.model.config.seed, saved.model.config.adapter),
                (7, 99, 9, None)
            );
        }
        std::fs::rename(&dir, run.path().join("checkpoint.old")).unwrap();
        assert_eq!(SavedRun::open(run.path()).unwrap().model.step, 7);
        assert_eq!(SavedModel::open(&dir).unwrap().step, 7);
    }

    #[test]
    fn a_run_goes_on_with_the_same_model_only() {
        let run = tempfile::tempdir().unwrap();
        let config = RunConfig::default();
        save(run.path(), &config, Position { step: 7, ..Position::default() }, &[], &[]).unwrap();
        let saved = SavedModel::open(run.path()).unwrap();
        saved.accepts(&config).unwrap();
        let refused = |change: fn(&mut RunConfig)| {
            let mut config = config.clone();
            change(&mut config);
            saved.accepts(&config).err().map(|e| e.to_string())
        };
        assert_eq!(refused(|c| c.model.moe.balance_loss = 0.5), None);
        assert_eq!(refused(|c| c.spectral.enabled = false), None);
        assert!(refused(|c| c.model.rope_theta = 5.0).unwrap().contains("config: model"));
        assert!(
            refused(|c| c.spectral.rank = 4).unwrap().contains("spectral.rank: expected the checkpoint's 8, got 4")
        );
        assert!(refused(|c| c.train.steps = 7).unwrap().contains("more than the 7 steps already done"));
    }

    #[test]
    fn parts_that_are_missing_or_of_different_steps_are_told() {
        let run = tempfile::tempdir().unwrap();
        let message = |dir: &Path| SavedRun::open(dir).unwrap_err().to_string();
        assert!(message(&run.path().join("no")).contains("expected a checkpoint folder, found none"));
        assert!(message(run.path()).contains("found no model.safetensors"));
        let (a, b) = (run.path().join("a"), run.path().join("b"));
        save(&a, &RunConfig::default(), Position { step: 1, ..Position::default() }, &[], &[]).unwrap();
        save(&b, &RunConfig::default(), Position { step: 2, ..Position::default() }, &[], &[]).unwrap();
        std::fs::copy(b.join(OPTIMIZER_FILE), a.join(OPTIMIZER_FILE)).unwrap();
        assert!(message(&a).contains("expected the state of step 1, got that of step 2"));
        std::fs::remove_file(b.join(OPTIMIZER_FILE)).unwrap();
        assert!(message(&b).contains("found no optimizer.safetensors"));
    }
}
