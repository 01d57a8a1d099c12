//! The whole state of a training run in host memory, from which it goes on on the same or another device.

use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use super::size;
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::language_model::LanguageModel;
use crate::nn::model::Model;
use crate::optim::SpectralInit;
use crate::tensor::Tensor;

/// A tensor in host memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostTensor {
    /// Its name, as in checkpoints.
    pub name: String,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

/// A [`Trainer`]'s settings, step, parameters, and optimizer, spectral and balance state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The settings.
    pub config: RunConfig,
    /// Steps done.
    pub step: u64,
    /// The parameters.
    pub parameters: Vec<HostTensor>,
    /// All else that changes from step to step, see [`Trainer::state`].
    pub state: Vec<HostTensor>,
}

impl Snapshot {
    /// The elements of the parameter of this name and shape, as [`ParamSet::write`](crate::nn::params::ParamSet::write)
    /// asks for them.
    ///
    /// # Errors
    /// [`Error::Data`] when there is none, or it has another shape.
    pub fn parameter(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        expect(&self.parameters, name, shape)
    }

    /// The elements of the other state of this name and shape, as [`Trainer::restore`] asks for them.
    ///
    /// # Errors
    /// As [`Snapshot::parameter`].
    pub fn state(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        expect(&self.state, name, shape)
    }
}

fn expect(tensors: &[HostTensor], name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
    match tensors.iter().find(|tensor| tensor.name == name) {
        Some(tensor) if tensor.shape == shape => Ok(Some(tensor.values.clone())),
        found => {
            let found = found.map_or("none".into(), |tensor| format!("{:?}", tensor.shape));
            Err(Error::Data(format!("snapshot: expected a tensor `{name}` {shape:?}, found {found}")))
        }
    }
}

/// Reads named tensors back.
pub(super) async fn download(named: impl IntoIterator<Item = (String, Tensor)>) -> Result<Vec<HostTensor>> {
    let mut host = Vec::new();
    for (name, tensor) in named {
        let values = tensor.to_f32().await?;
        host.push(HostTensor { name, shape: tensor.dims().to_vec(), values });
    }
    Ok(host)
}

impl<M: LanguageModel> Trainer<M> {
    /// Reads the whole state back, all f32: two and more times the model's bytes in host memory. Figures of steps that
    /// are still on their way are no part of it; take them by [`Trainer::reports`]. After a lost device nothing can be
    /// read, so a program that wants to go on takes a snapshot now and then; the library itself retries nothing.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Device`].
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let parameters = self.model().params().iter().map(|p| (p.name.clone(), p.value.clone()));
        Ok(Snapshot {
            config: self.config().clone(),
            step: self.step_number(),
            parameters: download(parameters).await?,
            state: download(self.state()?).await?,
        })
    }
}

impl Trainer {
    /// A trainer that goes on where `snapshot` was taken: on an adapter and driver of the same kind with the same
    /// numbers to the bit. For a model of one's own write the parameters by [`Snapshot::parameter`], make the trainer
    /// by [`Trainer::with_model`] with [`SpectralInit::Restored`] (or `FromWeights` where nothing is decoupled), and
    /// call [`Trainer::restore`] with [`Snapshot::state`].
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings, [`Error::Data`] when a tensor is missing or of another shape;
    /// [`Error::Device`].
    pub fn from_snapshot(gpu: &Gpu, snapshot: &Snapshot) -> Result<Self> {
        let (config, step) = (&snapshot.config, snapshot.step);
        config.validate()?;
        size::check(gpu, config)?;
        let model = Model::with_precision(gpu, &config.model, config.train.precision)?;
        model.params().write(|name, shape| snapshot.parameter(name, shape))?;
        let decoupled = config.spectral.decouples();
        let init = if decoupled { SpectralInit::Restored } else { SpectralInit::FromWeights { step } };
        let mut trainer = Trainer::with_model(gpu, config, model, init)?;
        trainer.restore(step, |name, shape| snapshot.state(name, shape))?;
        Ok(trainer)
    }
}
