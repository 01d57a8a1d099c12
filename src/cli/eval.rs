//! `sdmoe eval`: the loss of a checkpoint on a text.

use std::path::PathBuf;

use crate::data::corpus;
use crate::error::Result;
use crate::train::saved::SavedModel;

use super::device::DeviceArgs;

/// Flags of `sdmoe eval`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Checkpoint folder, or the folder of a run
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Files or folders to evaluate on, any text or bytes, or - for standard input
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Evaluates.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = SavedModel::open(&args.checkpoint)?;
    let text = corpus::read(&args.data)?;
    corpus::require(&text.bytes, model.config.train.seq, "the text to evaluate on")?;
    let result = pollster::block_on(crate::train::run::evaluate_text(&model, &args.device.options(), &text.bytes))?;
    let bits = result.loss / std::f32::consts::LN_2;
    super::print(&format!(
        "loss {:.4} nats per byte, {bits:.4} bits per byte, over {} bytes ({})\n",
        result.loss, result.bytes, text.description
    ))
}
