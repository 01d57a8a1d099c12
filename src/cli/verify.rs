//! `sdmoe verify`: whether the machine's drivers compute the right thing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::checkpoint::write_file_atomically;
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, GpuOptions};
use crate::verify::{self, Host, Level, Options, Report, Verdict};

use super::device::DeviceArgs;
use super::usage::whole;
use super::verify_shader::ShaderArgs;

/// Flags of `sdmoe verify`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all as expected; 1 something failed; 2 it could not run. docs/verify.md says what is compared with what."
)]
pub(super) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// Every adapter of the machine
    #[arg(long, conflicts_with = "adapter")]
    all: bool,
    /// Another adapter, by a part of its name or by its index, on which each case runs too: how it ends there, and how far
    /// the results are apart
    #[arg(long, value_name = "NAME|INDEX", conflicts_with_all = ["replay", "wgsl", "list"])]
    reference: Option<String>,
    /// Only the cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Most kernels once or twice, in about a minute on two busy CPU cores
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also what is large: more than 65,535 workgroups, tensors beyond a binding, every tile in every form
    #[arg(long)]
    full: bool,
    /// Products of f16 operands on matrix units, through wgpu's experimental cooperative matrices (see `sdmoe devices`)
    #[arg(long)]
    matrix_units: bool,
    /// Chooses the random numbers
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole::<u64>)]
    seed: u64,
    /// Seconds after which a case counts as hung
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = whole::<u64>)]
    timeout: u64,
    /// List the cases and run none
    #[arg(long)]
    list: bool,
    /// Write the report to this file, as an object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report to this file, for a bug report
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the report to this file, for a CI system
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// A folder for what is needed to run each failure again
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// Run the failure again that this folder describes
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    #[command(flatten)]
    shader: ShaderArgs,
}

/// Verifies.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(folder) = &args.replay {
        return replay(args, folder);
    }
    let timeout = Duration::from_secs(args.timeout);
    if let Some(path) = &args.shader.wgsl {
        return args.shader.run(path, &args.device.options().adapter, timeout, args.dump.as_deref());
    }
    let level = if args.quick {
        Level::Quick
    } else if args.full {
        Level::Full
    } else {
        Level::Usual
    };
    let mut options = Options::default();
    options.gpu = GpuOptions { matrix_units: args.matrix_units, ..args.device.options() };
    options.all = args.all;
    options.reference = args.reference.as_deref().map(AdapterChoice::from);
    options.filter.clone_from(&args.filter);
    options.level = level;
    options.seed = args.seed;
    options.timeout = timeout;
    options.dump.clone_from(&args.dump);
    if args.list {
        let names = verify::names(&options)?;
        return super::print(&names.iter().map(|name| format!("{name}\n")).collect::<String>())
            .map(|()| ExitCode::SUCCESS);
    }
    for (flag, path) in [("--json", &args.json), ("--markdown", &args.markdown), ("--junit", &args.junit)] {
        path.as_deref().map_or(Ok(()), |path| super::writable(flag, path))?;
    }
    let host = Host::new();
    // What printing returned first, as the library knows nothing of it.
    let mut printed = Ok(());
    let report = verify::run(&options, &mut |event| {
        if printed.is_ok() {
            printed = super::print(&verify::told(&event, &host));
        }
    })?;
    printed?;
    super::print(&format!("\n{}\n", report.summary()))?;
    write(args, &report)?;
    Ok(match report.verdict() {
        Verdict::AsExpected => ExitCode::SUCCESS,
        Verdict::Failures => ExitCode::FAILURE,
        Verdict::NothingRan => ExitCode::from(2),
    })
}

/// Writes the files that were asked for.
fn write(args: &Args, report: &Report) -> Result<()> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|e| Error::config("--json", format!("a figure that is no number: {e}")))?;
        write_file_atomically(path, (text + "\n").as_bytes())?;
    }
    if let Some(path) = &args.markdown {
        write_file_atomically(path, verify::markdown(report).as_bytes())?;
    }
    if let Some(path) = &args.junit {
        write_file_atomically(path, verify::junit(report).as_bytes())?;
    }
    Ok(())
}

/// Runs a failure again.
fn replay(args: &Args, folder: &Path) -> Result<ExitCode> {
    let replayed = verify::replay(folder, &args.device.options())?;
    super::print(&format!("{}\n", replayed.message))?;
    Ok(if replayed.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
