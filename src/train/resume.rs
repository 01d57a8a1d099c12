//! From a checkpoint to a model or a [`Trainer`] on a device.

use super::saved::{SavedModel, SavedRun};
use super::trainer::Trainer;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::config::{ModelConfig, Precision};
use crate::nn::model::Model;
use crate::optim::{Frozen, LOSS_SCALE, SpectralInit};
use crate::tensor::Tensor;
use crate::train::config::RunConfig;
use crate::train::size;

/// A model's parameters with their names in checkpoints.
pub(super) fn parameters(model: &Model) -> impl Iterator<Item = (String, Tensor)> {
    model.params().iter().map(|p| (p.name.clone(), p.value.clone()))
}

/// The model of a checkpoint, with the biases of the choice of experts where it has such, computing in `precision`; `config` is its
/// own, or differs from it in what weighs the losses.
///
/// # Errors
/// [`crate::Error::Checkpoint`] when a tensor is missing or of another shape; [`crate::Error::Device`].
pub fn restore_model(gpu: &Gpu, saved: &SavedModel, config: &ModelConfig, precision: Precision) -> Result<Model> {
    saved.complete()?;
    let model = with_parameters(Model::with_precision(gpu, config, precision)?, saved)?;
    with_biases(model, saved)
}

/// As [`restore_model`], in f32, for generation and evaluation alone ([`Model::for_inference`]).
///
/// # Errors
/// As [`restore_model`].
pub fn restore_for_inference(gpu: &Gpu, saved: &SavedModel) -> Result<Model> {
    saved.complete()?;
    // In f32 on every adapter: the weights of a run in f16 are saved in f32.
    with_biases(with_parameters(Model::for_inference(gpu, &saved.config.model)?, saved)?, saved)
}

/// The model with the biases of a checkpoint's choice of experts, where it has such.
fn with_biases(model: Model, saved: &SavedModel) -> Result<Model> {
    if saved.config.model.moe.biases_choice() {
        let optimizer = saved.optimizer()?;
        for (name, tensor) in model.params().states() {
            tensor.write_f32(&optimizer.expect_f32(name, tensor.dims())?)?;
        }
    }
    Ok(model)
}

/// The model with the parameters of a checkpoint.
fn with_parameters(model: Model, saved: &SavedModel) -> Result<Model> {
    model.params().write(|name, shape| saved.tensors.expect_f32(name, shape).map(Some))?;
    Ok(model)
}

/// A trainer that goes on where a checkpoint stands, with `config`, which [`SavedModel::accepts`].
///
/// Where the spectral decoupling is switched on on the way, the common part comes from the experts' mean and the merged
/// weights stay as they are; the moments of *W_u* are those that *W* had, those of *W_c* start at zero, and their bias correction at this step. Where it is
/// switched off, the merged experts train on with the moments of *W_u*. Bias balancing that is switched on on the way
/// starts from zero biases, what was frozen from zero moments, mixed precision from the first loss scale of `config`.
///
/// # Errors
/// [`crate::Error::Checkpoint`] when a tensor is missing or of another shape; [`crate::Error::Device`].
pub fn restore(gpu: &Gpu, config: &RunConfig, saved: &SavedRun) -> Result<Trainer> {
    config.validate()?;
    size::check(gpu, config)?;
    saved.model.complete()?;
    let model = with_parameters(Model::with_precision(gpu, &config.model, config.train.precision)?, &saved.model)?;
    let file = &saved.optimizer;
    let decoupled = saved.model.config.spectral.decouples();
    let balanced = saved.model.config.model.moe.biases_choice();
    let mixed = saved.model.config.train.precision == Precision::F16;
    let frozen = Frozen::new(&saved.model.config.optimizer.freeze);
    let was_frozen = |name: &str| moment_of(name).is_some_and(|parameter| frozen.contains(parameter));
    let step = saved.model.step;
    let init = if decoupled { SpectralInit::Restored } else { SpectralInit::FromWeights { step } };
    let mut trainer = Trainer::with_model(gpu, config, model, init)?;
    trainer.restore(step, |name, shape| {
        if file.contains(name) {
            file.expect_f32(name, shape).map(Some)
        } else if let Some(counterpart) = counterpart(name).filter(|c| file.contains(c)) {
            // A single expert has no dimension of its own in the spectral state: the number of elements decides.
            file.get_f32(&counterpart).map(|(_, values)| Some(values))
        } else if name.starts_with("spectral.") && !decoupled
            || name.ends_with(".balance_bias") && !balanced
            || name == LOSS_SCALE && !mixed
            || was_frozen(name)
        {
            // Switched on on the way: as it begins.
            Ok(None)
        } else {
            // Says which one is missing.
            file.expect_f32(name, shape).map(Some)
        }
    })?;
    Ok(trainer)
}

/// The parameter of what a rule keeps of it: `embed.weight` of `adam.embed.weight.m`.
fn moment_of(name: &str) -> Option<&str> {
    ["adam.", "muon."].iter().find_map(|rule| name.strip_prefix(rule))?.rsplit_once('.').map(|(parameter, _)| parameter)
}

/// The last word of the names of Muon's momentum.
const MOMENTUM: &str = "momentum";

/// The moment in a plain run that belongs to a moment of *W_u*, and the other way round:
/// `spectral.gate.0.w_u.m` and `adam.layers.0.moe.experts.gate.m`; Muon's momentum likewise.
fn counterpart(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["spectral", matrix, layer, "w_u", moment] => {
            let rule = if moment == MOMENTUM { "muon" } else { "adam" };
            Some(format!("{rule}.layers.{layer}.moe.experts.{matrix}.{moment}"))
        }
        ["adam" | "muon", "layers", layer, "moe", "experts", matrix, moment] => {
            Some(format!("spectral.{matrix}.{layer}.w_u.{moment}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_plain_and_unique_experts_belong_together() {
        let (unique, plain) = ("spectral.down.11.w_u.v", "adam.layers.11.moe.experts.down.v");
        assert_eq!(counterpart(unique).as_deref(), Some(plain));
        assert_eq!(counterpart(plain).as_deref(), Some(unique));
        let (unique, plain) = ("spectral.gate.0.w_u.momentum", "muon.layers.0.moe.experts.gate.momentum");
        assert_eq!(counterpart(unique).as_deref(), Some(plain));
        assert_eq!(counterpart(plain).as_deref(), Some(unique));
        for other in ["spectral.down.1.w_c.m", "spectral.down.1.w_u", "adam.embed.m", "adam.layers.1.moe.router.m"] {
            assert_eq!(counterpart(other), None);
        }
    }
}
