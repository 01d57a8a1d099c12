//! Models and trainers in folders: checkpoints, as the program reads and writes them.

use std::path::Path;

use super::config::RunConfig;
use super::pretrained::{Pretrained, WeightType};
use super::resume::restore;
use super::saved::{self, Position, SavedRun};
use super::snapshot::{HostTensor, download};
use super::trainer::Trainer;
use crate::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, TensorToSave};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::model::Model;

/// The tensors as a checkpoint takes them.
pub(super) fn to_save(host: &[HostTensor]) -> Vec<TensorToSave<'_>> {
    host.iter().map(|tensor| TensorToSave::f32(&tensor.name, &tensor.shape, &tensor.values)).collect()
}

/// Checks that at `dir` there is nothing yet, or a checkpoint and nothing else: that alone is replaced.
fn require_replaceable(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("reading", dir))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io("reading", dir))?.file_name();
        if ![MODEL_FILE, OPTIMIZER_FILE].iter().any(|known| name == *known) {
            let message = format!("expected no folder yet or a checkpoint to replace, found {}", name.display());
            return Err(Error::checkpoint(dir, message));
        }
    }
    Ok(())
}

/// Checks that every number is finite.
pub(super) fn require_finite(step: u64, host: &[HostTensor]) -> Result<()> {
    for tensor in host {
        if let Some(&value) = tensor.values.iter().find(|x| !x.is_finite()) {
            return Err(Error::NotFinite { step, what: tensor.name.clone(), value });
        }
    }
    Ok(())
}

impl Model {
    /// Writes the parameters as a checkpoint that `sdmoe eval`, `generate` and `analyze` read, replacing a checkpoint
    /// at `dir` as a whole: it is there whole or as before. No run resumes from it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where `dir` is a folder of anything else; [`Error::Config`] for a vocabulary of less than 256;
    /// [`Error::NotFinite`], [`Error::Io`]; [`Error::Device`].
    pub async fn save(&self, dir: &Path) -> Result<()> {
        require_replaceable(dir)?;
        let parameters = download(self.params().iter().map(|p| (p.name.clone(), p.value.clone()))).await?;
        let biases = download(self.params().states().iter().cloned()).await?;
        require_finite(0, &parameters)?;
        // Decoupled parts are a trainer's: the model has none.
        let config = RunConfig::continuing(self.config(), RunConfig::default().train.seq);
        config.validate()?;
        saved::save(dir, &config, Position::default(), &to_save(&parameters), &to_save(&biases))
    }

    /// Loads a model for generation and evaluation: from a checkpoint or the folder of a run in f32, from a folder of Hugging Face
    /// with its matrices in the types that the files have ([`WeightType::AsStored`]).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is none or it is damaged; [`Error::Io`]; [`Error::Device`].
    pub fn load(gpu: &Gpu, path: &Path) -> Result<Self> {
        Pretrained::open(path)?.load_for_inference(gpu, WeightType::AsStored)
    }
}

impl Trainer {
    /// Writes a checkpoint, replacing one at `dir` as a whole: it is there whole or as before. The trainer does not
    /// know its data, so that `sdmoe train --resume` asks for them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where `dir` is a folder of anything else, as that of a run is; [`Error::NotFinite`],
    /// [`Error::Io`]; [`Error::Device`].
    pub async fn save(&self, dir: &Path) -> Result<()> {
        require_replaceable(dir)?;
        let snapshot = self.snapshot().await?;
        let (step, train) = (snapshot.step, &snapshot.config.train);
        require_finite(step, &snapshot.parameters)?;
        require_finite(step, &snapshot.state)?;
        let tokens = step * (train.batch * train.seq) as u64 * train.accumulate;
        let at = Position { step, tokens, data: 0 };
        saved::save(dir, &snapshot.config, at, &to_save(&snapshot.parameters), &to_save(&snapshot.state))
    }

    /// A trainer that goes on, bit for bit, from a checkpoint or the folder of a run.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there is none or it is damaged; [`Error::Io`]; [`Error::Device`].
    pub fn resume(gpu: &Gpu, dir: &Path) -> Result<Self> {
        let saved = SavedRun::open(dir)?;
        restore(gpu, &saved.model.config, &saved)
    }
}
