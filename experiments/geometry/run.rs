//! One model trained on the texts, with its geometry before and after.

use std::time::Instant;

use pollster::block_on;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{ModelConfig, Preset};
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;
use serde::{Deserialize, Serialize};

use super::measure::{LayerFigures, Setting, measure};
use super::models::Kind;
use super::support::{Failure, Texts, train, validation_loss};

/// One run's figures; those of the experts by layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub kind: Kind,
    pub config: RunConfig,
    /// Fingerprint of the text.
    pub text: u64,
    pub parameters: usize,
    pub computed: usize,
    pub loss: f64,
    pub untrained: Vec<LayerFigures>,
    pub trained: Vec<LayerFigures>,
    pub seconds: f64,
}

/// The top-K model: three layers, eight experts of the model's width, top-2. No shared expert, which would compute for
/// all tokens what experts have in common.
pub fn top_k_model() -> ModelConfig {
    let mut model = Preset::Tiny.model();
    (model.d_model, model.layers, model.head_dim) = (64, 3, 16);
    (model.moe.d_expert, model.moe.d_shared) = (64, 0);
    model
}

/// Trains a model, measures it before and after.
pub fn run(
    gpu: &Gpu,
    kind: Kind,
    config: &RunConfig,
    text: u64,
    texts: &Texts,
    setting: Setting<'_>,
) -> Result<Run, Failure> {
    let began = Instant::now();
    let mut trainer = Trainer::new(gpu, config)?;
    let untrained = block_on(measure(gpu, trainer.model(), kind, setting))?;
    train(&mut trainer, &texts.train, 1..=config.train.steps)?;
    Ok(Run {
        kind,
        config: config.clone(),
        text,
        parameters: trainer.model().params().numel(),
        computed: trainer.model().active_parameters(),
        loss: validation_loss(&trainer, texts)?,
        untrained,
        trained: block_on(measure(gpu, trainer.model(), kind, setting))?,
        seconds: began.elapsed().as_secs_f64(),
    })
}
