//! Sums over the experts of each layer of a stack.

use crate::error::Result;
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::decoupled::{THREADS, sizes};
use crate::kernels::elementwise::fill;
use crate::kernels::gemm::{Trans, gemm};
use crate::tensor::Tensor;

/// Sums over the experts of each layer.
pub static SUM_EXPERTS: Kernel = Kernel::new("sum_experts", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    vec![(&SUM_EXPERTS).into()]
}

crate::params! {
    pub(super) struct FactorParams { count: u32, rows: u32, columns: u32, rank: u32, experts: u32, first_layer: u32, factor: f32 }
}

/// Records `factor * sum_e x[:, e]`: `[layers, experts, m, n]` to `[layers, 1, m, n]`, in the experts' order.
///
/// # Errors
/// [`crate::Error::Shape`] when `x` has not four dimensions, or a matrix of it exceeds a quarter of a binding; [`crate::Error::Device`].
pub fn sum_experts(x: &Tensor, factor: f32) -> Result<Tensor> {
    let [layers, experts, m, n] = sizes("sum over experts", x)?;
    let y = Tensor::empty_f32(x.gpu(), [layers, 1, m, n])?;
    if (experts * m * n * 4) as u64 > x.gpu().max_binding_bytes() {
        // A layer beyond a binding: a product with a row of ones, which is cut as any product is.
        let ones = Tensor::empty_f32(x.gpu(), [1, experts])?;
        fill(&ones, 1.0)?;
        let (x, sum) = (x.reshape([layers, experts, m * n])?, y.reshape([layers, 1, m * n])?);
        gemm(Trans::N, Trans::N, factor, &ones, &x, 0.0, &sum)?;
        return Ok(y);
    }
    for range in Parts::new("sum over experts", layers).sliced(x.gpu(), &[experts * m * n, m * n]).ranges()? {
        let (x, y) = (x.slice(range.clone())?, y.slice(range)?);
        let params = FactorParams {
            count: y.numel() as u32,
            columns: (m * n) as u32,
            experts: experts as u32,
            factor,
            ..FactorParams::default()
        };
        let launch = Launch::new(&SUM_EXPERTS).constant("WG", THREADS).params(&params);
        launch.read("x", &x).write("y", &y).threads(y.numel(), THREADS).run(x.gpu())?;
    }
    Ok(y)
}
