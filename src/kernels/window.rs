//! Windows: the part of a tensor that one launch binds, where the whole exceeds a binding.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::gpu::{Bound, BufferSlice, Gpu};
use crate::tensor::Tensor;

/// A binding and the element in it at which the part asked for begins.
pub(super) struct Window {
    pub(super) slice: Bound,
    pub(super) first: u32,
}

/// The elements `range` of `x`. The binding begins at the last aligned byte before them.
pub(super) fn window(x: &Tensor, range: Range<usize>) -> Window {
    let mut slice = BufferSlice::from(x);
    let bytes = x.dtype().bytes() as u64;
    let start = slice.offset + range.start as u64 * bytes;
    slice.offset = start / x.gpu().offset_alignment() * x.gpu().offset_alignment();
    slice.size = start - slice.offset + range.len() as u64 * bytes;
    Window { first: ((start - slice.offset) / bytes) as u32, slice: Bound { slice, dtype: Some(x.dtype()) } }
}

/// The largest of 8, 4 and 1 elements at a multiple of which all rows of a matrix begin, whose first element is `first` in its
/// binding and whose rows are `stride` elements apart.
pub(super) fn alignment(first: u32, stride: usize) -> usize {
    [8, 4].into_iter().find(|&of| first.is_multiple_of(of as u32) && stride.is_multiple_of(of)).unwrap_or(1)
}

/// Whether the rows of `x`, of `columns` elements, begin at multiples of four elements.
pub(super) fn aligned(x: &Tensor, columns: usize) -> bool {
    BufferSlice::from(x).offset.is_multiple_of(4 * x.dtype().bytes() as u64) && columns.is_multiple_of(4)
}

/// How many rows of `elements` elements, of 4 bytes or fewer, a window can have, at most `rows`; 0 when not even one fits.
pub(super) fn rows_that_fit(gpu: &Gpu, rows: usize, elements: usize) -> usize {
    let bytes = gpu.max_binding_bytes().saturating_sub(gpu.offset_alignment()) as usize;
    rows.min(bytes / (elements * 4).max(1))
}

/// Cuts `rows` rows into ranges of at most `limit`, each but the last a multiple of `multiple`.
///
/// # Errors
/// [`Error::Shape`] when `limit` is below both `rows` and `multiple`.
pub(crate) fn chunks(
    op: &'static str,
    rows: usize,
    limit: usize,
    multiple: usize,
) -> Result<impl Iterator<Item = Range<usize>> + Clone + use<>> {
    let chunk = if limit >= rows { rows.max(1) } else { limit / multiple * multiple };
    if chunk == 0 {
        let expected = format!("{multiple} rows of a matrix within one binding");
        return Err(Error::shape(op, expected, format!("a binding that holds {limit}")));
    }
    Ok((0..rows.div_ceil(chunk)).map(move |i| i * chunk..rows.min((i + 1) * chunk)))
}
