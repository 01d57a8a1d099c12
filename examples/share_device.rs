//! Draws frames on one thread while another trains on the same device, and prints how long a frame takes: alone, beside training
//! as it comes, and beside training that keeps to a budget.

mod renderer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use renderer::Renderer;
use sdmoe::gpu::{Budget, OPTIONAL_FEATURES};
use sdmoe::prelude::*;
use sdmoe::wgpu;

/// The longest that training may keep the device busy at a time.
const SUBMISSION: Duration = Duration::from_millis(8);
const FRAMES: usize = 60;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, queue) = pollster::block_on(device())?;
    let gpu = Gpu::from_device(device.clone(), queue.clone(), &GpuOptions::default())?;
    let renderer = Renderer::new(device, queue);
    let alone = renderer.draw(FRAMES)?;
    print("alone", &alone, "");

    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.layers, config.model.d_model, config.model.head_dim) = (2, 64, 16);
    (config.model.moe.d_expert, config.model.moe.d_shared) = (64, 64);
    config.train.seq = 64;
    let text = include_bytes!("../src/train/trainer.rs");
    let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;
    let mut trainer = Trainer::new(&gpu, &config)?;
    for step in 1..=2 {
        pollster::block_on(trainer.warm_up_step(&[batches.batch(step, 0)], |compiling| eprint!("{compiling}\r")))?;
    }
    for budget in [None, Some(Budget::new(SUBMISSION)), Some(Budget::new(SUBMISSION).share(0.5))] {
        gpu.set_budget(budget);
        // The times of kernels are measured.
        train(&mut trainer, &batches, |step| step < 4)?;
        // From here on submissions are counted.
        gpu.set_budget(budget);
        let (stop, first, began) = (AtomicBool::new(false), trainer.step_number(), Instant::now());
        let frames = std::thread::scope(|scope| {
            let worker = scope.spawn(|| train(&mut trainer, &batches, |_| !stop.load(Ordering::Relaxed)));
            let frames = renderer.draw(FRAMES);
            stop.store(true, Ordering::Relaxed);
            worker.join().map_err(|_| "the worker panicked")??;
            Ok::<_, Box<dyn std::error::Error>>(frames?)
        })?;
        let steps = (trainer.step_number() - first) as f64 / began.elapsed().as_secs_f64();
        let Some(budget) = budget else {
            print("beside training", &frames, &format!(", {steps:.1} steps/s"));
            continue;
        };
        let pacing = gpu.pacing();
        let (mean, longest, share) = (pacing.mean(), pacing.longest, pacing.share());
        let what = format!("share {}", budget.share);
        print(
            &what,
            &frames,
            &format!(", {steps:.1} steps/s, submissions of {mean:.1?}, at most {longest:.1?}, share {share:.2}"),
        );
        // A software driver computes on cores that others use too: single submissions wait for them.
        let held = if gpu.adapter().is_software() { mean } else { longest };
        if held > 2 * SUBMISSION && pacing.single < pacing.over {
            return Err(format!("a submission took {held:?}, with {SUBMISSION:?} allowed: {pacing:?}").into());
        }
    }
    Ok(())
}

/// Trains while `goes_on` says so, which is given the number of steps done.
fn train(trainer: &mut Trainer, batches: &Batches, goes_on: impl Fn(u64) -> bool) -> Result<()> {
    let first = trainer.step_number();
    while goes_on(trainer.step_number() - first) {
        trainer.step(&[batches.batch(trainer.step_number() + 1, 0)])?;
        pollster::block_on(trainer.reports(false))?;
    }
    pollster::block_on(trainer.reports(true)).map(drop)
}

fn print(what: &str, frames: &[Duration], more: &str) {
    let [median, p95, longest] = [frames.len() / 2, frames.len() * 95 / 100, frames.len() - 1].map(|i| frames[i]);
    println!("{what:15} frames: median {median:.1?}, p95 {p95:.1?}, longest {longest:.1?}{more}");
}

/// The application's own device.
async fn device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let description = wgpu::DeviceDescriptor {
        required_features: adapter.features() & OPTIONAL_FEATURES,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    Ok(adapter.request_device(&description).await?)
}
