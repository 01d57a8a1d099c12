//! A checkpoint as it lies on the disk, read and checked as far as that needs no device.
//!
//! `model.safetensors` says by itself what it is: its metadata hold the settings (`config`, the text of `config.toml`) and
//! the `step`. `optimizer.safetensors` must come from the same step of the same run: both files carry an `identity`, made
//! from the tensors of both, so that the same run gives the same bytes whenever and wherever it is repeated or resumed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config::RunConfig;
use crate::checkpoint::{
    HubFiles, IDENTITY, MODEL_FILE, OPTIMIZER_FILE, OTHER_CHECKPOINT, TensorFile, TensorToSave, create_atomically,
    load_tensors, locate, model_of, save_tensors, write_atomically,
};
use crate::data::offsets::hash;
use crate::data::text_tokenizer::TOKENIZER_FILE;
use crate::error::{Error, Result};
use crate::nn::families::FamilyModel;
use crate::nn::model::Model;

/// The parameters of a run at one step, in host memory.
#[derive(Debug)]
#[non_exhaustive]
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
#[non_exhaustive]
pub struct SavedRun {
    /// The parameters and the step.
    pub model: SavedModel,
    /// The optimizer's state.
    pub optimizer: TensorFile,
}

/// The name of the checkpoint in a run's folder.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// The folder within a run's folder of the small files that came with its model from a Hugging Face folder.
pub(super) const HUB_FOLDER: &str = "hub";

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
    // A copy of that name lies in the run's folder.
    config.data.tokenizer = config.data.tokenizer.map(|_| TOKENIZER_FILE.into());
    metadata.insert("config".into(), config.to_toml()?);
    metadata.insert("step".into(), at.step.to_string());
    metadata.insert("tokens".into(), at.tokens.to_string());
    Ok(metadata)
}

/// A number that other tensors, or those of another step, do not give.
fn identity<'a>(step: u64, tensors: impl Iterator<Item = &'a TensorToSave<'a>>) -> u64 {
    let mut sorted: Vec<_> = tensors.collect();
    sorted.sort_by_key(|tensor| tensor.name);
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let parts = sorted.iter().flat_map(|tensor| [tensor.name.as_bytes(), tensor.bytes]);
    parts.fold(step, |state, part| {
        let state = hash(state, &[part.len() as u64]);
        part.chunks(8).fold(state, |state, bytes| hash(state, &[word(bytes)]))
    })
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
    let mut metadata = metadata(config, at)?;
    metadata.insert(IDENTITY.into(), format!("{:016x}", identity(at.step, model.iter().chain(optimizer))));
    write_atomically(dir, |temporary| {
        save_tensors(&temporary.join(MODEL_FILE), model, &metadata)?;
        save_tensors(&temporary.join(OPTIMIZER_FILE), optimizer, &metadata)
    })
}

/// Writes the new folder `dir` of a model that no step has moved: a checkpoint of step 0, and the small files that came with the
/// model. It is there as a whole, or not at all.
///
/// # Errors
/// [`Error::Checkpoint`] when something stands at `dir`; [`Error::Io`].
pub fn create(
    dir: &Path,
    config: &RunConfig,
    model: &[TensorToSave<'_>],
    optimizer: &[TensorToSave<'_>],
    hub: &HubFiles,
) -> Result<()> {
    create_atomically(dir, |folder| {
        save(&folder.join(CHECKPOINT), config, Position::default(), model, optimizer)?;
        hub.write(&folder.join(HUB_FOLDER))
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
    /// [`Error::Checkpoint`] when there is none, it is truncated, damaged or foreign, or holds a number that is not finite;
    /// [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self> {
        let of_run = locate(&dir.join(CHECKPOINT)).ok().filter(|_| !dir.join(MODEL_FILE).exists());
        let path = of_run.map_or_else(|| locate(dir), Ok)?;
        let file = part(&path, MODEL_FILE)?;
        let tensors = load_tensors(&file)?;
        tensors.require_finite()?;
        let (step, tokens) = (number(&tensors, &file, "step")?, number(&tensors, &file, "tokens")?);
        let config = RunConfig::from_toml(tensors.entry("config")?, &file.display().to_string(), None)?;
        config.validate()?;
        Ok(Self { path, step, tokens, config, tensors })
    }

    /// Reads the optimizer's state, where the tensors lie that a model has beside its parameters: the biases of the choice of
    /// experts.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the file is missing, truncated or damaged; [`Error::Io`].
    pub fn optimizer(&self) -> Result<TensorFile> {
        load_tensors(&part(&self.path, OPTIMIZER_FILE)?)
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

    /// The folder of the files that came with the model from a Hugging Face folder, beside the checkpoint in its run's folder;
    /// none where there is none.
    pub fn hub_folder(&self) -> Option<PathBuf> {
        let of_run = self.path.file_name()?.to_str()?.starts_with(CHECKPOINT);
        let folder = self.path.parent().filter(|_| of_run)?.join(HUB_FOLDER);
        folder.is_dir().then_some(folder)
    }

    /// Returns the settings of the `config.json` that came with the model, and its text; none where there is none.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is damaged; [`Error::Io`].
    pub fn family(&self) -> Result<Option<(FamilyModel, String)>> {
        let folder = self.hub_folder().filter(|folder| folder.join("config.json").is_file());
        folder.map(|folder| model_of(&folder)).transpose()
    }
}

impl SavedRun {
    /// Reads parameters and optimizer state.
    ///
    /// # Errors
    /// As [`SavedModel::open`], and when the two files belong to different steps or runs.
    pub fn open(dir: &Path) -> Result<Self> {
        let model = SavedModel::open(dir)?;
        let file = part(&model.path, OPTIMIZER_FILE)?;
        let optimizer = load_tensors(&file)?;
        let step = number(&optimizer, &file, "step")?;
        if step != model.step {
            let message = format!("expected the state of step {}, got that of step {step}", model.step);
            return Err(Error::checkpoint(&file, message));
        }
        if optimizer.metadata().get(IDENTITY) != model.tensors.metadata().get(IDENTITY) {
            return Err(Error::checkpoint(&file, OTHER_CHECKPOINT));
        }
        optimizer.require_finite()?;
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
    fn files_of_older_programs_have_no_identity_and_are_read() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoint");
        save(&dir, &RunConfig::default(), Position { step: 7, ..Position::default() }, &[], &[]).unwrap();
        let without = |name: &str| {
            let file = load_tensors(&dir.join(name)).unwrap();
            let mut metadata = file.metadata().clone();
            metadata.remove(IDENTITY).unwrap();
            save_tensors(&dir.join(name), &[], &metadata).unwrap();
        };
        without(OPTIMIZER_FILE);
        let message = SavedRun::open(&dir).unwrap_err().to_string();
        assert!(message.contains("another checkpoint or run"), "one of each: {message}");
        without(MODEL_FILE);
        SavedRun::open(&dir).unwrap();
    }

    #[test]
    fn numbers_that_are_not_finite_are_no_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let (good, bad) = ([1.0], [f32::NAN]);
        let (good, bad) = ([TensorToSave::f32("w", &[1], &good)], [TensorToSave::f32("w", &[1], &bad)]);
        save(run.path(), &RunConfig::default(), Position::default(), &bad, &good).unwrap();
        assert!(
            SavedModel::open(run.path())
                .unwrap_err()
                .to_string()
                .contains("model.safetensors: tensor `w`: expected finite")
        );
        save(run.path(), &RunConfig::default(), Position::default(), &good, &bad).unwrap();
        SavedModel::open(run.path()).unwrap();
        let message = SavedRun::open(run.path()).unwrap_err().to_string();
        assert!(message.contains("optimizer.safetensors: tensor `w`: expected finite"), "{message}");
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
        // Of the same step of another run: by its content, in whatever order it is given.
        let c = run.path().join("c");
        let save_one = |dir: &Path, w: f32| {
            let w = [w];
            let tensors = [TensorToSave::f32("w", &[1], &w), TensorToSave::f32("x", &[1], &[1.0])];
            save(dir, &RunConfig::default(), Position { step: 2, ..Position::default() }, &tensors, &tensors[..1])
                .unwrap();
        };
        save_one(&a, 1.0);
        save_one(&c, 2.0);
        std::fs::copy(c.join(OPTIMIZER_FILE), a.join(OPTIMIZER_FILE)).unwrap();
        assert!(
            message(&a).contains("optimizer.safetensors: expected the state that was saved with the model beside it")
        );
        save_one(&c, 1.0);
        std::fs::copy(c.join(OPTIMIZER_FILE), a.join(OPTIMIZER_FILE)).unwrap();
        SavedRun::open(&a).unwrap();
        std::fs::remove_file(b.join(OPTIMIZER_FILE)).unwrap();
        assert!(message(&b).contains("found no optimizer.safetensors"));
    }
}
