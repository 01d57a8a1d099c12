//! Does spectral decoupling help? Off, on, and as published, several seeds, paired; prints the table of
//! `docs/experiments.md`.
//!
//! `cargo bench --bench study -- [--steps N] [--seeds N] [--lr LR] TEXT...`. Of each text the last tenth is held out;
//! training draws from all of them.

use std::time::Instant;

use pollster::block_on;
use sdmoe::data::{Batches, Validation};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::Preset;
use sdmoe::optim::MetricOptions;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::Side;
use sdmoe::train::specialisation::similarities;
use sdmoe::train::trainer::Trainer;

type Failure = Box<dyn std::error::Error>;

const MODES: [&str; 3] = ["off", "on", "as published"];
const VALIDATION_BATCHES: usize = 48;

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
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

fn run(gpu: &Gpu, config: &RunConfig, text: &[u8], held_out: &[u8]) -> Result<Figures, Failure> {
    let (batch, seq) = (config.train.batch, config.train.seq);
    let batches = Batches::new(text, batch, seq, config.seed)?;
    let mut trainer = Trainer::new(gpu, config)?;
    let began = Instant::now();
    for step in 1..=config.train.steps {
        trainer.step(&[batches.batch(step, 0)])?;
        block_on(trainer.reports(false))?;
    }
    block_on(trainer.reports(true))?;
    let seconds = began.elapsed().as_secs_f64();
    let windows = Validation::new(held_out, batch, seq, VALIDATION_BATCHES)?;
    let loss = f64::from(block_on(trainer.evaluate(windows.iter()))?);
    let similarity = block_on(similarities(&trainer))?;
    let hidden = || similarity.iter().filter(|s| s.side == Side::Hidden);
    let spectral = block_on(trainer.optimizer().metrics(MetricOptions { similarity: false, subspace: 0 })?.read())?;
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

fn main() -> Result<(), Failure> {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.train.steps = 600;
    let (mut seeds, mut texts) = (3, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg}: expected a value"));
        match arg.as_str() {
            "--bench" => {}
            "--steps" => config.train.steps = value()?.parse()?,
            "--seeds" => seeds = value()?.parse()?,
            "--lr" => config.optimizer.lr = value()?.parse()?,
            path => texts.push(std::fs::read(path).map_err(|e| format!("{path}: {e}"))?),
        }
    }
    if texts.is_empty() {
        return Err("expected files to train on".into());
    }
    let cut = |t: &Vec<u8>| t.len() - t.len() / 10;
    let text: Vec<u8> = texts.iter().flat_map(|t| &t[..cut(t)]).copied().collect();
    let held_out: Vec<u8> = texts.iter().flat_map(|t| &t[cut(t)..]).copied().collect();
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    println!("adapter {} ({})", gpu.adapter().name, gpu.adapter().driver);
    println!(
        "{} steps of {} x {} bytes, learning rate {}, {} bytes to train on, {} held out\n",
        config.train.steps,
        config.train.batch,
        config.train.seq,
        config.optimizer.lr,
        text.len(),
        held_out.len()
    );
    println!(
        "| seed | spectral | validation loss | against off | drift | gap | beyond rank | merged | W_u | share | s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut all = [const { Vec::new() }; MODES.len()];
    for seed in 1..=seeds {
        let mut off = 0.0;
        for (mode, done) in MODES.iter().zip(&mut all) {
            config.seed = seed;
            config.spectral.enabled = *mode != "off";
            config.spectral.as_published = *mode == "as published";
            let f = run(&gpu, &config, &text, &held_out)?;
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
