//! What spectral decoupling adds to a training step, by kernel: off, both forms of the gradient split, and as
//! published, in turn in one process; of each kernel the fastest of several steps. For what whole steps are too long to
//! tell on a shared machine (`sdmoe bench spectral`).
//!
//! `cargo bench --bench decoupling -- [--steps N] [--batch N] [--small]`: two layers of d = 1024, f = 704, 8 experts
//! top-2, or the preset `small`; batches of N sequences of 256 tokens. Steps with a refresh are left out.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;
use pollster::block_on;
use sdmoe::Result;
use sdmoe::bench::shapes::{d256, d1024};
use sdmoe::data::Batches;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::GradientForm;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

const MODES: [&str; 4] = ["off", "direct", "token space", "published"];
/// Kernels below this many milliseconds in every mode are summed up.
const SHOWN: f64 = 1.0;

/// What spectral decoupling adds to a training step, by kernel
#[derive(Parser)]
struct Args {
    /// Steps that are looked at
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Sequences of 256 tokens a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// The preset `small` instead of two wide layers
    #[arg(long)]
    small: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Fastest milliseconds of all calls of a kernel in a step.
type Best = BTreeMap<&'static str, f64>;

fn config(args: &Args, mode: &str) -> RunConfig {
    let mut config = if args.small { d256() } else { d1024(1) };
    config.train.batch = args.batch;
    // None is to refresh.
    config.spectral.refresh_every = u64::MAX;
    config.spectral.enabled = mode != "off";
    config.spectral.as_published = mode == "published";
    config.spectral.gradient_form = if mode == "token space" { GradientForm::TokenSpace } else { GradientForm::Direct };
    config
}

fn measure(args: &Args) -> Result<Vec<Best>> {
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    println!("adapter {} ({}), best of {} steps, ms", gpu.adapter().name, gpu.adapter().driver, args.steps);
    let text = include_bytes!("../src/train/trainer.rs").repeat(8);
    let mut trainers = Vec::new();
    for mode in MODES {
        trainers.push((Trainer::new(&gpu, &config(args, mode))?, Best::new()));
    }
    let train = config(args, "off").train;
    let batches = Batches::new(&text, train.batch, train.seq, 1)?;
    // The first step compiles.
    for step in 0..=args.steps {
        for (trainer, best) in &mut trainers {
            gpu.start_profile()?;
            trainer.step(&[batches.batch(step, 0)])?;
            block_on(trainer.reports(true))?;
            let mut sums = Best::new();
            for dispatch in block_on(gpu.finish_trace())? {
                *sums.entry(dispatch.kernel).or_default() += 1e3 * (dispatch.end - dispatch.begin);
            }
            for (kernel, ms) in sums.into_iter().filter(|_| step > 0) {
                let least = best.entry(kernel).or_insert(f64::INFINITY);
                *least = least.min(ms);
            }
        }
    }
    Ok(trainers.into_iter().map(|(_, best)| best).collect())
}

/// Whether a kernel belongs to the optimizer: the direct form is in no other.
fn of_optimizer(kernel: &str) -> bool {
    ["adam", "spectral", "sum_squares", "sum_blocks", "left_factors", "add_shared", "sum_experts"]
        .iter()
        .any(|part| kernel.contains(part))
}

fn print(found: &[Best]) {
    let row = |name: &str, values: &[f64]| {
        let cells: String =
            values.iter().map(|x| if *x > 0.0 { format!("{x:>12.1}") } else { " ".repeat(12) }).collect();
        println!("{name:36}{cells}");
    };
    println!("{:36}{}", "", MODES.map(|mode| format!("{mode:>12}")).concat());
    let mut kernels: Vec<&str> = found.iter().flat_map(|best| best.keys().copied()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    let of = |kernel: &str| -> Vec<f64> { found.iter().map(|best| best.get(kernel).copied().unwrap_or(0.0)).collect() };
    let largest = |kernel: &str| of(kernel).into_iter().fold(0.0, f64::max);
    kernels.sort_by(|a, b| largest(b).total_cmp(&largest(a)));
    let sum = |chosen: &dyn Fn(&str) -> bool| -> Vec<f64> {
        found.iter().map(|best| best.iter().filter(|(k, _)| chosen(k)).map(|(_, ms)| ms).sum()).collect()
    };
    kernels.iter().filter(|k| largest(k) >= SHOWN).for_each(|k| row(k, &of(k)));
    row("the rest", &sum(&|k| largest(k) < SHOWN));
    let (all, optimizer) = (sum(&|_| true), sum(&of_optimizer));
    row("all kernels", &all);
    row("the optimizer's", &optimizer);
    // The token-space form has kernels beyond the optimizer, and longer products.
    let share = |(mode, ms): (&&str, &f64)| match *mode {
        "token space" => " ".repeat(12),
        _ => format!("{:>12.4}", (ms - optimizer[0]) / all[0]),
    };
    let added: Vec<String> = MODES.iter().zip(&optimizer).map(share).collect();
    println!("{:36}{}", "added by these, over all of off", added.concat());
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(found) => {
            print(&found);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
