//! Sums over the rows of a matrix, in two stages of fixed order: no atomics, same bits every time.

use super::Variant;
use super::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::error::Result;
use crate::tensor::{Tensor, row_chunks};

/// Rows that one thread sums: short enough for enough threads, long enough that the second stage is small.
const BLOCK: usize = 64;

/// Sums of blocks of rows of `dy x r`.
pub static RMS_NORM_DWEIGHT: PackKernels = forms!("rms_norm_dweight", "column_sum.wgsl", packs);
/// Sums of blocks of rows.
pub static COLUMN_SUM: PackKernels = forms!("column_sum", "column_sum.wgsl", packs);

crate::params! {
    struct ColumnSumParams { rows: u32, width: u32, block: u32, beta: f32 }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    [&RMS_NORM_DWEIGHT, &COLUMN_SUM].into_iter().flat_map(|k| variants(k)).collect()
}

/// Records RMSNorm's weight gradient, `dweight[j] = sum_i dy[i, j] x[i, j] r[i] + beta dweight[j]`.
///
/// `x, dy: [.., d]`, `r: [rows]`, `dweight: [d]`.
///
/// # Errors
/// [`crate::Error::Shape`] when rows cannot be split to fit the adapter's bindings.
pub fn rms_norm_dweight(x: &Tensor, r: &Tensor, dy: &Tensor, beta: f32, dweight: &Tensor) -> Result<()> {
    let (gpu, rows, d) = (x.gpu(), x.rows(), x.cols());
    let (x, dy) = (x.reshape([rows, d])?, dy.reshape([rows, d])?);
    let pack = pack(d);
    let mut beta = beta;
    for range in row_chunks(gpu, "rms_norm", rows, &[d, 1])? {
        let partial = Tensor::empty_f32(gpu, [range.len().div_ceil(BLOCK), d])?;
        let width = (d / pack) as u32;
        let params = ColumnSumParams { rows: range.len() as u32, width, block: BLOCK as u32, beta: 0.0 };
        pack_launch(&RMS_NORM_DWEIGHT, pack)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .read("r", &r.slice(range.clone())?)
            .read("dy", &dy.slice(range.clone())?)
            .write("y", &partial)
            .threads(partial.numel() / pack, THREADS)
            .run(gpu)?;
        let params = ColumnSumParams { rows: partial.rows() as u32, width, block: partial.rows() as u32, beta };
        pack_launch(&COLUMN_SUM, pack)
            .params(&params)
            .read("x", &partial)
            .write("y", dweight)
            .threads(d / pack, THREADS)
            .run(gpu)?;
        beta = 1.0;
    }
    Ok(())
}
