//! `sdmoe bench`: measures, prints a table, and with `--json` writes the figures.

use std::path::PathBuf;

use crate::bench::{Options, Plan, Suite};
use crate::checkpoint::write_file_atomically;
use crate::error::{Error, Result};

use super::device::{DeviceArgs, TuneArgs};
use super::usage::whole;
use super::warn;

/// Flags of `sdmoe bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ratios are paired by round, so they hold on a machine that is not quiet; rates do not.")]
pub(super) struct Args {
    /// What to measure
    #[arg(value_name = "SUITE", default_value = "all")]
    suites: Vec<Choice>,
    /// Only the cases whose name contains this, and what they are set against
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// List the cases and measure nothing
    #[arg(long)]
    list: bool,
    /// Write the figures to this file, a list of objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Products of f16 operands on matrix units, through wgpu's experimental cooperative matrices (see `sdmoe devices`)
    #[arg(long)]
    matrix_units: bool,
    /// Rounds of each group of cases
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds, value_parser = whole::<usize>)]
    rounds: usize,
    /// Seconds after which a group of cases has no further round, once it has three
    #[arg(long, value_name = "S", default_value_t = Options::default().seconds)]
    seconds: f64,
    /// One run of each case that is short: to see that everything works
    #[arg(long)]
    quick: bool,
    /// List the kernels that computed products, and the shapes in which they ran
    #[arg(long)]
    shapes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Gemm,
    Experts,
    Attention,
    Norms,
    Svd,
    Spectral,
    Step,
    All,
}

impl Choice {
    fn suite(self) -> Option<Suite> {
        Some(match self {
            Choice::Gemm => Suite::Gemm,
            Choice::Experts => Suite::Experts,
            Choice::Attention => Suite::Attention,
            Choice::Norms => Suite::Norms,
            Choice::Svd => Suite::Svd,
            Choice::Spectral => Suite::Spectral,
            Choice::Step => Suite::Step,
            Choice::All => return None,
        })
    }
}

/// Measures.
pub(super) fn run(args: &Args) -> Result<()> {
    let named: Vec<Suite> = args.suites.iter().filter_map(|choice| choice.suite()).collect();
    let all = args.suites.contains(&Choice::All);
    let suites: Vec<Suite> = Suite::ALL.into_iter().filter(|suite| all || named.contains(suite)).collect();
    let options = Options {
        filter: args.filter.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        quick: args.quick,
        shapes: args.shapes,
    };
    let plan = Plan::new(&suites, options)?;
    if args.list {
        if args.json.is_some() {
            warn("--json has no effect: with --list nothing is measured");
        }
        return super::print(&plan.names().map(|name| format!("{name}\n")).collect::<String>());
    }
    if let Some(path) = &args.json {
        super::writable("--json", path)?;
    }
    let options = args.device.options().matrix_units(args.matrix_units);
    let gpu = args.tune.open(&options)?;
    let figures = plan.run(&gpu, super::print)?;
    match &args.json {
        Some(path) => {
            let text = serde_json::to_string_pretty(&figures)
                .map_err(|e| Error::config("--json", format!("a figure that is no number: {e}")))?;
            write_file_atomically(path, (text + "\n").as_bytes())
        }
        None => Ok(()),
    }
}
