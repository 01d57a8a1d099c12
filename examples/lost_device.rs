//! Goes on after a lost device, from a snapshot in host memory: the losses are those of a run without the accident.

use sdmoe::prelude::*;

const STEPS: u64 = 12;

fn main() -> Result<()> {
    pollster::block_on(async {
        let text = include_bytes!("../src/train/trainer.rs");
        let mut config = RunConfig::preset(Preset::Tiny);
        (config.model.layers, config.model.d_model, config.model.head_dim) = (1, 64, 16);
        (config.model.moe.d_expert, config.model.moe.d_shared) = (64, 64);
        (config.train.batch, config.train.seq) = (4, 64);
        let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;

        let mut trainer = Trainer::new(&open().await?, &config)?;
        let mut kept = trainer.snapshot().await?;
        let mut accident = Some(8);
        let mut lost = 0;
        while trainer.step_number() < STEPS {
            if accident == Some(trainer.step_number()) {
                println!("the device goes away, as when its driver restarts");
                trainer.gpu().device().destroy();
                accident = None;
            }
            match step(&mut trainer, &batches).await {
                Ok(report) => println!("step {:2}  loss {:.6}", report.step, report.loss),
                Err(error) if error.kind() == ErrorKind::DeviceLost && lost < 3 => {
                    // A few times, not for ever: a kernel that hangs does so again.
                    lost += 1;
                    println!("{error}; going on behind step {}", kept.step);
                    trainer = Trainer::from_snapshot(&open().await?, &kept)?;
                }
                Err(error) => return Err(error),
            }
            if trainer.step_number().is_multiple_of(5) {
                kept = trainer.snapshot().await?;
            }
        }
        Ok(())
    })
}

async fn open() -> Result<Gpu> {
    Gpu::open(&GpuOptions::default()).await
}

/// One step with its figures.
async fn step(trainer: &mut Trainer, batches: &Batches<'_>) -> Result<StepReport> {
    trainer.step(&[batches.batch(trainer.step_number() + 1, 0)])?;
    let reports = trainer.reports(true).await?;
    reports.last().copied().ok_or_else(|| Error::Data("a step without figures".into()))
}
