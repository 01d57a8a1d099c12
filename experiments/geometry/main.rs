//! Does routing make experts compute different things on different inputs (METHOD §7)? Dense, top-K and soft routing at
//! matched capacity, trained on the same batches; prints the table of `docs/experiments.md`.
//!
//! `cargo run --release --example geometry -- [--steps N] [--seeds N] [--models ...] [--json FILE] [TEXT...]`. Of each
//! text the last tenth is held out; training draws from all of them, and the geometry is measured on what was held out.

mod measure;
mod models;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use measure::{Setting, Subspaces};
use models::Kind;
use pollster::block_on;
use run::{Run, run, top_k_model};
use sdmoe::checkpoint::write_file_atomically;
use sdmoe::data::{Corpus, sources};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::{MoeConfig, Preset};
use sdmoe::train::config::RunConfig;
use support::{Failure, StudyArgs, print_setting};

/// Tokens of the held-out text that are looked at, as many as `sdmoe analyze` takes.
const TOKENS: usize = 8192;

/// The geometry of dense, top-K and soft routing at matched capacity
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    study: StudyArgs,
    /// The models to train
    #[arg(long, value_name = "MODEL", value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    models: Vec<Kind>,
    /// Keep every run's figures in this file; runs that it holds already are not made again
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The runs that `path` holds; none where there is no such file.
fn read(path: Option<&Path>) -> Result<Vec<Run>, Failure> {
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(Vec::new()) };
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = std::fs::read(path).map_err(|e| named(&e))?;
    Ok(serde_json::from_slice(&text).map_err(|e| named(&e))?)
}

/// Replaces the runs that `path` holds.
fn write(path: Option<&Path>, runs: &[Run]) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    Ok(write_file_atomically(path, &serde_json::to_vec_pretty(runs)?)?)
}

fn main() -> ExitCode {
    support::finish(compare(&Args::parse()))
}

fn compare(args: &Args) -> Result<(), Failure> {
    let base = top_k_model();
    let mut config = RunConfig::preset(Preset::Tiny);
    args.study.apply(&mut config);
    config.spectral.enabled = false;
    let texts = args.study.read()?;
    let text = Corpus::from_bytes(texts.train.clone(), 0.0, String::new()).fingerprint();
    let json = args.json.as_deref();
    let mut known = read(json)?;
    // A file that cannot be written is told now, not after a run.
    write(json, &known)?;
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    print_setting(&gpu, &config, &texts);

    let seq = config.train.seq;
    let windows = sources::windows(&texts.held_out, TOKENS.div_ceil(seq), seq)?;
    let names: Vec<String> = texts.held_out.iter().map(|s| s.name.clone()).collect();
    let MoeConfig { experts, top_k, .. } = base.moe;
    let mut runs = Vec::new();
    for seed in args.study.seeds() {
        for &kind in &args.models {
            config.seed = seed;
            config.model = kind.model(&base);
            let found = known.iter().find(|r| r.kind == kind && r.config == config && r.text == text);
            if let Some(found) = found {
                runs.push(found.clone());
                continue;
            }
            let setting = Setting { seq, windows: &windows, names: &names, experts, top_k, seed };
            let found = run(&gpu, kind, &config, text, &texts, setting)?;
            eprintln!("seed {seed}, {}: validation loss {:.4}, {:.0} s", kind.name(), found.loss, found.seconds);
            known.push(found.clone());
            runs.push(found);
            write(json, &known)?;
        }
    }
    let chance = block_on(Subspaces::chance(&gpu, base.d_model, 1))?;
    println!("{}", table::table(&runs, &chance));
    Ok(())
}
