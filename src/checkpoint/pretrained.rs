//! A published model on disk: a Hugging Face folder of a known family, checked whole before a number is read.
//!
//! ```no_run
//! use sdmoe::checkpoint::FamilyCheckpoint;
//! use sdmoe::prelude::*;
//!
//! # async fn load() -> Result<()> {
//! let checkpoint = FamilyCheckpoint::open("Qwen1.5-MoE-A2.7B".as_ref())?;
//! let gpu = Gpu::open(&GpuOptions::default()).await?;
//! let model = Model::new(&gpu, checkpoint.config())?;
//! println!("{}", checkpoint.load_into(&model)?); // 4659 of 4659 tensors used
//! # Ok(())
//! # }
//! ```
//!
//! `config.json` says what the model is, and with it which tensors there must be: a missing one, one too many, or one of
//! another shape or type is an error by name, before anything is allocated for it. Numbers then come a part at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::foreign::{plain_file, there};
use super::names::{beside_model, others, shown, stack};
use super::stream::{Numbers, stream};
use super::table::TensorTable;
use super::target::{MAX_CONFIG, Source, Target};
use super::widen::Element;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::nn::config::ModelConfig;
use crate::nn::families::{FamilyModel, HEAD, HubTensor, Layout, Parameter, TensorMap};
use crate::nn::memory::MemoryPlan;
use crate::nn::model::Model;
use crate::nn::params::ParamSet;
use crate::nn::part::ModelPart;
use crate::tensor::{DType, Tensor};

/// Bytes that are on their way to the device at once.
const IN_FLIGHT: u64 = 64 << 20;

/// The tensors of a checkpoint that were used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coverage {
    /// Tensors that were used.
    pub used: usize,
    /// Tensors that there are.
    pub tensors: usize,
    /// Those that are known and of which no forward pass has use: a tied head that is stored all the same, tables of RoPE,
    /// layers that predict later tokens.
    pub skipped: Vec<String>,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} tensors used", self.used, self.tensors)?;
        match &self.skipped[..] {
            [] => Ok(()),
            [first, more @ ..] => write!(f, "; not needed: {}{}", shown(first), others(more.len())),
        }
    }
}

/// The tensors of a target beside those of a family.
#[derive(Clone, Debug, Default)]
pub(super) struct Comparison {
    /// Those of the family that are there and have its shape, by their number in the map, with their file.
    pub used: Vec<(usize, usize)>,
    /// Numbers in the map of those that are not there.
    pub missing: Vec<usize>,
    /// Names that the family does not have.
    pub extra: Vec<String>,
    /// Names with what is wrong with their type or shape.
    pub unfit: Vec<(String, String)>,
    /// Names that the family knows and has no use for.
    pub skipped: Vec<String>,
}

/// An opened checkpoint of a known family.
#[derive(Debug)]
pub struct FamilyCheckpoint {
    target: Target,
    model: FamilyModel,
    layout: Layout,
    map: TensorMap,
    /// Tensors of the map with their files, in the order of their places.
    used: Vec<(usize, usize)>,
    skipped: Vec<String>,
    eos: Vec<u32>,
}

impl FamilyCheckpoint {
    /// Opens a folder, an index of shards, or a `.safetensors` file with its `config.json` beside it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a file is missing, truncated or damaged, when `config.json` describes nothing that is known,
    /// or when the tensors are not those of the model; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let target = Target::open(path)?;
        if matches!(target.source, Source::Run | Source::Checkpoint) {
            let message = "expected a Hugging Face folder, found a checkpoint of this program";
            return Err(Error::checkpoint(&target.root, message));
        }
        if let Some(part) = &target.part {
            return Err(Error::checkpoint(&target.root, format!("expected a whole model: {part}; give their folder")));
        }
        let model = family_model(&target)?;
        let (layout, map) = described(&target, &model);
        let mut comparison = compare(&target, &model, &map);
        if let Some((name, message)) = comparison.unfit.first() {
            return Err(target.bad(name, message));
        }
        let family = model.family.name();
        if let [first, more @ ..] = &comparison.missing[..] {
            let HubTensor { name, shape, .. } = &map.tensors[*first];
            let others = others(more.len());
            let message = format!(
                "expected tensor `{name}` of shape {shape:?}, as a {family} model has it, found it missing{others}"
            );
            return Err(Error::checkpoint(&target.root, message));
        }
        if let [first, more @ ..] = &comparison.extra[..] {
            let others = others(more.len());
            let message = format!("expected no such tensor in a {family} model of this config, found one{others}");
            return Err(target.bad(first, message));
        }
        let place = |&(tensor, file): &(usize, usize)| {
            let info = target.files[file].info(&map.tensors[tensor].name);
            (file, info.map_or(0, |info| info.data_offsets.0))
        };
        comparison.used.sort_by_key(place);
        let eos = eos_of(&target.directory(), &model);
        Ok(Self { model, layout, map, used: comparison.used, skipped: comparison.skipped, eos, target })
    }

    /// The content of its `config.json`.
    pub fn model(&self) -> &FamilyModel {
        &self.model
    }

    /// The tokens that end a text: as `generation_config.json` says where there is one, else as `config.json` does.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The model's settings.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// How its experts lie in tensors.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Its tensors, and the parameters that they become.
    pub fn map(&self) -> &TensorMap {
        &self.map
    }

    /// The folder that it lies in, where a tokenizer may be.
    pub fn directory(&self) -> PathBuf {
        self.target.directory()
    }

    /// The files that hold tensors.
    pub fn files(&self) -> usize {
        self.target.files.len()
    }

    /// Bytes on the disk of the tensors that are used.
    pub fn bytes(&self) -> u64 {
        let bytes = |&(tensor, file): &(usize, usize)| {
            let info = self.target.files[file].info(&self.map.tensors[tensor].name);
            info.map_or(0, |info| (info.data_offsets.1 - info.data_offsets.0) as u64)
        };
        self.used.iter().map(bytes).sum()
    }

    /// The tensors that a reading uses.
    pub fn coverage(&self) -> Coverage {
        Coverage { used: self.used.len(), tensors: self.target.tensors.len(), skipped: self.skipped.clone() }
    }

    /// The tensors that are used, with their files, in the order of their places.
    fn tables(&self) -> Vec<(&TensorTable, &HubTensor)> {
        self.used.iter().map(|&(tensor, file)| (&self.target.files[file], &self.map.tensors[tensor])).collect()
    }

    /// Reads all parameters as f32 and hands them over in contiguous ranges: `sink` gets the parameter, the first element in
    /// it, and the numbers. Every element of every parameter comes once, in no particular order. Matrices come as this
    /// program has them, `[in, out]`. A few matrices are in memory at a time, of at most 128 MiB each.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a number that is not finite, with its tensor and place; [`Error::Io`]; those of `sink`.
    pub fn read(&self, mut sink: impl FnMut(&Parameter, usize, &[f32]) -> Result<()>) -> Result<Coverage> {
        stream(&self.tables(), &|_| false, &mut |parameter, first, numbers| match numbers {
            Numbers::F32(values) => sink(&self.map.parameters[parameter], first, values),
            // Nobody asked for them.
            Numbers::Bits(_) => Ok(()),
        })?;
        Ok(self.coverage())
    }

    /// The types in which the parameters lie, in the order of [`FamilyCheckpoint::map`]: bf16 or f16 where all tensors that a
    /// parameter comes of are of that type, else f32.
    pub fn dtypes(&self) -> Vec<DType> {
        dtypes(&self.target, &self.map, &self.used)
    }

    /// The same by name as `gpu` can hold them: f16 becomes f32 on a device without it.
    pub fn dtypes_on(&self, gpu: &Gpu) -> BTreeMap<&str, DType> {
        let f16 = gpu.require_f16().is_ok();
        let held = |dtype| if dtype == DType::F16 && !f16 { DType::F32 } else { dtype };
        let names = self.map.parameters.iter().map(|p| p.name.as_str());
        names.zip(self.dtypes().into_iter().map(held)).collect()
    }

    /// The memory that it takes on a device that has f16.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes.
    pub fn memory(&self) -> Result<MemoryPlan> {
        planned(&self.target, &self.model, &self.map, &self.used)
    }

    /// Reads all parameters, and the state beside them, into a model of the same shape. What the model keeps in the 16 bits that the
    /// files have it in goes there as it is; other numbers are widened, or rounded to what the model has.
    ///
    /// # Errors
    /// As [`FamilyCheckpoint::read`]; [`Error::Checkpoint`] when the model has other parameters, before one is written;
    /// [`Error::Device`].
    pub fn load_into(&self, model: &Model) -> Result<Coverage> {
        let tensors = self.targets(model.params())?;
        if let Some((Parameter { name, .. }, _)) = self.map.parameters.iter().zip(&tensors).find(|(_, t)| t.is_none()) {
            let message = format!("expected a model with the parameter `{name}`, got one without it");
            return Err(Error::checkpoint(&self.target.root, message));
        }
        self.fill(&self.tables(), &tensors)?;
        model.params().update_copies()?;
        Ok(self.coverage())
    }

    /// As [`FamilyCheckpoint::load_into`], into a part of the model: the tensors that it comes of are read, and no others.
    ///
    /// # Errors
    /// As [`FamilyCheckpoint::load_into`].
    pub fn load_part(&self, part: &ModelPart) -> Result<()> {
        let tensors = self.targets(part.params())?;
        let wanted = |(_, tensor): &(&TensorTable, &HubTensor)| {
            tensor.pieces.iter().any(|piece| tensors[piece.parameter].is_some())
        };
        let tables: Vec<_> = self.tables().into_iter().filter(wanted).collect();
        self.fill(&tables, &tensors)
    }

    /// The tensors on a device, flat, that the parameters of the map go to, in its order; none for one that `params` do not have.
    fn targets(&self, params: &ParamSet) -> Result<Vec<Option<Tensor>>> {
        let mut targets: BTreeMap<&str, &Tensor> = params.iter().map(|p| (p.name.as_str(), &p.value)).collect();
        // State that the checkpoint does not have stays as it is.
        let mut state: BTreeMap<&str, &Tensor> = params.states().iter().map(|(name, t)| (name.as_str(), t)).collect();
        let bad = |message: String| Error::checkpoint(&self.target.root, message);
        let mut tensors = Vec::new();
        for Parameter { name, shape, .. } in &self.map.parameters {
            let found = targets.remove(name.as_str()).or_else(|| state.remove(name.as_str()));
            if let Some(tensor) = found.filter(|tensor| tensor.dims() != shape) {
                let got = tensor.dims();
                return Err(bad(format!("expected a model with `{name}` of shape {shape:?}, got {got:?}")));
            }
            tensors.push(found.map(|tensor| tensor.reshape([tensor.numel()])).transpose()?);
        }
        match targets.keys().next() {
            Some(name) => Err(bad(format!("expected a model without the parameter `{name}`, got one with it"))),
            None => Ok(tensors),
        }
    }

    /// Reads `tables` into what [`FamilyCheckpoint::targets`] gives, and passes over what goes nowhere.
    fn fill(&self, tables: &[(&TensorTable, &HubTensor)], targets: &[Option<Tensor>]) -> Result<()> {
        let of_16_bits = |(stored, tensor): (DType, &Option<Tensor>)| {
            tensor.as_ref().is_some_and(|tensor| stored == tensor.dtype()) && stored.bytes() == 2
        };
        let as_bits: Vec<bool> = self.dtypes().into_iter().zip(targets).map(of_16_bits).collect();
        let mut waiting = 0;
        stream(tables, &|parameter| as_bits[parameter], &mut |parameter, first, numbers| {
            let Some(tensor) = &targets[parameter] else { return Ok(()) };
            let part = |count: usize| tensor.slice(first..first + count);
            waiting += match numbers {
                Numbers::F32(values) => {
                    part(values.len())?.write_f32(values)?;
                    tensor.dtype().bytes() * values.len()
                }
                Numbers::Bits(bits) => {
                    part(bits.len())?.write_bits(bits)?;
                    2 * bits.len()
                }
            } as u64;
            if waiting > IN_FLIGHT {
                waiting = 0;
                // Without it all of the model waits in memory for the device.
                tensor.gpu().queue().submit([]);
                let _ = tensor.gpu().device().poll(wgpu::PollType::wait_indefinitely());
                tensor.gpu().check()?;
            }
            Ok(())
        })
    }
}

/// The content of the `config.json` of a target.
pub(super) fn family_model(target: &Target) -> Result<FamilyModel> {
    model_of(&target.directory()).map(|(model, _)| model)
}

/// The content of the `config.json` of a folder, and its text.
///
/// # Errors
/// [`Error::Checkpoint`] when there is none, or it describes nothing that is known; [`Error::Io`].
pub(crate) fn model_of(folder: &Path) -> Result<(FamilyModel, String)> {
    let path = folder.join("config.json");
    let bad = |message: String| Error::checkpoint(&path, message);
    if !there(&path) {
        return Err(bad("expected a config.json, which says what the model is, found none".into()));
    }
    let length = plain_file(&path)?.len();
    if length > MAX_CONFIG {
        return Err(bad(format!("expected at most {MAX_CONFIG} bytes, got {length}")));
    }
    let text = fs::read(&path).map_err(Error::io("reading", &path))?;
    let text = String::from_utf8(text).map_err(|_| bad("expected a text in UTF-8, got other bytes".into()))?;
    let model = FamilyModel::parse(&text).map_err(|error| match error {
        Error::Config { field, message } if field == "config.json" => bad(message),
        Error::Config { field, message } => bad(format!("{field}: {message}")),
        other => other,
    })?;
    Ok((model, text))
}

/// The tokens that end a text: by the `generation_config.json` of the folder of `model` where there is one, else by its
/// `config.json`.
pub(crate) fn eos_of(folder: &Path, model: &FamilyModel) -> Vec<u32> {
    generation_eos(folder).unwrap_or_else(|| model.eos.clone())
}

/// The tokens that end a text by the `generation_config.json` of a folder. One that cannot be read is passed over, as it only
/// sets defaults.
fn generation_eos(folder: &Path) -> Option<Vec<u32>> {
    let text = files::read_small(&folder.join("generation_config.json"), MAX_CONFIG).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let eos = config.get("eos_token_id")?;
    eos.as_array().map_or_else(|| Some(vec![id(eos)?]), |list| list.iter().map(id).collect())
}

/// How a target's experts lie, and the tensors that its model has so.
pub(super) fn described(target: &Target, model: &FamilyModel) -> (Layout, TensorMap) {
    let fused = |name: &String| name.ends_with(".mlp.experts.gate_up_proj") && !beside_model(stack(name));
    let layout = if target.tensors.keys().any(fused) { Layout::Fused } else { Layout::PerExpert };
    (layout, TensorMap::new(model.family, &model.config, layout))
}

/// The types of the parameters of `map`, of which a target has the tensors `used`, with their files.
fn dtypes(target: &Target, map: &TensorMap, used: &[(usize, usize)]) -> Vec<DType> {
    let mut found: Vec<Option<DType>> = vec![None; map.parameters.len()];
    for &(tensor, file) in used {
        let tensor = &map.tensors[tensor];
        let dtype = match target.files[file].element(&tensor.name) {
            Ok(Element::Bf16) => DType::Bf16,
            Ok(Element::F16) => DType::F16,
            _ => DType::F32,
        };
        for piece in &tensor.pieces {
            let known = found[piece.parameter].get_or_insert(dtype);
            if *known != dtype {
                *known = DType::F32;
            }
        }
    }
    found.into_iter().map(|dtype| dtype.unwrap_or(DType::F32)).collect()
}

/// The memory that the model of a target takes, as far as its tensors are there.
pub(super) fn planned(
    target: &Target,
    model: &FamilyModel,
    map: &TensorMap,
    used: &[(usize, usize)],
) -> Result<MemoryPlan> {
    let names = map.parameters.iter().map(|p| p.name.as_str());
    let named: BTreeMap<&str, DType> = names.zip(dtypes(target, map, used)).collect();
    MemoryPlan::of_stored(&model.config, &named)
}

/// Compares the headers of a target with the tensors of a model.
pub(super) fn compare(target: &Target, model: &FamilyModel, map: &TensorMap) -> Comparison {
    let mut found = Comparison::default();
    let mut left: BTreeSet<&str> = target.tensors.keys().map(String::as_str).collect();
    let unfit = |name: &str, shape: &[usize]| {
        let info = target.tensors.get(name).and_then(|&file| target.files[file].info(name))?;
        if info.shape != shape {
            return Some(format!("expected shape {shape:?}, as config.json has it, got {:?}", info.shape));
        }
        Element::of(info.dtype).is_none().then(|| format!("expected F32, F16 or BF16, got {}", info.dtype))
    };
    for (i, tensor) in map.tensors.iter().enumerate() {
        let name = tensor.name.as_str();
        let Some(&file) = target.tensors.get(name) else {
            found.missing.push(i);
            continue;
        };
        left.remove(name);
        match unfit(name, &tensor.shape) {
            Some(message) => found.unfit.push((name.to_owned(), message)),
            None => found.used.push((i, file)),
        }
    }
    for name in left {
        if name == HEAD && model.config.tied_head {
            let shape = [model.config.vocab, model.config.d_model];
            if let Some(message) = unfit(name, &shape) {
                found.unfit.push((name.to_owned(), message));
                continue;
            }
        } else if !needless(name, model) {
            found.extra.push(name.to_owned());
            continue;
        }
        found.skipped.push(name.to_owned());
    }
    found
}

/// Whether no forward pass has use for a tensor of that name: tables of RoPE, and layers that predict later tokens.
fn needless(name: &str, model: &FamilyModel) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let later = model.config.layers..model.config.layers + model.later_layers;
    name.ends_with(".rotary_emb.inv_freq")
        || layer.is_some_and(|layer| later.contains(&layer))
        || name.contains("layers.") && beside_model(stack(name))
}
