//! The common part of plain experts: their mean, cut to rank k. Each expert's unique part is what it has beside that, so the
//! experts stay what they are.

use super::refresh::svd_options;
use crate::error::Result;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::svd::randomized_svd;
use crate::nn::config::SpectralConfig;
use crate::tensor::Tensor;

/// Power iterations at the least: nothing warm is there to start from, the spectrum of the mean of unlike experts is nearly flat,
/// and it is done once. The residual of rank k is then within 1e-3 of the least where `sigma_k / sigma_(k+1)` is 1.01.
const ITERATIONS: usize = 8;

/// The leading rank-k part of matrices `[layers, m, n]`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommonPart {
    /// *U*, `[layers, m, k]`.
    pub u: Tensor,
    /// *V*, `[layers, n, k]`.
    pub v: Tensor,
    /// `W_c = U U^T mean V V^T`, `[layers, m, n]`.
    pub w_c: Tensor,
    /// The leading singular values, falling, `[layers, l]` with `l >= k`.
    pub singular: Tensor,
}

impl CommonPart {
    /// That of the experts' means `mean: [layers, m, n]`; `seed` chooses the sketch of the randomized SVD.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the rank does not fit; [`crate::Error::Device`].
    pub fn of(mean: &Tensor, config: &SpectralConfig, seed: u64) -> Result<Self> {
        let (k, gpu) = (config.rank, mean.gpu());
        let mut options = svd_options(config, seed, 0, false);
        options.power_iterations = options.power_iterations.max(ITERATIONS);
        let svd = randomized_svd(mean, k, options, None)?;
        let (l, n) = (svd.u.dims()[0], mean.cols());
        // U (U^T mean V) V^T
        let a = Tensor::empty_f32(gpu, [l, k, n])?;
        let inner = Tensor::empty_f32(gpu, [l, k, k])?;
        let w_c = Tensor::empty_f32(gpu, mean.shape())?;
        gemm(Trans::T, Trans::N, 1.0, &svd.u, mean, 0.0, &a)?;
        gemm(Trans::N, Trans::N, 1.0, &a, &svd.v, 0.0, &inner)?;
        gemm(Trans::N, Trans::T, 1.0, &inner, &svd.v, 0.0, &a)?;
        gemm(Trans::N, Trans::N, 1.0, &svd.u, &a, 0.0, &w_c)?;
        Ok(Self { u: svd.u, v: svd.v, w_c, singular: svd.s_all })
    }
}
