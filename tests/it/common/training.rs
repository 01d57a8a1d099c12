//! Small training runs for the tests.

use pollster::block_on;
use sdmoe::data::{Batch, Batches};
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::Preset;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::{StepReport, Trainer};

/// A model of a few thousand parameters, with grouped heads, a shared expert and sizes that divide no tile.
pub fn config() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.d_model = 36;
    config.model.layers = 2;
    config.model.heads = 6;
    config.model.kv_heads = 3;
    config.model.head_dim = 6;
    config.model.moe.experts = 5;
    config.model.moe.d_expert = 28;
    config.model.moe.d_shared = 20;
    config.train.batch = 2;
    config.train.seq = 33;
    config.train.steps = 1000;
    config.spectral.rank = 3;
    config.spectral.oversampling = 5;
    config.optimizer.lr = 1e-3;
    config.optimizer.warmup_steps = 1;
    config
}

/// Text to train on: some of this project's code, which must not change with it, as losses and routing follow it.
pub fn text() -> Vec<u8> {
    include_bytes!("text.txt").to_vec()
}

/// The micro-batches of step `step`.
pub fn micro_batches(config: &RunConfig, step: u64) -> Vec<Batch> {
    let text = text();
    let batches = Batches::new(&text, config.train.batch, config.train.seq, config.seed).unwrap();
    (0..config.train.accumulate).map(|i| batches.batch(step, i)).collect()
}

/// Trains for `steps` steps more.
pub fn train(trainer: &mut Trainer, steps: u64) -> Vec<StepReport> {
    let mut reports = Vec::new();
    let config = trainer.config().clone();
    for step in trainer.step_number() + 1..=trainer.step_number() + steps {
        trainer.step(&micro_batches(&config, step)).unwrap();
        reports.extend(block_on(trainer.reports(false)).unwrap());
    }
    reports.extend(block_on(trainer.reports(true)).unwrap());
    reports
}

/// A fresh trainer.
pub fn trainer(gpu: &Gpu, config: &RunConfig) -> Trainer {
    Trainer::new(gpu, config).unwrap_or_else(|e| panic!("{e}"))
}

/// All parameters and all state, bit by bit.
pub fn snapshot(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let params = trainer.model().params().iter().map(|p| (p.name.clone(), p.value.clone()));
    params
        .chain(trainer.state().unwrap())
        .map(|(name, tensor)| {
            let bits = block_on(tensor.to_f32()).unwrap().iter().map(|x| x.to_bits()).collect();
            (name, bits)
        })
        .collect()
}
