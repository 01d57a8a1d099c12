//! What the studies share: arguments, text, one training run.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::process::ExitCode;

use pollster::block_on;
use sdmoe::data::sources::{self, Source};
use sdmoe::data::{Batches, Validation};
use sdmoe::gpu::Gpu;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

pub type Failure = Box<dyn std::error::Error>;

const VALIDATION_BATCHES: usize = 48;

/// Says in one line what went wrong, and ends with 2 as the program does.
pub fn finish(result: Result<(), Failure>) -> ExitCode {
    let Err(e) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {e}");
    ExitCode::from(2)
}

#[derive(clap::Args)]
pub struct StudyArgs {
    /// Steps of each run
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    first_seed: u64,
    /// Seeds, one after the other
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Highest learning rate [default: that of the preset `tiny`]
    #[arg(long, value_name = "X")]
    lr: Option<f32>,
    /// Files and folders to train on, each a source of its own; the last tenth of each is held out [default: sdmoe's
    /// own sources and documents]
    #[arg(value_name = "TEXT")]
    texts: Vec<PathBuf>,
}

impl StudyArgs {
    /// The seeds.
    pub fn seeds(&self) -> Range<u64> {
        self.first_seed..self.first_seed.saturating_add(self.seeds)
    }

    /// Sets what the arguments say.
    pub fn apply(&self, config: &mut RunConfig) {
        config.train.steps = self.steps;
        if let Some(lr) = self.lr {
            config.optimizer.lr = lr;
        }
    }

    /// Reads the texts.
    pub fn read(&self) -> Result<Texts, Failure> {
        let mut texts = Texts { train: Vec::new(), held_out: Vec::new() };
        for Source { name, mut bytes } in sources::read(&self.texts)? {
            let held_out = bytes.split_off(bytes.len() - bytes.len() / 10);
            texts.train.extend(bytes);
            texts.held_out.push(Source { name, bytes: held_out });
        }
        Ok(texts)
    }
}

/// What is trained on, all sources behind each other, and what is held out of each.
pub struct Texts {
    pub train: Vec<u8>,
    pub held_out: Vec<Source>,
}

/// Prints what the study runs on.
pub fn print_setting(gpu: &Gpu, config: &RunConfig, texts: &Texts) {
    let train = &config.train;
    let held_out: usize = texts.held_out.iter().map(|s| s.bytes.len()).sum();
    println!("adapter {} ({})", gpu.adapter().name, gpu.adapter().driver);
    println!(
        "{} steps of {} x {} bytes, learning rate {}, {} bytes to train on, {held_out} held out\n",
        train.steps,
        train.batch,
        train.seq,
        config.optimizer.lr,
        texts.train.len()
    );
}

/// Runs some steps of a run.
pub fn train(trainer: &mut Trainer, text: &[u8], steps: RangeInclusive<u64>) -> Result<(), Failure> {
    let config = trainer.config().clone();
    let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;
    for step in steps {
        trainer.step(&[batches.batch(step, 0)])?;
        block_on(trainer.reports(false))?;
    }
    block_on(trainer.reports(true))?;
    Ok(())
}

/// Cross-entropy on the held-out parts, nats per byte.
pub fn validation_loss(trainer: &Trainer, texts: &Texts) -> Result<f64, Failure> {
    let train = &trainer.config().train;
    let held_out: Vec<u8> = texts.held_out.iter().flat_map(|s| &s.bytes).copied().collect();
    let windows = Validation::new(&held_out, train.batch, train.seq, VALIDATION_BATCHES)?;
    Ok(f64::from(block_on(trainer.evaluate(windows.iter()))?))
}

pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    (count > 0.0).then(|| sum / count)
}
