//! How a launch over rows is cut into several, where the device cannot take all rows at once: the one place that knows what
//! a binding, the alignment of its offset and a driver's limit on loops allow.

use std::ops::Range;

use super::Gpu;
use crate::error::{Error, Result};

/// The parts of `rows` rows that one launch each can take.
///
/// A row has elements in several tensors; what is bound of them is cut at the same rows. Elements are taken to have 4 bytes;
/// rows of f16 have half of them and fit all the more.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    op: &'static str,
    rows: usize,
    most: usize,
    multiple: usize,
}

impl Parts {
    /// One part with all rows; `op` is for the error.
    pub fn new(op: &'static str, rows: usize) -> Self {
        Parts { op, rows, most: usize::MAX, multiple: 1 }
    }

    /// Parts of at most `rows` rows.
    pub fn at_most(self, rows: usize) -> Self {
        Parts { most: self.most.min(rows), ..self }
    }

    /// Parts that begin at multiples of `rows` rows.
    pub fn multiples_of(self, rows: usize) -> Self {
        Parts { multiple: least_common_multiple(self.multiple, rows.max(1)), ..self }
    }

    /// Parts that tensors with `elements[i]` elements a row can be sliced into: each slice fits a binding, and begins at an
    /// offset that a binding can have.
    pub fn sliced(self, gpu: &Gpu, elements: &[usize]) -> Self {
        let (limit, alignment) = (gpu.max_binding_bytes() as usize, gpu.offset_alignment() as usize);
        let row_bytes = elements.iter().copied().max().unwrap_or(1) * 4;
        if self.rows.saturating_mul(row_bytes) <= limit && self.most >= self.rows {
            return self;
        }
        // Every row has a multiple of 4 bytes, or of 2 in f16, so so many rows always begin aligned.
        let group_of = |bytes: usize| {
            let rows = elements.iter().map(|&e| (alignment / bytes) / gcd(alignment / bytes, e.max(1)));
            rows.fold(1, least_common_multiple)
        };
        // Where rows are so long that only groups for f32 fit, f16 is refused by its launch.
        let group = if limit < row_bytes * group_of(2) { group_of(4) } else { group_of(2) };
        self.multiples_of(group).at_most(limit / row_bytes.max(1))
    }

    /// Parts that lie within one binding each in tensors with `elements[i]` elements a row, wherever in it they begin: the
    /// kernel is told the first element.
    pub fn in_windows(self, gpu: &Gpu, elements: &[usize]) -> Self {
        elements.iter().fold(self, |parts, &elements| parts.at_most(rows_in_window(gpu, parts.rows, elements)))
    }

    /// The ranges of rows, one after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] when not even the least part fits a binding.
    pub fn ranges(self) -> Result<impl Iterator<Item = Range<usize>> + Clone + use<>> {
        let Parts { op, rows, most, multiple } = self;
        let part = if most >= rows { rows.max(1) } else { most / multiple * multiple };
        if part == 0 {
            let expected = format!("{multiple} rows within one binding");
            return Err(Error::shape(op, expected, format!("a binding that holds {most}")));
        }
        Ok((0..rows.div_ceil(part)).map(move |i| i * part..rows.min((i + 1) * part)))
    }
}

/// How many rows of `elements` elements a binding holds that may begin before the first of them, at most `rows`; 0 when not
/// even one fits.
pub(crate) fn rows_in_window(gpu: &Gpu, rows: usize, elements: usize) -> usize {
    let bytes = gpu.max_binding_bytes().saturating_sub(gpu.offset_alignment()) as usize;
    rows.min(bytes / (elements * 4).max(1))
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    a / gcd(a, b) * b
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
