//! The `sdmoe` program: reads flags, checks what can be checked, calls the library, prints.
//!
//! Everything that is wrong with flags, files and data is found before a device is opened and before anything is
//! written. Exit codes: 0 when all went well, 1 when `verify` found failures, 2 for any error, with one line on standard
//! error, and 130 (the shells' number for an interrupt) for training that Ctrl-C, SIGTERM or SIGHUP ended before its last
//! step, so that `sdmoe train && ...` does not go on.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::train::progress::{plain, say, without_controls};

mod analysis_bar;
mod analyze;
mod bench;
mod by_layer;
mod decouple;
mod device;
mod devices;
mod eval;
mod export;
mod generate;
mod inspect;
mod panic;
mod stop;
mod train;
mod tune;
mod upcycle;
mod usage;
mod verify;
mod verify_shader;
mod weights;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sdmoe",
    version,
    after_help = "Exit codes: 0 done; 1 `verify` found failures; 2 an error, reported in one line; 130 training interrupted (Ctrl-C, SIGTERM, SIGHUP), checkpoint written.",
    about = "Trains Mixture-of-Experts language models with spectral decoupling (SD-MoE)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a byte-level model; without arguments a tiny one, on sdmoe's own sources, in minutes
    Train(Box<train::Args>),
    /// Generate text from a run, a checkpoint or a Hugging Face folder
    Generate(generate::Args),
    /// Measure the loss of a run, a checkpoint or a Hugging Face folder on a text
    Eval(eval::Args),
    /// Split the experts of a model into a common part and unique ones, without changing what it computes
    Decouple(decouple::Args),
    /// Make every expert of a new model a copy of a dense one's feed-forward network
    Upcycle(upcycle::Args),
    /// Write a model as a Hugging Face folder
    Export(export::Args),
    /// Analyse how specialised the experts of a run, a checkpoint or a published model are, as a report
    Analyze(Box<analyze::Args>),
    /// Inspect a checkpoint or a Hugging Face folder: what it holds, and whether anything is wrong with it
    Inspect(inspect::Args),
    /// Measure the kernels and the training step, against the adapter's and the CPU's own rates
    Bench(bench::Args),
    /// Time the shapes in which a GPU can compute products
    Tune(tune::Args),
    /// Verify that this machine's drivers compute the right thing
    Verify(Box<verify::Args>),
    /// List the GPU adapters, and which of them the other commands take
    Devices(devices::Args),
}

/// Runs the program with the command line `args`, whose first entry is its name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    crate::gpu::unsafe_code::quiet_without_a_desktop();
    let cli = match Cli::try_parse_from(usage::join_negative_numbers(args)) {
        Ok(cli) => cli,
        // Help and version come here too; nothing is left to say when even this cannot be printed.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            say(&format!("error: {}", usage::one_line::<Cli>(&e)));
            return ExitCode::from(2);
        }
    };
    let work = || match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Generate(args) => generate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Eval(args) => eval::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Decouple(args) => decouple::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Upcycle(args) => upcycle::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Export(args) => export::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Analyze(args) => analyze::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Inspect(args) => inspect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tune(args) => tune::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => verify::run(&args),
        Command::Devices(args) => devices::run(&args).map(|()| ExitCode::SUCCESS),
    };
    let message = match panic::caught(work) {
        Ok(Ok(code)) => return code,
        Ok(Err(e)) => e.to_string(),
        Err(panic) => panic,
    };
    say(&format!("error: {}", message.replace('\n', " ")));
    ExitCode::from(2)
}

/// An error about a setting that a flag sets, with the flag's name.
fn as_flag(error: Error) -> Error {
    match error {
        Error::Config { field, message } => Error::config(format!("--{field}"), message),
        other => other,
    }
}

/// Checks that a file can be written that is written after minutes.
fn writable(flag: &'static str, path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
        let message = format!("expected a file in a folder that exists, got {}", path.display());
        return Err(Error::config(flag, message));
    }
    Ok(())
}

/// A path on one line that does nothing to a terminal.
fn shown(path: &Path) -> String {
    plain(&path.display().to_string()).into_owned()
}

/// Tells of something doubtful, on one line of standard error.
fn warn(message: &str) {
    say(&format!("warning: {message}"));
}

/// Prints to standard output, control characters but line ends and tabs as their code; a reader that went away
/// (`sdmoe ... | head`) is not a failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = without_controls(text, &['\n', '\t']);
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("writing", Path::new("standard output"))(e))
        }
        _ => Ok(()),
    }
}
