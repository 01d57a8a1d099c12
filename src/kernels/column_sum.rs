//! Sums over the rows of a matrix, in a fixed tree: no atomics, the same bits every time and however launches are split.

use super::Variant;
use super::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use super::window::window;
use crate::error::{Error, Result};
use crate::gpu::{Parts, rows_in_window};
use crate::tensor::Tensor;

/// Sums of blocks of rows of `dy x r`.
pub static RMS_NORM_DWEIGHT: PackKernels = forms!("rms_norm_dweight", "column_sum.wgsl", ColumnSumParams, packs);
/// Sums of blocks of rows: one level of the tree.
pub static COLUMN_SUM: PackKernels = forms!("column_sum", "column_sum.wgsl", ColumnSumParams, packs);

crate::params! {
    struct ColumnSumParams {
        rows: u32,
        /// Packs of a row.
        width: u32,
        /// Rows that one thread sums.
        block: u32,
        /// Where each part begins in its binding, in packs (r: in elements).
        x_first: u32,
        r_first: u32,
        dy_first: u32,
        y_first: u32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    [&RMS_NORM_DWEIGHT, &COLUMN_SUM].into_iter().flat_map(|k| variants(k)).collect()
}

/// Rows that one thread adds. It depends on the columns alone: neither on the rows nor on the adapter's limits. A block
/// of up to 8192 numbers (32 KiB) fits every binding.
fn block_rows(columns: usize) -> usize {
    (8192 / columns.max(1)).clamp(8, 64)
}

/// Records the sums over all rows of `x: [.., C]`; gives `[C]`. A matrix of one row is its own sum and is shared, so the
/// result must not be written to.
///
/// # Errors
/// [`Error::Shape`] when a block of rows exceeds a binding.
pub fn column_sum(x: &Tensor) -> Result<Tensor> {
    if x.rows() == 1 {
        return x.reshape([x.cols()]);
    }
    let y = Tensor::empty_f32(x.gpu(), [x.cols()])?;
    column_sum_onto(x, 0.0, &y)?;
    Ok(y)
}

/// Records `y[j] = sum_i x[i, j] + beta y[j]`; where `beta` is 0, y's content does not matter. `x: [.., C]`, `y: [C]`.
///
/// # Errors
/// [`Error::Shape`] when the sizes differ, or when a block of rows exceeds a binding.
pub fn column_sum_onto(x: &Tensor, beta: f32, y: &Tensor) -> Result<()> {
    if y.numel() != x.cols() {
        return Err(Error::shape("column_sum", format!("a sum of [{}]", x.cols()), format!("{y:?}")));
    }
    if x.numel() == 0 {
        return if beta == 0.0 { y.clear() } else { Ok(()) };
    }
    let mut x = x.clone();
    while x.rows() > block_rows(x.cols()) {
        let sums = Tensor::empty_f32(x.gpu(), [x.rows().div_ceil(block_rows(x.cols())), x.cols()])?;
        level(&COLUMN_SUM, &x, None, 0.0, &sums)?;
        x = sums;
    }
    level(&COLUMN_SUM, &x, None, beta, y)
}

/// Records RMSNorm's weight gradient, `dweight[j] = sum_i dy[i, j] x[i, j] r[i] + beta dweight[j]`.
///
/// `x, dy: [.., d]`, `r: [rows]`, `dweight: [d]`.
///
/// # Errors
/// [`Error::Shape`] when a block of rows exceeds a binding.
pub fn rms_norm_dweight(x: &Tensor, r: &Tensor, dy: &Tensor, beta: f32, dweight: &Tensor) -> Result<()> {
    let sums = Tensor::empty_f32(x.gpu(), [x.rows().div_ceil(block_rows(x.cols())), x.cols()])?;
    level(&RMS_NORM_DWEIGHT, x, Some((r, dy)), 0.0, &sums)?;
    column_sum_onto(&sums, beta, dweight)
}

/// Records the sums of the blocks of rows of x (or of `dy x r`) into the rows of `sums`.
fn level(
    kernels: &'static PackKernels,
    x: &Tensor,
    factors: Option<(&Tensor, &Tensor)>,
    beta: f32,
    sums: &Tensor,
) -> Result<()> {
    let (gpu, rows, columns) = (x.gpu(), x.rows(), x.cols());
    let (block, pack) = (block_rows(columns), pack(columns));
    let blocks = rows.div_ceil(block);
    let limit = rows_in_window(gpu, blocks, block.min(rows) * columns);
    for range in Parts::new("column_sum", blocks).at_most(limit).ranges()? {
        let own = range.start * block..rows.min(range.end * block);
        let part = |t: &Tensor, width: usize| window(t, own.start * width..own.end * width);
        let (wx, wy) = (part(x, columns), window(sums, range.start * columns..range.end * columns));
        let mut params = ColumnSumParams {
            rows: own.len() as u32,
            width: (columns / pack) as u32,
            block: block as u32,
            x_first: wx.first / pack as u32,
            y_first: wy.first / pack as u32,
            beta,
            ..Default::default()
        };
        let mut launch = pack_launch(kernels, pack).read("x", wx.slice).write("y", wy.slice);
        if let Some((r, dy)) = factors {
            let (wr, wdy) = (part(r, 1), part(dy, columns));
            params = ColumnSumParams { r_first: wr.first, dy_first: wdy.first / pack as u32, ..params };
            launch = launch.read("r", wr.slice).read("dy", wdy.slice);
        }
        launch.params(&params).threads(range.len() * columns / pack, THREADS).run(gpu)?;
    }
    Ok(())
}
