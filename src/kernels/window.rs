//! Windows: the part of a tensor that one launch binds, where the whole exceeds a binding.

use std::ops::Range;

use crate::gpu::{Bound, BufferSlice};
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
