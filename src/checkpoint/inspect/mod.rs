//! The content of a checkpoint and its faults: reads every header, and every number once. Needs no device.

mod numbers;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::experts::ExpertCheckpoint;
use super::family::Family;
use super::names::{others, shown};
use super::pretrained::{compare, described, family_model, planned};
use super::target::{Source, Target};
use crate::error::Result;
use crate::nn::config::ModelConfig;
use crate::nn::families::FamilyModel;
use crate::nn::memory::MemoryPlan;
use crate::tensor::DType;

/// The findings about a checkpoint.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// `run`, `checkpoint`, `hugging_face` or `safetensors`.
    pub source: &'static str,
    /// `sdmoe`, a family's `model_type`, or `unknown`.
    pub family: String,
    /// `per expert` or `fused`, where the family is known.
    pub layout: Option<&'static str>,
    /// Files with tensors.
    pub files: usize,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// The number of tensors of each type.
    pub types: BTreeMap<String, usize>,
    /// Tensors by what they belong to, judged by their names.
    pub parts: Vec<Share>,
    /// The model's settings, where they are known.
    pub model: Option<ModelConfig>,
    /// The longest sequence that the model is made for, tokens.
    pub context: Option<usize>,
    /// Why this program cannot run the model; none where it can.
    pub cannot_run: Option<String>,
    /// The memory that the model takes on a device that has f16; none where it cannot run, or is not whole.
    pub memory: Option<MemoryPlan>,
    /// Numbers in all parameters.
    pub parameters: usize,
    /// Numbers that one token meets, where it is known how many experts it visits.
    pub active: Option<usize>,
    /// The layers with experts, stack by stack.
    pub stacks: Vec<Layers>,
    /// Tensors that the model has and the files lack.
    pub missing: Vec<String>,
    /// Tensors that the model does not have; of an unknown family those whose names are not understood.
    pub unknown: Vec<String>,
    /// Tensors that have another shape or type than the model, with what was expected.
    pub unfit: Vec<String>,
    /// Tensors that are known, and of which no forward pass has use.
    pub skipped: Vec<String>,
    /// Tensors with numbers that are NaN or infinite.
    pub not_finite: Vec<NotFinite>,
    /// Experts all of whose weights are zero.
    pub zero_experts: Vec<Experts>,
    /// Experts of one layer that are the same to the bit.
    pub equal_experts: Vec<Experts>,
    /// Fields of `config.json` that change nothing of a forward pass.
    pub ignored_fields: Vec<String>,
    /// Fields of `config.json` that are not known and do not seem to change a forward pass.
    pub unknown_fields: Vec<String>,
}

/// The tensors of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The kind.
    pub name: &'static str,
    /// Its tensors.
    pub tensors: usize,
    /// Their numbers.
    pub numbers: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Layers of one stack with experts of one shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layers {
    /// The stack's name.
    pub stack: String,
    /// The layers' numbers.
    pub layers: Vec<usize>,
    /// Experts of each.
    pub experts: usize,
    /// Model width *d*.
    pub d_model: usize,
    /// Hidden width *f*.
    pub d_expert: usize,
}

/// Numbers of a tensor that are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotFinite {
    /// The tensor.
    pub tensor: String,
    /// How many there are.
    pub count: usize,
    /// The place of the first, counted row by row.
    pub first: usize,
}

/// Some experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Experts {
    /// The stack's name.
    pub stack: String,
    /// The layer's number.
    pub layer: usize,
    /// The experts.
    pub experts: Vec<usize>,
}

impl Inspection {
    /// Describes the first fault; none where there is none.
    pub fn fault(&self) -> Option<String> {
        let list = |names: &[String], what: &str| {
            let first = names.first()?;
            Some(format!("{what} {}{}", shown(first), others(names.len() - 1)))
        };
        let not_finite: Vec<String> = self.not_finite.iter().map(|n| n.tensor.clone()).collect();
        let known = self.layout.is_some();
        let faults = [
            list(&self.unfit, "unfit:"),
            list(&self.missing, "missing:"),
            list(&self.unknown, "unknown:").filter(|_| known),
            list(&not_finite, "not finite:"),
        ];
        let faults: Vec<String> = faults.into_iter().flatten().collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }
}

/// Inspects a run, a checkpoint, a Hugging Face folder or a `.safetensors` file.
///
/// # Errors
/// [`crate::Error::Checkpoint`] when a file is missing, truncated or damaged, or when experts do not fit each other;
/// [`crate::Error::Io`].
pub fn inspect(path: &Path) -> Result<Inspection> {
    let target = Target::open(path)?;
    let mut found = Inspection {
        source: target.source.name(),
        files: target.files.len(),
        tensors: target.tensors.len(),
        family: Family::of(&target).name().to_owned(),
        ..Inspection::default()
    };
    headers(&target, &mut found);
    let own = matches!(target.source, Source::Run | Source::Checkpoint);
    if own {
        found.model = own_model(&target);
        found.memory = found.model.as_ref().and_then(|model| MemoryPlan::new(model, |_| DType::F32).ok());
    } else {
        match family_model(&target) {
            Ok(model) => of_family(&target, model, &mut found),
            Err(error) => found.cannot_run = Some(error.to_string()),
        }
    }
    if let Some(model) = &found.model {
        found.cannot_run = found.cannot_run.take().or_else(|| model.validate().err().map(|e| e.to_string()));
    }
    let dense = found.model.as_ref().is_some_and(|model| model.moe_layers().is_empty());
    // What the family's own check says is clearer than what experts say about themselves.
    let unfit = !found.unfit.is_empty() || !found.missing.is_empty();
    let experts = if dense || unfit {
        None
    } else {
        ExpertCheckpoint::open(path).map(Some).or_else(|e| if found.model.is_some() { Err(e) } else { Ok(None) })?
    };
    if found.layout.is_none()
        && !own
        && let Some(experts) = &experts
    {
        found.unknown.clone_from(&experts.coverage().unknown);
    }
    if found.active.is_none() {
        let numbers = |part: &str| found.parts.iter().find(|p| p.name == part).map_or(0, |p| p.numbers);
        let state = numbers(OPTIMIZER);
        found.parameters = found.parts.iter().map(|p| p.numbers).sum::<usize>() - state;
        let routed = numbers(ROUTED);
        found.active = found.model.as_ref().map(|m| found.parameters - routed + routed / m.moe.experts * m.moe.top_k);
    }
    numbers::look(&target, experts.as_ref(), &mut found)?;
    Ok(found)
}

/// The settings that this program saved beside the tensors.
fn own_model(target: &Target) -> Option<ModelConfig> {
    #[derive(Deserialize)]
    struct Settings {
        model: ModelConfig,
    }
    let settings: Settings = toml::from_str(target.entries.get("config")?).ok()?;
    Some(settings.model)
}

fn of_family(target: &Target, model: FamilyModel, found: &mut Inspection) {
    let (layout, map) = described(target, &model);
    let comparison = compare(target, &model, &map);
    if comparison.missing.is_empty() && comparison.unfit.is_empty() {
        found.memory = planned(target, &model, &map, &comparison.used).ok();
    }
    found.family = model.family.name().to_owned();
    found.layout = Some(layout.name());
    found.missing = comparison.missing.into_iter().map(|i| map.tensors[i].name.clone()).collect();
    found.unknown = comparison.extra;
    found.unfit = comparison.unfit.into_iter().map(|(name, why)| format!("{}: {why}", shown(&name))).collect();
    found.skipped = comparison.skipped;
    (found.parameters, found.active) = (map.numel(), Some(map.active(&model.config)));
    (found.ignored_fields, found.unknown_fields) = (model.ignored, model.unknown);
    (found.context, found.model) = (Some(model.context), Some(model.config));
}

/// The kind of routed experts.
const ROUTED: &str = "experts";
/// The kind of what no forward pass reads.
const OPTIMIZER: &str = "optimizer state";
/// All kinds, in the order in which they are shown.
const KINDS: [&str; 10] = [
    "embedding",
    "attention",
    "norms",
    "dense layers",
    "routers",
    ROUTED,
    "shared experts",
    "head",
    OPTIMIZER,
    "others",
];

/// The kind of a tensor, by its name.
fn kind(name: &str) -> &'static str {
    let has = |part: &str| name.contains(part);
    let ends = |part: &str| name.ends_with(part);
    match () {
        () if ["spectral.", "adam.", "muon."].iter().any(|rule| name.starts_with(rule)) => OPTIMIZER,
        () if has("shared_expert_gate") || ends(".shared_gate") || ends(".router") || ends("_bias") => "routers",
        () if ends(".mlp.gate.weight") || ends(".block_sparse_moe.gate.weight") => "routers",
        () if has(".shared") => "shared experts",
        () if has(".experts.") => ROUTED,
        () if has("attn") => "attention",
        () if has("norm") => "norms",
        () if has("embed") => "embedding",
        () if has("lm_head") || name == "head.weight" => "head",
        () if has(".mlp.") || has(".ffn.") => "dense layers",
        () => "others",
    }
}

/// The findings of the headers: types, and bytes by kind.
fn headers(target: &Target, found: &mut Inspection) {
    let mut parts: BTreeMap<&str, Share> = BTreeMap::new();
    for (name, &file) in &target.tensors {
        let Some(info) = target.files[file].info(name) else { continue };
        let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
        let kind = kind(name);
        let share = parts.entry(kind).or_insert(Share { name: kind, tensors: 0, numbers: 0, bytes: 0 });
        share.tensors += 1;
        share.numbers += info.shape.iter().product::<usize>();
        share.bytes += bytes;
        found.bytes += bytes;
        *found.types.entry(info.dtype.to_string()).or_default() += 1;
    }
    found.parts = KINDS.iter().filter_map(|kind| parts.remove(kind)).collect();
}
