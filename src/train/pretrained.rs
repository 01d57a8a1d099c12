//! A trained model on disk, of this program or of a published family, with its tokenizer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::accepts::same_model;
use super::config::RunConfig;
use super::saved::HUB_FOLDER;
use crate::checkpoint::experts::Source;
use crate::checkpoint::{ExpertCheckpoint, FamilyCheckpoint, HubFiles, TensorFile, eos_of, model_of};
use crate::data::text_tokenizer::{TOKENIZER_FILE, TextTokenizer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::{ModelConfig, Precision};
use crate::nn::families::{FamilyModel, Parameter};
use crate::nn::memory::MemoryPlan;
pub use crate::nn::memory::{Purpose, WeightType};
use crate::nn::model::Model;
use crate::nn::size;
use crate::train::resume::{restore_for_inference, restore_model};
use crate::train::saved::SavedModel;
use crate::train::size::{check_inference, explain_inference, memory_of};

/// A parameter, or state beside the parameters, in host memory.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HostParameter {
    /// Its name in this program's checkpoints.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it is state that no gradient moves.
    pub state: bool,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

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
            Self::Saved(saved) => {
                let family = saved.family().ok().flatten();
                family.map_or(saved.config.train.seq, |(model, _)| model.context)
            }
            Self::Family(family) => family.model().context,
        }
    }

    /// The published model that it is, or goes back to, with the text of its `config.json`; none for a run whose model was drawn.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a `config.json` is damaged; [`Error::Io`].
    pub fn family_model(&self) -> Result<Option<(FamilyModel, String)>> {
        match self {
            Self::Saved(saved) => saved.family(),
            Self::Family(family) => model_of(&family.directory()).map(Some),
        }
    }

    /// The folder of its tokenizer and other small files; none for a run whose model was drawn.
    pub fn hub_folder(&self) -> Option<PathBuf> {
        match self {
            Self::Saved(saved) => saved.hub_folder(),
            Self::Family(family) => Some(family.directory()),
        }
    }

    /// The small files that came with it from a Hugging Face folder: `config.json`, the tokenizer's.
    ///
    /// # Errors
    /// [`Error::Io`] names one that cannot be read, or is too long.
    pub fn hub_files(&self) -> Result<HubFiles> {
        self.hub_folder().map_or_else(|| Ok(HubFiles::default()), |folder| HubFiles::read(&folder))
    }

    /// Its `tokenizer.json`; none for a model of bytes.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        let file = self.hub_folder()?.join(TOKENIZER_FILE);
        file.exists().then_some(file)
    }

    /// The settings with which training goes on with it, from [`RunConfig::continuing`]; a decoupled one keeps its settings of the
    /// decoupling.
    pub fn run_config(&self) -> RunConfig {
        let mut config = RunConfig::continuing(self.config(), self.context());
        config.data.tokenizer = self.tokenizer_file();
        if let Self::Saved(saved) = self
            && saved.config.spectral.decouples()
        {
            config.spectral = saved.config.spectral.clone();
        }
        config
    }

    /// The settings of a model that is made of it and that no step has moved: [`Pretrained::run_config`], with its context as the
    /// length of sequences where no `config.json` says it.
    pub(super) fn unmoved_config(&self, mut config: RunConfig) -> Result<RunConfig> {
        if self.family_model()?.is_none() {
            config.train.seq = self.context();
        }
        Ok(config)
    }

    /// Checks that settings are of this model, and of its rank where both are decoupled.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting that differs.
    pub fn accepts(&self, config: &RunConfig) -> Result<()> {
        match self {
            Self::Saved(saved) => saved.same_parts(config),
            Self::Family(family) => same_model(family.config(), &config.model),
        }
    }

    /// A description for a person: `qwen2_moe model`.
    pub fn description(&self) -> String {
        let family = self.family_model().ok().flatten().map_or("own", |(model, _)| model.family.name());
        match self {
            Self::Saved(saved) if saved.config.spectral.decouples() => {
                format!("{family} model, decoupled with rank {}", saved.config.spectral.rank)
            }
            _ => format!("{family} model"),
        }
    }

    /// Reads all parameters, and the state beside them, into host memory, as f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a number that is not finite, and for a tensor that is missing or of another shape;
    /// [`Error::Io`].
    pub fn read(&self) -> Result<Vec<HostParameter>> {
        let saved = match self {
            Self::Saved(saved) => saved,
            Self::Family(family) => return read_family(family),
        };
        saved.complete()?;
        let parameter = |file: &TensorFile, (name, shape): (String, Vec<usize>), state| {
            let values = file.expect_f32(&name, &shape)?;
            Ok(HostParameter { name, shape, state, values })
        };
        let own = Model::shapes(&saved.config.model).into_iter();
        let mut all: Vec<_> = own.map(|named| parameter(&saved.tensors, named, false)).collect::<Result<_>>()?;
        let states = Model::state_shapes(&saved.config.model);
        if !states.is_empty() {
            let optimizer = saved.optimizer()?;
            for named in states {
                all.push(parameter(&optimizer, named, true)?);
            }
        }
        Ok(all)
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
            Self::Saved(saved) => {
                let family = saved.hub_folder().zip(saved.family().ok().flatten());
                family.map_or(Vec::new(), |(folder, (model, _))| eos_of(&folder, &model))
            }
            Self::Family(family) => family.eos().to_vec(),
        };
        named.into_iter().chain(tokenizer.eos()).collect()
    }

    /// Loads the model, in f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a number that is not finite; [`Error::Config`] and [`Error::Device`] when the adapter cannot hold
    /// it.
    pub fn load(&self, gpu: &Gpu) -> Result<Model> {
        match self {
            // In f32 on every adapter: the weights of a run in f16 are saved in f32.
            Self::Saved(saved) => restore_model(gpu, saved, &saved.config.model, Precision::F32),
            Self::Family(family) => loaded(family, Model::new(gpu, family.config())?),
        }
    }

    /// As [`Pretrained::load`], for generation and evaluation alone: half the memory ([`Model::for_inference`]), and half of that
    /// where the files have 16 bits and they are kept.
    ///
    /// # Errors
    /// As [`Pretrained::load`].
    pub fn load_for_inference(&self, gpu: &Gpu, weights: WeightType) -> Result<Model> {
        let family = match self {
            Self::Saved(saved) => return restore_for_inference(gpu, saved),
            Self::Family(family) => family,
        };
        let stored = family.dtypes_on(gpu);
        let plan = MemoryPlan::of_stored(family.config(), &stored)?;
        let dtype = |name: &str| weights.of(&stored, name);
        check_inference(gpu, &plan, weights)?;
        let model = Model::for_inference_in(gpu, family.config(), dtype).and_then(|model| loaded(family, model));
        model.map_err(|error| explain_inference(&plan, weights, error))
    }

    /// Whether the model fits `gpu` as far as that can be known beforehand: of its memory where that is the machine's, and for
    /// gradients, which all layers' experts have in one buffer, of the largest buffer. A run is taken to fit.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes.
    pub fn fits(&self, gpu: &Gpu, purpose: impl Into<Purpose>) -> Result<bool> {
        match self {
            Self::Saved(_) => Ok(true),
            Self::Family(family) => {
                let plan = MemoryPlan::of_stored(family.config(), &family.dtypes_on(gpu))?;
                let purpose = purpose.into();
                let buffers = || size::fits(family.config(), gpu.device().limits().max_buffer_size).is_ok();
                let memory = memory_of(gpu).is_none_or(|memory| plan.bytes(purpose) <= memory);
                Ok(memory && (purpose != Purpose::Gradients || buffers()))
            }
        }
    }

    /// The checkpoint of a published model, whose parts can be read when they are used ([`ByLayer`](super::by_layer::ByLayer)).
    ///
    /// # Errors
    /// [`Error::Config`] for a run or a checkpoint of this program, which is loaded whole.
    pub fn in_parts(&self) -> Result<&FamilyCheckpoint> {
        match self {
            Self::Saved(_) => {
                let message = "expected a Hugging Face folder, got a checkpoint of this program, which is loaded whole";
                Err(Error::config("by-layer", message))
            }
            Self::Family(family) => Ok(family),
        }
    }
}

fn loaded(family: &FamilyCheckpoint, model: Model) -> Result<Model> {
    let coverage = family.load_into(&model)?;
    log::info!("{coverage}");
    Ok(model)
}

fn read_family(family: &FamilyCheckpoint) -> Result<Vec<HostParameter>> {
    let host = |p: &Parameter| HostParameter {
        name: p.name.clone(),
        shape: p.shape.clone(),
        state: p.state,
        values: vec![0.0; p.numel()],
    };
    let mut all: Vec<_> = family.map().parameters.iter().map(host).collect();
    let numbers: BTreeMap<String, usize> = all.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
    family.read(|parameter, first, values| {
        if let Some(&i) = numbers.get(&parameter.name) {
            all[i].values[first..first + values.len()].copy_from_slice(values);
        }
        Ok(())
    })?;
    Ok(all)
}

/// The tokenizer of a run, which lies in its folder beside the checkpoint; bytes where it has none.
fn tokenizer_of(saved: &SavedModel) -> Result<TextTokenizer> {
    let found = saved.hub_folder().map_or(Ok(TextTokenizer::Bytes), |folder| TextTokenizer::of_folder(&folder))?;
    if saved.config.data.tokenizer.is_some() && matches!(found, TextTokenizer::Bytes) {
        let message = format!("expected the run's tokenizer beside it, {HUB_FOLDER}/{TOKENIZER_FILE}, found none");
        return Err(Error::checkpoint(&saved.path, message));
    }
    Ok(found)
}
