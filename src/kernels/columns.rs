//! Copies between ranges of columns.

use std::ops::Range;

use super::Variant;
use super::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::tensor::Tensor;

/// Copies a range of columns, or adds it to what is there.
pub static COPY_COLUMNS: PackKernels = forms!("copy_columns", "copy_columns.wgsl", CopyColumnsParams, packs);

crate::params! {
    /// All in packs but beta.
    struct CopyColumnsParams {
        /// In all rows.
        count: u32,
        /// Columns copied.
        width: u32,
        /// From the begin of a row to that of the next.
        x_stride: u32,
        x_first: u32,
        y_stride: u32,
        y_first: u32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    variants(&COPY_COLUMNS)
}

/// Records `y[row, to + c] = x[row, from.start + c] + beta y[row, to + c]` for the columns `from` of x. `x: [.., m]`,
/// `y: [.., n]`, of as many rows and one type.
///
/// # Errors
/// [`Error::Shape`] when the rows differ, or when the columns leave either tensor.
pub fn copy_columns(op: &'static str, x: &Tensor, from: Range<usize>, beta: f32, y: &Tensor, to: usize) -> Result<()> {
    let (rows, x_columns, y_columns, width) = (x.rows(), x.cols(), y.cols(), from.len());
    if y.rows() != rows || from.start > from.end || from.end > x_columns || to + width > y_columns {
        let expected = format!("columns {from:?} of {x:?} to columns from {to} on of as many rows");
        return Err(Error::shape(op, expected, format!("{y:?}")));
    }
    if rows * width == 0 {
        return Ok(());
    }
    let pack = [width, x_columns, from.start, y_columns, to].into_iter().map(pack).min().unwrap_or(1);
    let in_packs = |elements: usize| (elements / pack) as u32;
    let (x, y) = (x.reshape([rows, x_columns])?, y.reshape([rows, y_columns])?);
    for range in Parts::new(op, rows).sliced(x.gpu(), &[x_columns, y_columns]).ranges()? {
        let params = CopyColumnsParams {
            count: in_packs(range.len() * width),
            width: in_packs(width),
            x_stride: in_packs(x_columns),
            x_first: in_packs(from.start),
            y_stride: in_packs(y_columns),
            y_first: in_packs(to),
            beta,
        };
        pack_launch(&COPY_COLUMNS, pack)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() * width / pack, THREADS)
            .run(x.gpu())?;
    }
    Ok(())
}

/// Records `cache[at + i] = rows[i]`: `rows: [n, w]`, `cache: [capacity, w]` of the same type. A caller that steps on with
/// `at` makes no new bind group, as slices of the cache would.
///
/// # Errors
/// [`Error::Shape`] when the widths or types differ, or when the rows exceed the cache.
pub fn write_rows(rows: &Tensor, cache: &Tensor, at: usize) -> Result<()> {
    let (n, width, capacity) = (rows.rows(), rows.cols(), cache.rows());
    let fits = at.checked_add(n).is_some_and(|end| end <= capacity);
    if !fits || cache.cols() != width || cache.dtype() != rows.dtype() {
        let expected = format!("{n} rows of {cache:?} from {at} on");
        return Err(Error::shape("write_rows", expected, format!("{rows:?}")));
    }
    let (rows, cache) = (rows.reshape([n, width])?, cache.reshape([capacity, width])?);
    let parts = |rows| Parts::new("write_rows", rows).sliced(cache.gpu(), &[width]).ranges();
    let chunks: Vec<_> = parts(capacity)?.collect();
    for (part, bound) in parts(n)?.flat_map(|part| chunks.iter().map(move |bound| (part.clone(), bound))) {
        let (start, end) = ((at + part.start).max(bound.start), (at + part.end).min(bound.end));
        if start >= end {
            continue;
        }
        // One row of all that is written.
        let (count, from, to) =
            ((end - start) * width, (start - at - part.start) * width, (start - bound.start) * width);
        let pack = [count, from, to].into_iter().map(pack).min().unwrap_or(1);
        let in_packs = |elements: usize| (elements / pack) as u32;
        let params = CopyColumnsParams {
            count: in_packs(count),
            width: in_packs(count),
            x_first: in_packs(from),
            y_first: in_packs(to),
            ..Default::default()
        };
        pack_launch(&COPY_COLUMNS, pack)
            .params(&params)
            .read("x", &rows.slice(part)?)
            .write("y", &cache.slice(bound.clone())?)
            .threads(count / pack, THREADS)
            .run(cache.gpu())?;
    }
    Ok(())
}
