//! Trains two models on one device in lock step, on the same batches: with spectral decoupling and without.

use sdmoe::prelude::*;

fn main() -> Result<()> {
    pollster::block_on(async {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        let text = include_bytes!("../src/train/trainer.rs");
        let mut config = RunConfig::preset(Preset::Tiny);
        (config.model.layers, config.model.d_model, config.model.head_dim) = (1, 64, 16);
        (config.model.moe.d_expert, config.model.moe.d_shared) = (64, 64);
        (config.train.batch, config.train.seq) = (4, 64);
        let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;

        let mut decoupled = Trainer::new(&gpu, &config)?;
        config.spectral.enabled = false;
        let mut plain = Trainer::new(&gpu, &config)?;
        for step in 1..=20 {
            let batch = [batches.batch(step, 0)];
            decoupled.step(&batch)?;
            plain.step(&batch)?;
            let (a, b) = (decoupled.reports(true).await?, plain.reports(true).await?);
            for (a, b) in a.iter().zip(&b).filter(|(a, _)| a.step % 5 == 0) {
                println!(
                    "step {:2}  decoupled {:.4}  plain {:.4}  difference {:+.4}",
                    a.step,
                    a.loss,
                    b.loss,
                    a.loss - b.loss
                );
            }
        }
        // One of them goes, and its memory with it.
        drop(plain);
        let before = gpu.counters().bytes_allocated;
        gpu.trim()?;
        println!("{} KiB of {} were free", (before - gpu.counters().bytes_allocated) >> 10, before >> 10);
        Ok(())
    })
}
