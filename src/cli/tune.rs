//! `sdmoe tune`: times the shapes of products.

use crate::bench::tune::{Timing, measure, products};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::shapes::SHAPES;

use super::device::DeviceArgs;

/// Flags of `sdmoe tune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Only the products whose line contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print every way, not the fastest alone
    #[arg(long)]
    all: bool,
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<()> {
    let gpu = pollster::block_on(Gpu::open(&args.device.options()))?;
    for product in products() {
        let name = format!("{product:?}").to_lowercase();
        if args.filter.as_ref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let mut timings = measure(&gpu, product, 5)?;
        timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let line = |t: &Timing| {
            let Timing { shape, splits, seconds, .. } = *t;
            let shape = SHAPES[shape];
            format!("{name}  {:9.1} us  {:8.0} GFLOP/s  {shape}, {splits} parts\n", seconds * 1e6, t.flops() * 1e-9)
        };
        let shown = if args.all { timings.len() } else { 1 };
        super::print(&timings[..shown.min(timings.len())].iter().map(line).collect::<String>())?;
    }
    Ok(())
}
