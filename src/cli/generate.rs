//! `sdmoe generate`: text from a checkpoint, printed as it comes.

use std::path::PathBuf;

use crate::data::tokenizer::{Printer, encode, printable};
use crate::error::{Error, Result};
use crate::train::Generation;
use crate::train::saved::SavedModel;

use super::device::DeviceArgs;
use super::usage::whole;
use super::warn;

/// A gigabyte of text, which takes years.
const MOST_TOKENS: usize = 1 << 30;

/// Flags of `sdmoe generate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Checkpoint folder, or the folder of a run
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Text to go on from, or - for standard input
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Bytes to generate
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>)]
    tokens: usize,
    /// Divides the logits: below 1 safer, above 1 wilder; 0 always takes the likeliest byte
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Draw from the likeliest bytes that together have this probability [default: 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Seed of the draws [default: 1]
    #[arg(long, value_name = "S", value_parser = whole::<u64>)]
    seed: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Generates.
pub(super) fn run(args: &Args) -> Result<()> {
    if args.prompt.is_empty() {
        return Err(Error::config("--prompt", "expected at least one byte, got none"));
    }
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(Error::config(
            "--temperature",
            format!("expected a number of at least 0, got {}", args.temperature),
        ));
    }
    let top_p = args.top_p.unwrap_or(0.95);
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Error::config("--top-p", format!("expected a number above 0, at most 1, got {top_p}")));
    }
    if args.tokens > MOST_TOKENS {
        return Err(Error::config("--tokens", format!("expected at most {MOST_TOKENS}, got {}", args.tokens)));
    }
    if args.temperature == 0.0 {
        for (flag, given) in [("--top-p", args.top_p.is_some()), ("--seed", args.seed.is_some())] {
            if given {
                warn(&format!("{flag} has no effect: with --temperature 0 the likeliest byte is always taken"));
            }
        }
    }
    let model = SavedModel::open(&args.checkpoint)?;
    let prompt = match args.prompt.as_str() {
        "-" => crate::data::read(&["-".into()])?.bytes,
        text => text.as_bytes().to_vec(),
    };
    // What a pipe brings is shown as what is generated: with nothing in it that a terminal obeys.
    let shown = if args.prompt == "-" { printable(&encode(&prompt)) } else { args.prompt.clone() };
    let what =
        Generation { prompt, tokens: args.tokens, temperature: args.temperature, top_p, seed: args.seed.unwrap_or(1) };
    let mut printer = Printer::default();
    // The prompt comes with the first byte, so that a device that fails leaves nothing on standard output.
    let mut prompt = Some(shown.as_str());
    let each = |byte| {
        super::print(prompt.take().unwrap_or_default())?;
        super::print(&printer.push(byte))
    };
    pollster::block_on(crate::train::run::continue_text(&model, &args.device.options(), &what, each))?;
    super::print(&format!("{}{}\n", prompt.unwrap_or_default(), printer.finish()))
}
