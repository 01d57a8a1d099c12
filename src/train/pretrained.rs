//! A trained model on disk, of this program or of a published family, with its tokenizer.

use std::path::Path;

use crate::checkpoint::experts::Source;
use crate::checkpoint::{ExpertCheckpoint, FamilyCheckpoint};
use crate::data::text_tokenizer::{TOKENIZER_FILE, TextTokenizer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::{ModelConfig, Precision};
use crate::nn::model::Model;
use crate::train::resume::restore_model;
use crate::train::saved::SavedModel;

/// A model whose files are opened and checked, as far as that needs no device.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pretrained {
    /// A run, or one of its checkpoints.
    Saved(Box<SavedModel>),
    /// A Hugging Face folder.
    Family(Box<FamilyCheckpoint>),
}

impl Pretrained {
    /// Opens the folder of a run, a checkpoint, or a Hugging Face folder, which has a `config.json`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names what is missing, damaged or does not fit; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        if path.join("config.json").exists() || path.is_file() {
            return Self::family(path);
        }
        match SavedModel::open(path) {
            Ok(saved) => Ok(Self::Saved(Box::new(saved))),
            // Weights of others, without the file that says what they are: the family's reader tells what is missing.
            Err(own) => match ExpertCheckpoint::open(path).map(|found| found.source()) {
                Ok(Source::HuggingFace | Source::Safetensors) => Self::family(path),
                _ => Err(own),
            },
        }
    }

    fn family(path: &Path) -> Result<Self> {
        let family = FamilyCheckpoint::open(path)?;
        // What the file may say and this program cannot compute.
        let bad = |e: Error| Error::checkpoint(&family.directory().join("config.json"), e.to_string());
        family.config().validate().map_err(bad)?;
        Ok(Self::Family(Box::new(family)))
    }

    /// Checks that all parameters are there.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] names the one that is missing.
    pub fn complete(&self) -> Result<()> {
        match self {
            Self::Saved(saved) => saved.complete(),
            // Opening has compared all tensors.
            Self::Family(_) => Ok(()),
        }
    }

    /// The model's settings.
    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Saved(saved) => &saved.config.model,
            Self::Family(family) => family.config(),
        }
    }

    /// The longest sequence that the model was made for, tokens.
    pub fn context(&self) -> usize {
        match self {
            Self::Saved(saved) => saved.config.train.seq,
            Self::Family(family) => family.model().context,
        }
    }

    /// Its tokenizer: bytes where there is none.
    ///
    /// # Errors
    /// [`Error::Data`] when its file is damaged, or has more tokens than the model.
    pub fn tokenizer(&self) -> Result<TextTokenizer> {
        let tokenizer = match self {
            Self::Saved(saved) => tokenizer_of(saved)?,
            Self::Family(family) => TextTokenizer::of_folder(&family.directory())?,
        };
        tokenizer.require_vocab(self.config().vocab)?;
        Ok(tokenizer)
    }

    /// The tokens that end a text: those of `generation_config.json` or else `config.json`, and the tokenizer's.
    pub fn stops(&self, tokenizer: &TextTokenizer) -> Vec<u32> {
        let named = match self {
            Self::Saved(_) => &[][..],
            Self::Family(family) => family.eos(),
        };
        named.iter().copied().chain(tokenizer.eos()).collect()
    }

    /// Loads the model, in f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a number that is not finite; [`Error::Config`] and [`Error::Device`] when the adapter cannot hold
    /// it.
    pub fn load(&self, gpu: &Gpu) -> Result<Model> {
        match self {
            // In f32 on every adapter: the weights of a run in f16 are saved in f32.
            Self::Saved(saved) => restore_model(gpu, saved, Precision::F32),
            Self::Family(family) => {
                let model = Model::new(gpu, family.config())?;
                let coverage = family.load_into(&model)?;
                log::info!("{coverage}");
                Ok(model)
            }
        }
    }
}

/// The tokenizer of a run, which lies in its folder, or in that of the checkpoint; bytes where its settings name none.
fn tokenizer_of(saved: &SavedModel) -> Result<TextTokenizer> {
    if saved.config.data.tokenizer.is_none() {
        return Ok(TextTokenizer::Bytes);
    }
    let folders = [Some(saved.path.as_path()), saved.path.parent()];
    match folders.into_iter().flatten().find(|folder| folder.join(TOKENIZER_FILE).is_file()) {
        Some(folder) => TextTokenizer::of_folder(folder),
        None => {
            let message =
                format!("expected the tokenizer of the run, {TOKENIZER_FILE}, in its folder or that of the checkpoint");
            Err(Error::checkpoint(&saved.path, message))
        }
    }
}
