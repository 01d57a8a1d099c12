//! `sdmoe export`: a model as a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::checkpoint::{ExportOptions, ExportType, HubFiles, TensorFile, export, require_new};
use crate::error::{Error, Result};
use crate::nn::config::ModelConfig;
use crate::nn::families::{Family, FamilyModel, Layout, Parameter};
use crate::train::pretrained::Pretrained;

/// Flags of `sdmoe export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a run, one of its checkpoints, or a Hugging Face folder
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// The Hugging Face folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The family [default: the one that the model came from, or else the first whose models can have its settings]
    #[arg(long, value_name = "NAME", value_parser = family)]
    family: Option<Family>,
    /// The type of the numbers
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Store the experts of a layer in two tensors, as transformers 5 has them in memory
    #[arg(long)]
    fused: bool,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum Dtype {
    /// As they are
    #[default]
    F32,
    /// Rounded to 16 bits
    Bf16,
}

impl From<Dtype> for ExportType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => ExportType::F32,
            Dtype::Bf16 => ExportType::Bf16,
        }
    }
}

fn family(name: &str) -> std::result::Result<Family, String> {
    let names = || Family::ALL.map(Family::name).join(", ");
    Family::by_name(name).ok_or_else(|| format!("expected one of {}", names()))
}

/// Exports.
pub(super) fn run(args: &Args) -> Result<()> {
    require_new(&args.out)?;
    let source = Pretrained::open(&args.model)?;
    source.complete()?;
    let config = source.config();
    let came_from = source.family_model()?;
    let copies = source.hub_folder().map_or(Vec::new(), |folder| HubFiles::paths_without_model(&folder));
    let copies = copies.into_iter().map(|(_, path)| path).collect();
    let (model, like) = match (args.family, came_from) {
        // With all that its config.json said.
        (family, Some((model, text))) if family.is_none_or(|family| family == model.family) => {
            (FamilyModel { config: config.clone(), ..model }, Some(text))
        }
        (Some(family), _) => (FamilyModel::new(family, config, source.context())?, None),
        (None, _) => (fitting(config, source.context())?, None),
    };
    let dtype = args.dtype.into();
    let layout = if args.fused { Layout::Fused } else { Layout::PerExpert };
    let options = ExportOptions { dtype, layout, copies, like, ..ExportOptions::default() };
    let mut numbers = Numbers::of(&source)?;
    export(&args.out, &model, &options, |parameter, first, out| numbers.read(parameter, first, out))?;
    super::print(&format!("{} model in {}\n", model.family.name(), super::shown(&args.out)))
}

/// The numbers of a model's parameters.
enum Numbers<'a> {
    /// All of them.
    All(BTreeMap<String, Vec<f32>>),
    /// Files of a checkpoint, parameters and state, of which one parameter is held: its matrices are asked for one behind the
    /// other.
    Files { model: &'a TensorFile, state: Option<Box<TensorFile>>, held: (String, Vec<f32>) },
}

impl<'a> Numbers<'a> {
    fn of(source: &'a Pretrained) -> Result<Self> {
        let saved = match source {
            Pretrained::Saved(saved) => saved,
            Pretrained::Family(_) => {
                return Ok(Numbers::All(source.read()?.into_iter().map(|p| (p.name, p.values)).collect()));
            }
        };
        let state = saved.config.model.moe.biases_choice().then(|| saved.optimizer().map(Box::new)).transpose()?;
        Ok(Numbers::Files { model: &saved.tensors, state, held: Default::default() })
    }

    fn read(&mut self, parameter: &Parameter, first: usize, out: &mut [f32]) -> Result<()> {
        let (name, shape) = (&parameter.name, &parameter.shape);
        let values = match self {
            Numbers::All(all) => {
                let missing = || Error::config("model", format!("expected a parameter `{name}`, found none"));
                all.get(name).ok_or_else(missing)?
            }
            Numbers::Files { model, state, held } => {
                if held.0 != *name {
                    let file = state.as_deref().filter(|_| parameter.state).unwrap_or(model);
                    *held = (name.clone(), file.expect_f32(name, shape)?);
                }
                &held.1
            }
        };
        out.copy_from_slice(&values[first..first + out.len()]);
        Ok(())
    }
}

/// The first family whose models can have these settings.
fn fitting(config: &ModelConfig, context: usize) -> Result<FamilyModel> {
    let mut reasons = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| family.has_experts()) {
        match FamilyModel::new(family, config, context) {
            Ok(model) => return Ok(model),
            Err(error) => reasons.push(format!("{}: {error}", family.name())),
        }
    }
    let message = format!("no published family has a model of these settings ({})", reasons.join("; "));
    Err(Error::config("model", message))
}
