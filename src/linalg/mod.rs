//! Dense linear algebra on the device, batched and without readback: random numbers, tall-skinny QR, small SVD,
//! randomized SVD, subspaces, Newton-Schulz iterations. On the host: `statistics` of a few numbers.
//!
//! Everything is f32 and deterministic: one adapter gives the same bits for the same input. A matrix with an element
//! that is not finite has NaN for results, which who reads them back turns into an error. Nothing here is
//! differentiable: METHOD holds the bases fixed between refreshes.

pub mod newton_schulz;
pub mod qr;
pub mod random;
pub(crate) mod statistics;
pub mod subspace;
pub mod svd;
pub mod svd_small;

use crate::error::{Error, Result};
use crate::gpu::Tier;
use crate::kernels::Variant;
use crate::tensor::Tensor;

/// The most columns that [`qr`] and [`svd_small`] take: sketches of 64 columns cover a rank of 56 with oversampling 8.
pub const MAX_COLUMNS: usize = 64;

/// Every kernel of this module in every variant.
pub fn kernels() -> Vec<Variant> {
    let mut all: Vec<Variant> = [
        &random::FILL_NORMAL,
        &random::FILL_UNIFORM,
        &svd::SKETCH_WARM,
        &svd::SKETCH_COLD,
        &svd_small::IDENTITY,
        &qr::TSQR_APPLY,
        &subspace::PRINCIPAL_ANGLES,
        &subspace::MEAN_SQUARE_COSINE,
    ]
    .map(Variant::from)
    .into();
    for columns in (4..=MAX_COLUMNS).step_by(4) {
        for tier in Tier::ALL {
            all.push(Variant { kernel: &qr::HOUSEHOLDER, constants: qr::geometry(tier, columns) });
        }
    }
    for (m, n) in [(16, 16), (8, 8), (20, 7), (32, 64), (64, 64)] {
        all.push(Variant { kernel: &svd_small::JACOBI_SVD, constants: svd_small::geometry(m, n) });
    }
    all.extend(newton_schulz::kernels());
    all
}

/// Batch, rows and columns of a matrix or a stack of them.
pub(crate) fn stack(op: &'static str, x: &Tensor) -> Result<[usize; 3]> {
    match *x.dims() {
        [rows, columns] => Ok([1, rows, columns]),
        [batch, rows, columns] => Ok([batch, rows, columns]),
        _ => Err(Error::shape(op, "[rows, columns] or [batch, rows, columns]", format!("{x:?}"))),
    }
}

/// Returns what `op` gave, in host memory.
///
/// # Errors
/// [`Error::Undefined`] where it is not finite; [`Error::Device`].
async fn finite(op: &'static str, values: &Tensor) -> Result<Vec<f32>> {
    let values = values.to_f32().await?;
    Error::unless_finite(op, &values)?;
    Ok(values)
}
