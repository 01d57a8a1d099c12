//! Trains a small model on a wgpu device that the application already has.

use sdmoe::gpu::device_descriptor;
use sdmoe::prelude::*;
use sdmoe::wgpu;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(train())
}

async fn train() -> Result<(), Box<dyn std::error::Error>> {
    // The application's own device, with what sdmoe can use beside what the application asks for.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    let description = device_descriptor(&adapter, wgpu::DeviceDescriptor::default());
    let (device, queue) = adapter.request_device(&description).await?;
    let gpu = Gpu::from_device(device, queue, &GpuOptions::default())?;

    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.layers = 2;
    config.model.d_model = 64;
    config.model.head_dim = 16;
    config.model.moe.d_expert = 64;
    config.model.moe.d_shared = 64;
    config.train.steps = 60;
    config.train.seq = 64;
    config.optimizer.warmup_steps = 10;

    let text = include_bytes!("../src/train/trainer.rs");
    let batches = Batches::new(text, config.train.batch, config.train.seq, config.seed)?;
    let mut trainer = Trainer::new(&gpu, &config)?;
    for step in 1..=config.train.steps {
        trainer.step(&[batches.batch(step, 0)])?;
        for report in trainer.reports(step == config.train.steps).await? {
            if report.step % 10 == 0 {
                println!("step {:3}  loss {:.3} nats per byte", report.step, report.loss);
            }
        }
    }
    Ok(())
}
