//! Trains in a thread of its own, as beside a window: losses come over a channel, and a flag ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use sdmoe::prelude::*;

fn main() -> Result<()> {
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let (losses, shown) = channel();
    let stop = AtomicBool::new(false);
    // A window would keep the handle and join it when it closes: the device must outlive the thread.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| pollster::block_on(train(&gpu, losses, &stop)));
        for (step, loss) in shown {
            println!("step {step:3}  loss {loss:.3} nats per byte");
            if step == 20 {
                stop.store(true, Ordering::Relaxed);
            }
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Trains until `stop` is set.
async fn train(gpu: &Gpu, losses: Sender<(u64, f32)>, stop: &AtomicBool) -> Result<()> {
    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.layers, config.model.d_model, config.model.head_dim) = (1, 64, 16);
    (config.model.moe.d_expert, config.model.moe.d_shared) = (64, 64);
    (config.train.batch, config.train.seq) = (4, 64);
    let text = include_bytes!("../src/train/trainer.rs");
    let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;
    let mut trainer = Trainer::new(gpu, &config)?;
    while !stop.load(Ordering::Relaxed) {
        trainer.step(&[batches.batch(trainer.step_number() + 1, 0)])?;
        for report in trainer.reports(false).await? {
            // Nobody listens any more: the window is closed.
            if losses.send((report.step, report.loss)).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
