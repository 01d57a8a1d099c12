//! Does spectral decoupling help where experts overlap from the start? A dense model is trained, upcycled, and trained on:
//! dense, and with experts, decoupled and not; several seeds, paired.
//!
//! `cargo run --release --example upcycle -- [--dense-steps N] [--steps N] [--seeds N] [--lr LR] [--noise X] TEXT...`. Of each
//! text the last tenth is held out; training draws from all of them.

mod support;

use std::process::ExitCode;

use clap::Parser;
use pollster::block_on;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::{ExpertMatrix, Preset};
use sdmoe::nn::model::Model;
use sdmoe::nn::upcycle::{Upcycle, Upcycled};
use sdmoe::optim::SpectralInit;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::Side;
use sdmoe::train::specialisation::similarities;
use sdmoe::train::trainer::Trainer;
use support::{Failure, StudyArgs, Texts, mean, print_setting, validation_loss};

/// What is done with the dense model.
const MODES: [&str; 4] = ["dense", "off", "on", "as published"];

/// Fractions of the steps after which the models are looked at.
const MARKS: [f64; 6] = [0.0, 0.05, 0.125, 0.25, 0.5, 1.0];

/// Upcycled models trained on with spectral decoupling off, on and as published, paired by seed
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    study: StudyArgs,
    /// Steps of the dense model before it is upcycled, at the preset's learning rate
    #[arg(long, value_name = "N", default_value_t = 600)]
    dense_steps: u64,
    /// Noise on the copies, in units of a matrix' root mean square
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    noise: f32,
}

/// Figures after some steps; those of experts are none for a dense model.
#[derive(Clone, Copy)]
struct Figures {
    loss: f64,
    /// Similarity of merged experts on the hidden side, and of their own parts.
    merged: Option<f64>,
    unique: Option<f64>,
    /// Similarity that chance gives.
    chance: Option<f64>,
    /// `|W_i - mean|_F / |mean|_F`, over experts, layers and matrices.
    apart: Option<f64>,
}

fn look(trainer: &Trainer, texts: &Texts) -> Result<Figures, Failure> {
    let loss = validation_loss(trainer, texts)?;
    let similarity = block_on(similarities(trainer))?;
    let hidden = || similarity.iter().filter(|s| s.side == Side::Hidden);
    let mut apart = Vec::new();
    for layer in trainer.model().config().moe_layers() {
        for bank in ExpertMatrix::ALL.into_iter().filter_map(|matrix| trainer.model().experts(layer, matrix)) {
            apart.extend(distances(&block_on(bank.to_f32())?, bank.dims()[0]));
        }
    }
    Ok(Figures {
        loss,
        merged: mean(hidden().map(|s| f64::from(s.merged))),
        unique: mean(hidden().filter_map(|s| s.unique).map(f64::from)),
        chance: mean(hidden().map(|s| f64::from(s.chance))),
        apart: mean(apart.into_iter()),
    })
}

/// How far each of a bank's experts is from their mean, in units of the mean.
fn distances(bank: &[f32], experts: usize) -> Vec<f64> {
    let size = bank.len() / experts;
    let centre: Vec<f64> =
        (0..size).map(|i| (0..experts).map(|e| f64::from(bank[e * size + i])).sum::<f64>() / experts as f64).collect();
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let whole = norm(&mut centre.iter().copied());
    let apart = |expert: &[f32]| norm(&mut expert.iter().zip(&centre).map(|(x, c)| f64::from(*x) - c)) / whole;
    bank.chunks(size).map(apart).collect()
}

/// Trains, and looks at the model after each of the steps `marks`.
fn train(trainer: &mut Trainer, texts: &Texts, marks: &[u64]) -> Result<Vec<Figures>, Failure> {
    let mut found = Vec::new();
    for &mark in marks {
        support::train(trainer, &texts.train, trainer.step_number() + 1..=mark)?;
        found.push(look(trainer, texts)?);
    }
    Ok(found)
}

fn main() -> ExitCode {
    support::finish(compare(&Args::parse()))
}

fn compare(args: &Args) -> Result<(), Failure> {
    let mut dense = RunConfig::preset(Preset::Tiny);
    (dense.model.dense_layers, dense.model.d_dense) = ((0..dense.model.layers).collect(), 256);
    dense.train.steps = args.dense_steps;
    let mut config = dense.clone();
    config.optimizer.lr = 1e-3;
    args.study.apply(&mut config);
    let marks: Vec<u64> = MARKS.iter().map(|f| (f * config.train.steps as f64).round() as u64).collect();
    let texts = args.study.read()?;
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    println!("dense: {} steps at learning rate {}; then", dense.train.steps, dense.optimizer.lr);
    print_setting(&gpu, &config, &texts);
    println!("| seed | what | step | validation loss | against off | merged | W_u | apart |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut all = [const { Vec::new() }; MODES.len()];
    for seed in args.study.seeds() {
        (dense.seed, config.seed) = (seed, seed);
        let mut trainer = Trainer::new(&gpu, &dense)?;
        let before = train(&mut trainer, &texts, &[dense.train.steps])?[0];
        row(&seed.to_string(), "before", dense.train.steps, &before, None);
        // Other windows than those that the dense model has seen.
        config.seed = seed + 1000;
        let mut runs = Vec::new();
        for mode in MODES {
            let found = go_on(&gpu, &config, mode, args, &trainer, &texts, &marks)?;
            runs.push(found);
        }
        let off = runs[1].clone();
        for ((mode, found), done) in MODES.iter().zip(&runs).zip(&mut all) {
            for ((step, figures), off) in marks.iter().zip(found).zip(&off) {
                row(&seed.to_string(), mode, *step, figures, Some(figures.loss - off.loss));
            }
            done.push(found.clone());
        }
    }
    for (mode, runs) in MODES.iter().zip(&all) {
        for (i, step) in marks.iter().enumerate() {
            let over = |f: fn(&Figures) -> Option<f64>| mean(runs.iter().filter_map(|run| f(&run[i])));
            let figures = Figures {
                loss: over(|f| Some(f.loss)).unwrap_or(f64::NAN),
                merged: over(|f| f.merged),
                unique: over(|f| f.unique),
                chance: over(|f| f.chance),
                apart: over(|f| f.apart),
            };
            let off = mean(all[1].iter().map(|run| run[i].loss)).unwrap_or(f64::NAN);
            row("mean", mode, *step, &figures, Some(figures.loss - off));
        }
    }
    let chance = all.iter().flatten().flatten().find_map(|f| f.chance);
    println!("\nchance gives a similarity of {:.3}", chance.unwrap_or(f64::NAN));
    Ok(())
}

/// Trains the dense model on in one of the [`MODES`].
fn go_on(
    gpu: &Gpu,
    config: &RunConfig,
    mode: &str,
    args: &Args,
    dense: &Trainer,
    texts: &Texts,
    marks: &[u64],
) -> Result<Vec<Figures>, Failure> {
    let mut own = Vec::new();
    for param in dense.model().params().iter() {
        own.push((param.name.clone(), block_on(param.value.to_f32())?));
    }
    let value = |name: &str| {
        let found = own.iter().find(|(known, _)| known == name);
        Ok(found.map_or(&[][..], |(_, values)| values))
    };
    let mut config = config.clone();
    config.spectral.enabled = matches!(mode, "on" | "as published");
    config.spectral.as_published = mode == "as published";
    let model = if mode == "dense" {
        let model = Model::new(gpu, &config.model)?;
        model.params().write(|name, _| value(name).map(|values| Some(values.to_vec())))?;
        model
    } else {
        let moe = RunConfig::preset(Preset::Tiny).model.moe;
        let mut options = Upcycle::new(moe.experts, moe.top_k);
        (options.noise, options.seed) = (args.noise, config.seed);
        let upcycled = Upcycled::new(dense.model().config(), options)?;
        config.model = upcycled.config().clone();
        let model = Model::new(gpu, &config.model)?;
        model.params().write(|name, _| upcycled.values(name, value).map(Some))?;
        model
    };
    let mut trainer = Trainer::with_model(gpu, &config, model, SpectralInit::FromWeights { step: 0 })?;
    train(&mut trainer, texts, marks)
}

fn row(seed: &str, what: &str, step: u64, f: &Figures, difference: Option<f64>) {
    let or_none = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
    println!(
        "| {seed} | {what} | {step} | {:.4} | {} | {} | {} | {} |",
        f.loss,
        difference.map_or("-".into(), |d| format!("{d:+.4}")),
        or_none(f.merged),
        or_none(f.unique),
        or_none(f.apart)
    );
}
