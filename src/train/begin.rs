//! From a model that is there to a new run of it.

use super::config::RunConfig;
use super::pretrained::Pretrained;
use super::resume::restore_model;
use super::size;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::model::Model;
use crate::optim::SpectralInit;

/// A trainer that has done no step, with the weights of `source` and `config`, which [`Pretrained::accepts`].
///
/// Where both are decoupled, `W_c` and its bases are the source's; where only `config` is, `W_c` comes from the experts' mean. In
/// either case, and where only the source is, the merged weights stay as they are, and so does what the model computes.
///
/// # Errors
/// [`crate::Error::Config`] for settings that are impossible or of another model; [`crate::Error::Checkpoint`] for a tensor that
/// is missing, of another shape, or not finite; [`crate::Error::Device`].
pub fn begin_from(gpu: &Gpu, config: &RunConfig, source: &Pretrained) -> Result<Trainer> {
    config.validate()?;
    source.accepts(config)?;
    size::check(gpu, config)?;
    let precision = config.train.precision;
    let plain = SpectralInit::FromWeights { step: 0 };
    let saved = match source {
        Pretrained::Saved(saved) => saved,
        Pretrained::Family(family) => {
            let model = Model::with_precision(gpu, &config.model, precision)?;
            family.load_into(&model)?;
            return Trainer::with_model(gpu, config, model, plain);
        }
    };
    if saved.config.model.moe.biases_choice() && !config.model.moe.biases_choice() {
        let message = "expected above 0, because the model's choice of experts has biases, got 0";
        return Err(Error::config("model.moe.balance_bias", message));
    }
    let model = restore_model(gpu, saved, &config.model, precision)?;
    if !(saved.config.spectral.decouples() && config.spectral.decouples()) {
        return Trainer::with_model(gpu, config, model, plain);
    }
    let mut trainer = Trainer::with_model(gpu, config, model, SpectralInit::Restored)?;
    let parts = saved.optimizer()?;
    trainer.restore(0, |name, shape| is_common(name).then(|| parts.expect_f32(name, shape)).transpose())?;
    Ok(trainer)
}

/// Whether a tensor of a trainer's state is `W_c` or one of its bases, and not a moment or a record: `spectral.gate.0.w_c`.
fn is_common(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    matches!(parts[..], ["spectral", _, _, "w_c" | "u" | "v"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_begin_anew() {
        assert!(["spectral.gate.0.w_c", "spectral.down.11.u", "spectral.up.3.v"].into_iter().all(is_common));
        for other in ["spectral.gate.0.w_c.v", "spectral.gate.0.w_u.v", "adam.embed.weight.v", "spectral.common_since"]
        {
            assert!(!is_common(other), "{other}");
        }
    }
}
