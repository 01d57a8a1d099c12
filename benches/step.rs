//! Training step: tokens per second, time per kernel, and spectral decoupling on against off.
//!
//! `cargo bench --bench step` for the `small` shape. After `--`: `--wide` for two layers of d = 1024, f = 704, 8 experts top-2;
//! `--accumulate N` micro-batches a step; `--published` for the method as published; `--form direct|token_space`;
//! `--steps N` pairs of steps; `--kernels N` kernels in the tables.

use std::time::Instant;

use pollster::block_on;
use sdmoe::data::{Batch, Batches};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::{GradientForm, Preset};
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

/// Steps before anything is timed: pipelines compile and buffers are made in the first, a refresh falls into the last.
const WARM_UP: u64 = 3;

struct Case {
    trainer: Trainer,
    batches: Vec<Batch>,
    next: usize,
    seconds: Vec<f64>,
}

/// The value after `name` among the arguments.
fn option(name: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|a| a == name).and_then(|i| args.get(i + 1).cloned())
}

fn config(spectral: bool) -> RunConfig {
    let flag = |name: &str| std::env::args().any(|a| a == name);
    let mut config = RunConfig::preset(Preset::Small);
    if flag("--wide") {
        let model = &mut config.model;
        (model.d_model, model.layers, model.heads, model.kv_heads, model.head_dim) = (1024, 2, 16, 8, 64);
        (model.moe.d_expert, model.moe.d_shared) = (704, 0);
    }
    config.train.accumulate = option("--accumulate").and_then(|n| n.parse().ok()).unwrap_or(1);
    config.spectral.enabled = spectral;
    config.spectral.as_published = flag("--published");
    config.spectral.gradient_form = match option("--form").as_deref() {
        Some("direct") => GradientForm::Direct,
        Some("token_space") => GradientForm::TokenSpace,
        _ => GradientForm::Auto,
    };
    config
}

impl Case {
    fn new(gpu: &Gpu, spectral: bool, text: &[u8]) -> sdmoe::Result<Self> {
        let config = config(spectral);
        let (batch, seq) = (config.train.batch, config.train.seq);
        let sampler = Batches::new(text, batch, seq, 1)?;
        let batches = (1..=32).map(|step| sampler.batch(step, 0)).collect();
        let mut case = Self { trainer: Trainer::new(gpu, &config)?, batches, next: 0, seconds: Vec::new() };
        for _ in 0..WARM_UP {
            case.step()?;
        }
        case.seconds.clear();
        Ok(case)
    }

    /// One step, from recording it to its last figure.
    fn step(&mut self) -> sdmoe::Result<()> {
        let number = self.trainer.config().train.accumulate as usize;
        let batches: Vec<Batch> = self.batches.iter().cycle().skip(self.next % 32).take(number).cloned().collect();
        self.next += number;
        let began = Instant::now();
        self.trainer.step(&batches)?;
        block_on(self.trainer.reports(true))?;
        self.seconds.push(began.elapsed().as_secs_f64());
        Ok(())
    }

    fn tokens(&self) -> f64 {
        self.batches[0].tokens.len() as f64 * self.trainer.config().train.accumulate as f64
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |name: &str| option(name).and_then(|n| n.parse().ok());
    let steps = number("--steps").unwrap_or(16);
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    println!("adapter {} ({}), {:?} kernels", gpu.adapter().name, gpu.adapter().driver, gpu.tier());
    let text: Vec<u8> = std::iter::repeat_n(include_bytes!("../src/train/trainer.rs"), 4).flatten().copied().collect();
    let mut off = Case::new(&gpu, false, &text)?;
    let mut on = Case::new(&gpu, true, &text)?;
    println!("{} parameters, {} tokens a step", on.trainer.model().params().numel(), on.tokens());
    for _ in 0..steps {
        off.step()?;
        on.step()?;
    }
    for (name, case) in [("spectral off", &off), ("spectral on", &on)] {
        let [low, median, high] = [0.1, 0.5, 0.9].map(|q| case.tokens() / quantile(&case.seconds, 1.0 - q));
        println!("{name:13} {median:6.0} tokens/s (10 % to 90 %: {low:.0} to {high:.0})");
    }
    let ratios: Vec<f64> = on.seconds.iter().zip(&off.seconds).map(|(a, b)| a / b).collect();
    let mean = on.seconds.iter().sum::<f64>() / off.seconds.iter().sum::<f64>();
    println!(
        "on / off      {:.3} median of {} pairs (10 % to 90 %: {:.3} to {:.3}); {mean:.3} with every refresh averaged in",
        quantile(&ratios, 0.5),
        ratios.len(),
        quantile(&ratios, 0.1),
        quantile(&ratios, 0.9)
    );
    for (name, case) in [("spectral off", &mut off), ("spectral on", &mut on)] {
        if gpu.start_profile().is_err() {
            println!("no timestamp queries on this adapter");
            break;
        }
        let began = Instant::now();
        case.step()?;
        let wall = began.elapsed().as_secs_f64();
        let times = block_on(gpu.finish_profile())?;
        let total: f64 = times.iter().map(|t| t.seconds).sum();
        println!("\n{name}: one step, {:.0} ms by the clock, {:.0} ms in kernels", wall * 1e3, total * 1e3);
        println!("{:28} {:>6} {:>10} {:>7}", "kernel", "calls", "ms", "share");
        for time in times.iter().take(number("--kernels").unwrap_or(usize::MAX)) {
            let share = 100.0 * time.seconds / total;
            println!("{:28} {:6} {:10.2} {share:6.1} %", time.name, time.calls, time.seconds * 1e3);
        }
    }
    Ok(())
}
