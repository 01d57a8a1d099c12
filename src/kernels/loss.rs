//! Cross-entropy of logits by row, in nats; means; products with a number on the device.

use super::Variant;
use super::rows::{PackKernels, RowKernels, THREADS, forms, pack, pack_launch, row_launch, variants};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::tensor::{DType, Tensor};

/// Elements that one thread sums.
const BLOCK: usize = 64;

/// Losses only.
pub static TOKEN_LOSSES: RowKernels = forms!("token_losses", "cross_entropy.wgsl", CrossEntropyParams, rows);
/// Losses and gradient.
pub static CROSS_ENTROPY: RowKernels = forms!("cross_entropy", "cross_entropy.wgsl", CrossEntropyParams, rows);
/// Sums of blocks.
pub static BLOCK_SUM: PackKernels = forms!("block_sum", "scale_sum.wgsl", ScaleSumParams, packs);
/// A product with a number on the device.
pub static SCALE_BY: PackKernels = forms!("scale_by", "scale_sum.wgsl", ScaleSumParams, packs);

crate::params! {
    struct CrossEntropyParams {
        rows: u32,
        /// Packs of a row.
        width: u32,
        /// The factor on the gradient.
        scale: f32,
    }
}
crate::params! {
    struct ScaleSumParams {
        count: u32,
        /// Elements that one thread sums.
        block: u32,
        scale: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let rows = [&TOKEN_LOSSES, &CROSS_ENTROPY].into_iter().flat_map(|k| variants(k));
    rows.chain(variants(&BLOCK_SUM[..1])).chain(variants(&SCALE_BY)).collect()
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<()> {
    let fits = logits.dims().len() == 2 && targets.dims() == [logits.rows()] && targets.dtype() == DType::U32;
    if !fits || logits.numel() == 0 {
        let expected = "logits [T, V], targets u32 [T], T and V at least 1";
        return Err(Error::shape("cross_entropy", expected, format!("{logits:?}, {targets:?}")));
    }
    Ok(())
}

/// Records each token's loss `logsumexp(logits_t) - logits_t[target_t]`, in nats; 0 for a target that is not below V.
///
/// `logits: [T, V]`, `targets: u32 [T]`. Returns `[T]`.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit.
pub fn token_losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check(logits, targets)?;
    let (gpu, rows, v) = (logits.gpu(), logits.rows(), logits.cols());
    let losses = Tensor::empty_f32(gpu, [rows])?;
    for range in Parts::new("cross_entropy", rows).sliced(gpu, &[v, 1]).ranges()? {
        let params = CrossEntropyParams { rows: range.len() as u32, width: (v / pack(v)) as u32, scale: 0.0 };
        row_launch(&TOKEN_LOSSES, gpu, range.len(), pack(v), 2 * v / pack(v))
            .params(&params)
            .read("logits", &logits.slice(range.clone())?)
            .read("targets", &targets.slice(range.clone())?)
            .write("losses", &losses.slice(range)?)
            .run(gpu)?;
    }
    Ok(losses)
}

/// Records the losses as [`token_losses`] does, and `scale * (softmax - onehot)`, the gradient of `scale` times their sum.
///
/// Returns `[T]` in f32 and `[T, V]` as the logits are.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit.
pub fn losses_and_gradient(logits: &Tensor, targets: &Tensor, scale: f32) -> Result<(Tensor, Tensor)> {
    check(logits, targets)?;
    let (gpu, rows, v) = (logits.gpu(), logits.rows(), logits.cols());
    let losses = Tensor::empty_f32(gpu, [rows])?;
    let dlogits = Tensor::empty(gpu, [rows, v], logits.dtype())?;
    for range in Parts::new("cross_entropy", rows).sliced(gpu, &[v, 1]).ranges()? {
        let params = CrossEntropyParams { rows: range.len() as u32, width: (v / pack(v)) as u32, scale };
        row_launch(&CROSS_ENTROPY, gpu, range.len(), pack(v), 3 * v / pack(v))
            .params(&params)
            .read("logits", &logits.slice(range.clone())?)
            .read("targets", &targets.slice(range.clone())?)
            .write("losses", &losses.slice(range.clone())?)
            .write("dlogits", &dlogits.slice(range)?)
            .run(gpu)?;
    }
    Ok((losses, dlogits))
}

/// Records the mean of `x: [n]` as `[1]`, summed in blocks of fixed order.
///
/// # Errors
/// [`Error::Shape`] when x is empty or its blocks cannot be split to fit the adapter's bindings.
pub fn mean(x: &Tensor) -> Result<Tensor> {
    let gpu = x.gpu();
    if x.numel() == 0 {
        return Err(Error::shape("mean", "at least one element", format!("{x:?}")));
    }
    let scale = (1.0 / x.numel() as f64) as f32;
    let mut x = x.reshape([x.numel()])?;
    loop {
        let blocks = x.numel().div_ceil(BLOCK);
        let sums = Tensor::empty_f32(gpu, [blocks])?;
        // Chunks of whole blocks: a chunk that fits a binding and starts aligned in x and in sums.
        for range in Parts::new("mean", blocks).sliced(gpu, &[BLOCK, 1]).ranges()? {
            let elements = range.start * BLOCK..x.numel().min(range.end * BLOCK);
            let scale = if blocks == 1 { scale } else { 1.0 };
            let params = ScaleSumParams { count: elements.len() as u32, block: BLOCK as u32, scale };
            pack_launch(&BLOCK_SUM, 1)
                .params(&params)
                .read("x", &x.slice(elements)?)
                .write("sums", &sums.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        if blocks == 1 {
            return Ok(sums);
        }
        x = sums;
    }
}

/// Records `y *= scale factor[0]`.
///
/// # Errors
/// [`Error::Device`].
pub fn scale_by(y: &Tensor, scale: f32, factor: &Tensor) -> Result<()> {
    let (gpu, y) = (y.gpu(), y.reshape([y.numel()])?);
    for range in Parts::new("scale", y.numel()).sliced(gpu, &[1]).ranges()? {
        let pack = pack(range.len());
        let params = ScaleSumParams { count: (range.len() / pack) as u32, block: 1, scale };
        pack_launch(&SCALE_BY, pack)
            .params(&params)
            .read("factor", factor)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(gpu)?;
    }
    Ok(())
}
