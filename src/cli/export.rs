//! `sdmoe export`: a run's model as a Hugging Face folder.

use std::path::PathBuf;

use crate::checkpoint::{ExportOptions, ExportType, export};
use crate::error::{Error, Result};
use crate::nn::config::ModelConfig;
use crate::nn::families::{Family, FamilyModel, Layout};
use crate::train::saved::SavedModel;

/// Flags of `sdmoe export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a run, or one of its checkpoints
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// The Hugging Face folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The family [default: the first whose models can have the run's settings]
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
    let saved = SavedModel::open(&args.run)?;
    saved.complete()?;
    let config = &saved.config.model;
    let model = match args.family {
        Some(family) => FamilyModel::new(family, config, saved.config.train.seq)?,
        None => fitting(config, saved.config.train.seq)?,
    };
    let dtype = args.dtype.into();
    let layout = if args.fused { Layout::Fused } else { Layout::PerExpert };
    let options = ExportOptions { dtype, layout, ..ExportOptions::default() };
    let state = config.moe.biases_choice().then(|| saved.optimizer()).transpose()?;
    // A parameter at a time: its matrices are asked for one behind the other.
    let mut held: (String, Vec<f32>) = Default::default();
    export(&args.out, &model, &options, |parameter, first, numbers| {
        if held.0 != parameter.name {
            let (name, shape) = (&parameter.name, &parameter.shape);
            let file = state.as_ref().filter(|_| parameter.state).unwrap_or(&saved.tensors);
            held = (name.clone(), file.expect_f32(name, shape)?);
        }
        numbers.copy_from_slice(&held.1[first..first + numbers.len()]);
        Ok(())
    })?;
    super::print(&format!("{} model in {}\n", model.family.name(), super::shown(&args.out)))
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
