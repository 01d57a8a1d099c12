//! `sdmoe tune`: finds the fastest shapes of products on an adapter and keeps them.

use std::time::Duration;

use crate::bench::tune::{Timing, Tuned, tune};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::shapes::SHAPES;

use super::device::{DeviceArgs, cache_folder};
use super::usage::whole;

/// Flags of `sdmoe tune`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The other commands use what is kept, until the driver or sdmoe changes; delete the file to be rid of it."
)]
pub(super) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Seconds to measure, about
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = whole::<u64>)]
    seconds: u64,
    /// Print every way that was measured, not the fastest alone
    #[arg(long)]
    all: bool,
    /// Measure and print, and keep nothing
    #[arg(long)]
    dry_run: bool,
}

fn line(timing: &Timing) -> String {
    let Timing { product, shape, splits, seconds } = timing;
    let parts = if *splits == 1 { String::new() } else { format!(", sums in {splits} parts") };
    let (name, rate) = (product.to_string(), timing.flops() * 1e-9);
    format!("{name:<28} {:10.1} us {rate:9.1} GFLOP/s  {}{parts}\n", seconds * 1e6, SHAPES[*shape])
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<()> {
    let gpu = pollster::block_on(Gpu::open(&args.device.options()))?;
    let folder = if args.dry_run { None } else { cache_folder() };
    let path = tune(&gpu, Duration::from_secs(args.seconds), folder.as_deref(), |Tuned { timings, chosen }| {
        if args.all {
            return super::print(&timings.iter().map(line).collect::<String>());
        }
        chosen.map_or(Ok(()), |place| super::print(&line(&timings[place])))
    })?;
    match path {
        Some(path) => super::print(&format!("kept in {}\n", path.display())),
        None => Ok(()),
    }
}
