//! Memory of a training step by kind, and what recomputing saves and costs.
//!
//! `cargo bench --bench memory`; words after `--` choose cases (`small`, `wide`), `--steps 6` the steps to time.

use std::time::Instant;

use pollster::block_on;
use sdmoe::data::{Batch, Batches};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::{ModelConfig, MoeConfig, Preset};
use sdmoe::train::config::{Recompute, RunConfig};
use sdmoe::train::trainer::Trainer;

/// Steps before anything is timed: pipelines compile and buffers are made in the first, the last has a refresh.
const WARM_UP: u64 = 2;

/// A run on a device of its own, so that the peak is its own.
struct Case {
    trainer: Trainer,
    batch: Batch,
    seconds: Vec<f64>,
}

impl Case {
    fn new(config: &RunConfig, text: &[u8]) -> sdmoe::Result<Self> {
        let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
        let batch = Batches::new(text, config.train.batch, config.train.seq, 1)?.batch(1, 0);
        let mut case = Self { trainer: Trainer::new(&gpu, config)?, batch, seconds: Vec::new() };
        for _ in 0..WARM_UP {
            case.step()?;
        }
        case.seconds.clear();
        Ok(case)
    }

    fn step(&mut self) -> sdmoe::Result<()> {
        let batch = self.batch.clone();
        let began = Instant::now();
        self.trainer.step(&[batch])?;
        block_on(self.trainer.reports(true))?;
        self.seconds.push(began.elapsed().as_secs_f64());
        Ok(())
    }
}

/// `small`, and two layers with d = 1024 and f = 704; 2048 tokens a step both.
fn shapes() -> [(&'static str, RunConfig); 2] {
    let small = RunConfig::preset(Preset::Small);
    let mut wide = small.clone();
    let moe = MoeConfig { d_expert: 704, d_shared: 704, ..small.model.moe.clone() };
    wide.model =
        ModelConfig { d_model: 1024, layers: 2, heads: 16, kv_heads: 8, head_dim: 64, moe, ..small.model.clone() };
    [("small", small), ("wide", wide)]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let steps = args.iter().position(|a| a == "--steps").and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(6);
    let text: Vec<u8> = std::iter::repeat_n(include_bytes!("../src/train/trainer.rs"), 4).flatten().copied().collect();
    let chosen = |name: &str| !args.iter().any(|a| a == "small" || a == "wide") || args.iter().any(|a| a == name);
    for (name, mut config) in shapes().into_iter().filter(|(name, _)| chosen(name)) {
        config.spectral.refresh_every = WARM_UP;
        let mut cases = Vec::new();
        for recompute in [Recompute::None, Recompute::Experts] {
            config.train.recompute = recompute;
            cases.push(Case::new(&config, &text)?);
            println!("{name}, recompute {recompute:?}\n{}\n", cases[cases.len() - 1].trainer.memory()?);
        }
        for _ in 0..steps {
            cases.iter_mut().try_for_each(Case::step)?;
            let last = |case: &Case| case.seconds.last().copied().unwrap_or_default();
            println!("{name}: {:.3} s a step, {:.3} s recomputing", last(&cases[0]), last(&cases[1]));
        }
        if let ([plain, again], true) = (&cases[..], steps > 0) {
            let saved = 1.0 - again.trainer.memory()?.activations as f64 / plain.trainer.memory()?.activations as f64;
            let ratio = median(again.seconds.iter().zip(&plain.seconds).map(|(a, b)| a / b));
            let (plain, again) = (median(plain.seconds.iter().copied()), median(again.seconds.iter().copied()));
            println!("{name}: {plain:.3} s a step, {again:.3} s recomputing; {ratio:.3} median of {steps} pairs");
            println!("{name}: {:.1} % fewer activation bytes\n", 100.0 * saved);
        }
    }
    Ok(())
}
