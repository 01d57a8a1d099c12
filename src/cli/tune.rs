//! `sdmoe tune`: finds the fastest shapes of products on an adapter and keeps them.

use std::time::{Duration, Instant};

use crate::bench::tune::{Family, LIMIT, Timing, Tuned, families, tune};
use crate::error::Result;
use crate::gpu::{Gpu, Tier};
use crate::kernels::cuts::name;

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
    /// Also products of f16 operands on matrix units, for --matrix-units of the other commands
    #[arg(long)]
    matrix_units: bool,
    /// Seconds to measure, about
    #[arg(long, value_name = "S", default_value_t = LIMIT.as_secs(), value_parser = whole::<u64>)]
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
    let (product, rate, shape) = (product.to_string(), timing.flops() * 1e-9, name(*shape));
    format!("{product:<35} {:10.1} us {rate:9.1} GFLOP/s  {shape}{parts}\n", seconds * 1e6)
}

/// The families of kernels beside each other, the fastest first, and what that means for the adapter's own.
fn compared(families: &[Family], own: Tier) -> String {
    let times: Vec<String> = families.iter().map(|one| format!("{} {:.2}", one.tier.name(), one.ratio)).collect();
    let advice = match families.first() {
        Some(fastest) if fastest.tier != own => {
            let name = fastest.tier.name();
            format!("the {name} kernels were faster at products than those that this adapter gets: try --tier {name}\n")
        }
        _ => format!("the {} kernels, which this adapter gets, are kept\n", own.name()),
    };
    format!(
        "products of small training steps, time over that of the {} kernels: {}\n{advice}",
        own.name(),
        times.join(", ")
    )
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<()> {
    let (began, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let options = args.device.options().matrix_units(args.matrix_units);
    let gpu = pollster::block_on(Gpu::open(&options))?;
    if options.tier.is_none() {
        super::print(&compared(&families(&gpu, &options, limit / 4)?, gpu.tier()))?;
        if gpu.tier() != Tier::Gpu {
            return super::print("they come in one shape: there is nothing else to choose\n");
        }
    }
    let folder = if args.dry_run { None } else { cache_folder() };
    let mut measured = false;
    let path = tune(&gpu, limit.saturating_sub(began.elapsed()), folder.as_deref(), |Tuned { timings, chosen }| {
        measured = true;
        if args.all {
            return super::print(&timings.iter().map(line).collect::<String>());
        }
        chosen.map_or(Ok(()), |place| super::print(&line(&timings[place])))
    })?;
    match path {
        Some(path) => super::print(&format!("kept in {}\n", path.display())),
        None if measured => Ok(()),
        None => super::print(&format!("no product could be measured within {} s\n", args.seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_is_faster_than_the_adapters_own_is_named_with_its_flag() {
        let family = |tier, ratio| Family { tier, ratio };
        let text = compared(&[family(Tier::Software, 1.0), family(Tier::Plain, 2.0)], Tier::Software);
        assert_eq!(text.lines().next().unwrap().split(": ").nth(1), Some("software 1.00, plain 2.00"));
        assert!(text.contains("the software kernels, which this adapter gets, are kept"), "{text}");
        let text = compared(&[family(Tier::Plain, 0.5), family(Tier::Gpu, 1.0)], Tier::Gpu);
        assert!(text.contains("try --tier plain"), "{text}");
    }
}
