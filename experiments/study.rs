//! Does spectral decoupling help? Off, on, and as published, several seeds, paired; prints the table of
//! `docs/experiments.md`.
//!
//! `cargo run --release --example study -- [--steps N] [--seeds N] [--lr LR] TEXT...`. Of each text the last tenth is
//! held out; training draws from all of them.

mod support;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use pollster::block_on;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::Preset;
use sdmoe::optim::MetricOptions;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::Side;
use sdmoe::train::specialisation::similarities;
use sdmoe::train::trainer::Trainer;
use support::{Failure, StudyArgs, Texts, print_setting, train, validation_loss};

const MODES: [&str; 3] = ["off", "on", "as published"];

/// Does spectral decoupling help? Off, on and as published, paired by seed
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    study: StudyArgs,
}

/// The figures of one run; those of the decoupling are zero where it is off.
#[derive(Clone, Copy, Default)]
struct Figures {
    loss: f64,
    drift: f64,
    gap: f64,
    beyond: f64,
    merged: f64,
    unique: f64,
    /// Common share of the gradient's energy, in units of chance.
    share: f64,
    seconds: f64,
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    support::mean(values).unwrap_or(0.0)
}

fn run(gpu: &Gpu, config: &RunConfig, texts: &Texts) -> Result<Figures, Failure> {
    let mut trainer = Trainer::new(gpu, config)?;
    let began = Instant::now();
    train(&mut trainer, &texts.train, 1..=config.train.steps)?;
    let seconds = began.elapsed().as_secs_f64();
    let loss = validation_loss(&trainer, texts)?;
    let similarity = block_on(similarities(&trainer))?;
    let hidden = || similarity.iter().filter(|s| s.side == Side::Hidden);
    let mut options = MetricOptions::default();
    options.similarity = false;
    let spectral = block_on(trainer.optimizer().metrics(options)?.read())?;
    let refresh = || spectral.iter().filter_map(|m| m.refresh);
    Ok(Figures {
        loss,
        drift: mean(spectral.iter().flat_map(|m| [m.drift_model, m.drift_hidden])),
        gap: mean(refresh().map(|r| r.common_gap).filter(|g| g.is_finite())),
        beyond: mean(refresh().map(|r| r.common_energy_beyond_rank)),
        merged: mean(hidden().map(|s| f64::from(s.merged))),
        unique: mean(hidden().filter_map(|s| s.unique).map(f64::from)),
        share: mean(spectral.iter().filter_map(|m| Some(m.common_gradient_share? / m.common_gradient_chance))),
        seconds,
    })
}

fn main() -> ExitCode {
    support::finish(compare(&Args::parse().study))
}

fn compare(study: &StudyArgs) -> Result<(), Failure> {
    let mut config = RunConfig::preset(Preset::Tiny);
    study.apply(&mut config);
    let texts = study.read()?;
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    print_setting(&gpu, &config, &texts);
    println!(
        "| seed | spectral | validation loss | against off | drift | gap | beyond rank | merged | W_u | share | s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut all = [const { Vec::new() }; MODES.len()];
    for seed in study.seeds() {
        let mut off = 0.0;
        for (mode, done) in MODES.iter().zip(&mut all) {
            config.seed = seed;
            config.spectral.enabled = *mode != "off";
            config.spectral.as_published = *mode == "as published";
            let f = run(&gpu, &config, &texts)?;
            if *mode == "off" {
                off = f.loss;
            }
            row(&seed.to_string(), mode, &f, f.loss - off);
            done.push((f, f.loss - off));
        }
    }
    for (mode, done) in MODES.iter().zip(&all) {
        let over = |f: fn(&Figures) -> f64| mean(done.iter().map(|(figures, _)| f(figures)));
        let figures = Figures {
            loss: over(|f| f.loss),
            drift: over(|f| f.drift),
            gap: over(|f| f.gap),
            beyond: over(|f| f.beyond),
            merged: over(|f| f.merged),
            unique: over(|f| f.unique),
            share: over(|f| f.share),
            seconds: over(|f| f.seconds),
        };
        row("mean", mode, &figures, mean(done.iter().map(|(_, d)| *d)));
    }
    Ok(())
}

fn row(seed: &str, mode: &str, f: &Figures, difference: f64) {
    println!(
        "| {seed} | {mode} | {:.4} | {difference:+.4} | {:.4} | {:.2} | {:.4} | {:.3} | {:.3} | {:.2} | {:.0} |",
        f.loss, f.drift, f.gap, f.beyond, f.merged, f.unique, f.share, f.seconds
    );
}
