//! Spectral decoupling (SD-MoE, METHOD §3 to §6): for each layer and covered matrix kind `W_i = W_c + W_u,i`.
//!
//! | module | what it holds |
//! |---|---|
//! | `state` | what is kept from step to step, with its names in checkpoints |
//! | `record` | what a refresh has measured, by name |
//! | `common` | the common part of plain experts |
//! | `init` | the state at the start of a run, or where it is switched on |
//! | `split` | the split of the gradient into its common and its unique part |
//! | `step` | the rule's directions of both parts, the projected update and the merge |
//! | `refresh` | new bases by a randomized SVD, and the realignment of `W_u` |
//! | `metrics`, `similarity` | the figures of a training log |

mod common;
mod init;
mod metrics;
mod record;
mod refresh;
pub(crate) mod similarity;
mod split;
mod state;
mod step;

pub use common::CommonPart;
pub use init::{SpectralInit, SpectralSetup};
pub use metrics::{MatrixMetrics, MetricOptions, PendingMetrics, RefreshMetrics};
pub use record::RefreshRecord;
pub use similarity::SideSimilarity;
pub(super) use split::Split;
pub use state::{SpectralBank, SpectralStack, TokenSums};
pub(super) use step::Update;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::software::spectral_rows;
use crate::nn::config::{GradientForm, SpectralConfig};

/// The form of the gradient split for matrices `m x n` that see `tokens` routed tokens per expert and optimizer step:
/// direct from `1.33 m n / (m + n)` on (METHOD §4).
pub fn gradient_form(wanted: GradientForm, m: usize, n: usize, tokens: f64) -> GradientForm {
    match wanted {
        GradientForm::Auto if tokens >= 1.33 * (m * n) as f64 / (m + n) as f64 => GradientForm::Direct,
        GradientForm::Auto => GradientForm::TokenSpace,
        fixed => fixed,
    }
}

/// The form of the gradient split that `config` gives a stack `[layers, experts, m, n]` on `gpu`, where an expert sees `tokens`
/// routed tokens a step.
pub(crate) fn chosen_form(gpu: &Gpu, config: &SpectralConfig, shape: [usize; 4], tokens: f64) -> Result<GradientForm> {
    let [_, _, m, n] = shape;
    let gain = spectral_rows::direct_gain(gpu, shape, config.rank)?.unwrap_or(1.0);
    Ok(gradient_form(config.gradient_form, m, n, gain * tokens))
}
