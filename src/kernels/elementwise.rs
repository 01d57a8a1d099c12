//! Sums and fills of whole tensors.

use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// `y = alpha x + beta y`.
pub static AXPBY: PackKernels = forms!("axpby", "elementwise.wgsl", ElementwiseParams, packs);
/// `y = alpha`.
pub static FILL: PackKernels = forms!("fill", "elementwise.wgsl", ElementwiseParams, packs);
/// `y = x`, rounded.
pub static ROUND_INTO: PackKernels = forms!("round_into", "elementwise.wgsl", ElementwiseParams, packs);

crate::params! {
    struct ElementwiseParams {
        /// In packs.
        count: u32,
        alpha: f32,
        beta: f32,
    }
}

/// Records `y = alpha x + beta y`.
///
/// # Errors
/// [`Error::Shape`] when the numbers of elements differ.
pub fn axpby(alpha: f32, x: &Tensor, beta: f32, y: &Tensor) -> Result<()> {
    if x.numel() != y.numel() {
        return Err(Error::shape("axpby", format!("{y:?}"), format!("{x:?}")));
    }
    let (x, y) = (x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in Parts::new("axpby", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(range.len());
        let params = ElementwiseParams { count: (range.len() / pack) as u32, alpha, beta };
        pack_launch(&AXPBY, pack)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// Records `y = x`, rounded where y is f16.
///
/// # Errors
/// [`Error::Shape`] when the numbers of elements differ.
pub fn round_into(x: &Tensor, y: &Tensor) -> Result<()> {
    if x.numel() != y.numel() {
        return Err(Error::shape("round_into", format!("{y:?}"), format!("{x:?}")));
    }
    let (x, y) = (x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in Parts::new("round_into", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(range.len());
        let params = ElementwiseParams { count: (range.len() / pack) as u32, alpha: 1.0, beta: 0.0 };
        pack_launch(&ROUND_INTO, pack)
            .params(&params)
            .read("source", &x.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// Records `sum += x`.
///
/// # Errors
/// [`Error::Shape`] when the numbers of elements differ.
pub fn add_into(sum: &Tensor, x: &Tensor) -> Result<()> {
    axpby(1.0, x, 1.0, sum)
}

/// Records `y = value`.
///
/// # Errors
/// [`Error::Device`].
pub fn fill(y: &Tensor, value: f32) -> Result<()> {
    let y = y.reshape([y.numel()])?;
    for range in Parts::new("fill", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(range.len());
        let params = ElementwiseParams { count: (range.len() / pack) as u32, alpha: value, beta: 0.0 };
        pack_launch(&FILL, pack)
            .params(&params)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// This file's kernels.
pub fn kernels() -> Vec<Variant> {
    [&AXPBY, &FILL, &ROUND_INTO].into_iter().flat_map(|k| variants(k)).collect()
}
