//! Decoupling a model that is there: `W_c` of each layer and kind is the experts' mean, cut to rank k, and `W_u,i = W_i - W_c`. The
//! merged weights `W_i` stay as they are to the bit, and with them what the model computes.
//!
//! ```no_run
//! use sdmoe::prelude::*;
//! use sdmoe::train::decouple::decouple;
//! use sdmoe::train::pretrained::Pretrained;
//!
//! # async fn work() -> Result<()> {
//! let gpu = Gpu::open(&GpuOptions::default()).await?;
//! let source = Pretrained::open("Qwen1.5-MoE-A2.7B".as_ref())?;
//! let mut spectral = SpectralConfig::default();
//! spectral.rank = 16;
//! let decoupled = decouple(&gpu, &source, &spectral, 1).await?;
//! decoupled.save("qwen-decoupled".as_ref())?; // for `Pretrained::open`, and to train on from
//! # Ok(())
//! # }
//! ```

use std::path::Path;

use super::config::RunConfig;
use super::pretrained::{HostParameter, Pretrained};
use super::saved;
use crate::checkpoint::{Common, HubFiles, TensorToSave};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::{ExpertMatrix, SpectralConfig};
use crate::optim::CommonPart;
use crate::tensor::Tensor;

/// A layer's matrices of one kind, decoupled.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecoupledMatrix {
    /// The layer's number in the model.
    pub layer: usize,
    /// The kind.
    pub matrix: ExpertMatrix,
    /// `W_c`, *U* and *V*.
    pub common: Common,
    /// The fraction of the experts' energy, `sum_i |W_i|_F^2`, that lies in their mean: `E |mean|_F^2`. Experts that have nothing
    /// in common have `1 / E` there.
    pub mean_fraction: f64,
    /// The fraction that lies in `W_c`; the rest is that of the `W_u,i`, because the two are orthogonal in sum.
    pub common_fraction: f64,
    /// `sigma_k / sigma_(k+1)` of the mean; infinite where the latter is zero or there is none, no number where it was not computed.
    pub gap: Option<f64>,
}

/// A model in host memory whose experts are decoupled.
#[derive(Debug)]
pub struct Decoupled {
    config: RunConfig,
    parameters: Vec<HostParameter>,
    matrices: Vec<DecoupledMatrix>,
    hub: HubFiles,
}

/// Decouples the experts of `source` as `spectral` says; `seed` chooses the sketches of the randomized SVD, which is the full one
/// where min(m, n) <= 64. The device gets one mean at a time, so that any model fits; the host holds all weights once.
///
/// # Errors
/// [`Error::Config`] for a rank of 0 or above min(m, n), or a model without experts; as [`Pretrained::read`]; [`Error::Device`].
pub async fn decouple(gpu: &Gpu, source: &Pretrained, spectral: &SpectralConfig, seed: u64) -> Result<Decoupled> {
    let config = settings(source, spectral)?;
    let hub = source.hub_files()?;
    let parameters = source.read()?;
    let mut matrices = Vec::new();
    for layer in config.model.moe_layers().into_iter().filter(|&layer| config.spectral.covers_layer(layer)) {
        for matrix in ExpertMatrix::ALL.into_iter().filter(|&matrix| config.spectral.covers(matrix)) {
            let name = format!("layers.{layer}.moe.experts.{}", matrix.name());
            let experts = parameters.iter().find(|p| p.name == name);
            let experts =
                experts.ok_or_else(|| Error::config("model", format!("expected a parameter `{name}`, found none")))?;
            // A seed for each matrix, as a trainer has one for each kind.
            let seed = seed ^ ((matrix as u64 + 1) << 56) ^ layer as u64;
            matrices.push(of_experts(gpu, (layer, matrix), experts, &config.spectral, seed).await?);
        }
    }
    Ok(Decoupled { config, parameters, matrices, hub })
}

/// The settings of the decoupled model, checked as far as that needs neither weights nor a device.
///
/// # Errors
/// [`Error::Config`].
pub fn settings(source: &Pretrained, spectral: &SpectralConfig) -> Result<RunConfig> {
    let mut config = source.unmoved_config(source.run_config())?;
    config.spectral = SpectralConfig { enabled: true, ..spectral.clone() };
    if config.model.moe_layers().is_empty() {
        return Err(Error::config(
            "model",
            "expected a model with experts, found a dense one, which has none to decouple",
        ));
    }
    if spectral.rank == 0 {
        let limit = config.model.d_model.min(config.model.moe.d_expert);
        let message = format!("expected at least 1 and at most min(d_model, d_expert) = {limit}, got 0");
        return Err(Error::config("spectral.rank", message));
    }
    config.spectral.validate(&config.model)?;
    Ok(config)
}

async fn of_experts(
    gpu: &Gpu,
    (layer, matrix): (usize, ExpertMatrix),
    experts: &HostParameter,
    config: &SpectralConfig,
    seed: u64,
) -> Result<DecoupledMatrix> {
    let &[count, m, n] = &experts.shape[..] else {
        return Err(Error::shape("decouple", "experts [E, m, n]", format!("{:?}", experts.shape)));
    };
    let mut mean = vec![0.0f64; m * n];
    let mut all = 0.0;
    for expert in experts.values.chunks_exact(m * n) {
        mean.iter_mut().zip(expert).for_each(|(sum, &w)| *sum += f64::from(w));
        all += energy(expert);
    }
    let mean: Vec<f32> = mean.into_iter().map(|sum| (sum / count as f64) as f32).collect();
    let part = CommonPart::of(&Tensor::from_f32(gpu, [1, m, n], &mean)?, config, seed)?;
    let singular = part.singular.to_f32().await?;
    Error::unless_finite("decouple", &singular)?;
    let common = Common {
        rank: config.rank,
        w_c: part.w_c.to_f32().await?,
        u: part.u.to_f32().await?,
        v: part.v.to_f32().await?,
    };
    let fraction = |energy: f64| if all > 0.0 { count as f64 * energy / all } else { 0.0 };
    let gap = match singular.get(config.rank) {
        Some(&next) if next > 0.0 => Some(f64::from(singular[config.rank - 1]) / f64::from(next)),
        None if config.rank < m.min(n) => None,
        _ => Some(f64::INFINITY),
    };
    let (mean_fraction, common_fraction) = (fraction(energy(&mean)), fraction(energy(&common.w_c)));
    Ok(DecoupledMatrix { layer, matrix, common, mean_fraction, common_fraction, gap })
}

fn energy(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum()
}

impl Decoupled {
    /// The decoupled matrices, by layer and kind.
    pub fn matrices(&self) -> &[DecoupledMatrix] {
        &self.matrices
    }

    /// The parameters, merged, as they were; and the state beside them.
    pub fn parameters(&self) -> &[HostParameter] {
        &self.parameters
    }

    /// The settings with which training goes on.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Writes the new folder `dir`: a checkpoint of step 0 without moments, and in `hub` the small files that came with the
    /// model. It is there as a whole, or not at all.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when something stands at `dir`; [`Error::Io`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut spectral: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
        for DecoupledMatrix { layer, matrix, common, .. } in &self.matrices {
            let Common { rank, w_c, u, v } = common;
            let (m, n) = (u.len() / rank, v.len() / rank);
            for (name, rows, columns, values) in [("w_c", m, n, w_c), ("u", m, *rank, u), ("v", n, *rank, v)] {
                // As a trainer's state has them: a basis of one row is stored without it.
                let shape = if rows == 1 && name != "w_c" { vec![columns] } else { vec![rows, columns] };
                spectral.push((format!("spectral.{}.{layer}.{name}", matrix.name()), shape, values));
            }
        }
        let tensors = |state: bool| {
            let chosen = self.parameters.iter().filter(move |p| p.state == state);
            chosen.map(|p| TensorToSave::f32(&p.name, &p.shape, &p.values)).collect::<Vec<_>>()
        };
        let (model, mut optimizer) = (tensors(false), tensors(true));
        optimizer.extend(spectral.iter().map(|(name, shape, x)| TensorToSave::f32(name, shape, x)));
        saved::create(dir, &self.config, &model, &optimizer, &self.hub)
    }
}
