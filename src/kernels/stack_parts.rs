//! How stacks of expert matrices are cut into launches whose bindings all fit.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Parts};
use crate::tensor::Tensor;

/// The part of a stack `[layers, experts, m, n]` that one launch treats: whole layers; or experts of one layer; or rows of
/// one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StackPart {
    pub(crate) layers: Range<usize>,
    pub(crate) experts: Range<usize>,
    pub(crate) rows: Range<usize>,
    /// Whether its parts would not start aligned and are therefore copies; see [`StackPart::store`].
    copies: bool,
    sizes: [usize; 4],
}

/// Cuts a stack of `sizes` = layers, experts, rows, columns. What a launch binds besides rows of the stack itself: tensors
/// with so many elements for each row of each matrix (`by_row`), for each matrix (`by_matrix`), for each layer (`by_layer`).
///
/// # Errors
/// `Error::Shape` when even one row does not fit a binding; the launch fails where what a single matrix or layer needs whole
/// does not.
pub(crate) fn stack_parts(
    gpu: &Gpu,
    op: &'static str,
    sizes: [usize; 4],
    by_row: &[usize],
    by_matrix: &[usize],
    by_layer: &[usize],
) -> Result<Vec<StackPart>> {
    let [layers, experts, m, n] = sizes;
    let limit = gpu.max_binding_bytes() as usize / 4;
    let row = by_row.iter().copied().fold(n, usize::max);
    let matrix = by_matrix.iter().copied().fold(m * row, usize::max);
    let layer = by_layer.iter().copied().fold(experts * matrix, usize::max);
    let part = |layers, experts, rows, copies| StackPart { layers, experts, rows, copies, sizes };
    if layers * layer <= limit {
        return Ok(vec![part(0..layers, 0..experts, 0..m, false)]);
    }
    let mut parts = Vec::new();
    let per_matrix: Vec<usize> = by_row.iter().map(|c| m * c).chain([m * n]).chain(by_matrix.iter().copied()).collect();
    let per_row: Vec<usize> = by_row.iter().copied().chain([n]).collect();
    let align = gpu.offset_alignment() as usize / 4;
    let aligned = |number: usize, elements: &[usize]| elements.iter().all(|c| (number * c).is_multiple_of(align));
    for l in 0..layers {
        let layer_aligned = aligned(l, by_layer) && aligned(l * experts, &per_matrix);
        if let (true, Ok(ranges)) = (layer_aligned, Parts::new(op, experts).sliced(gpu, &per_matrix).ranges()) {
            parts.extend(ranges.map(|range| part(l..l + 1, range, 0..m, false)));
            continue;
        }
        for e in 0..experts {
            let here = |rows, copies| part(l..l + 1, e..e + 1, rows, copies);
            let matrix_aligned = aligned(l, by_layer) && aligned(l * experts + e, &per_matrix);
            if let (true, Ok(rows)) = (matrix_aligned, Parts::new(op, m).sliced(gpu, &per_row).ranges()) {
                parts.extend(rows.map(|rows| here(rows, false)));
                continue;
            }
            let longest = per_row.iter().copied().fold(1, usize::max);
            let chunk = limit / longest;
            if chunk == 0 {
                let got = format!("a row of {longest}");
                return Err(Error::shape(op, format!("rows of at most {limit} elements"), got));
            }
            parts.extend((0..m).step_by(chunk).map(|first| here(first..m.min(first + chunk), true)));
        }
    }
    Ok(parts)
}

impl StackPart {
    /// Number of matrices.
    pub(crate) fn count(&self) -> usize {
        self.layers.len() * self.experts.len()
    }

    /// Whether it has its matrices whole, in part.
    pub(crate) fn whole(&self) -> bool {
        !self.copies && self.rows == (0..self.sizes[2])
    }

    fn first(&self) -> usize {
        self.layers.start * self.sizes[1] + self.experts.start
    }

    fn part(&self, x: Tensor) -> Result<Tensor> {
        if self.copies { x.duplicate() } else { Ok(x) }
    }

    fn rows_within(&self, x: &Tensor) -> Result<Tensor> {
        let first = self.first() * self.sizes[2] + self.rows.start;
        x.reshape([x.rows(), x.cols()])?.slice(first..first + self.count() * self.rows.len())
    }

    /// Returns its rows of `x: [layers, experts, m, c]`, `[rows, c]`.
    pub(crate) fn rows(&self, x: &Tensor) -> Result<Tensor> {
        self.part(self.rows_within(x)?)
    }

    /// To be called for each `rows` of `x` that a launch has written.
    pub(crate) fn store(&self, x: &Tensor, rows: &Tensor) -> Result<()> {
        if self.copies { self.rows_within(x)?.copy_from(rows) } else { Ok(()) }
    }

    /// Returns what belongs to its matrices of `x: [layers, experts, ..]`.
    pub(crate) fn matrices(&self, x: &Tensor) -> Result<Tensor> {
        let number = self.sizes[0] * self.sizes[1];
        self.part(x.reshape([number, x.numel() / number])?.slice(self.first()..self.first() + self.count())?)
    }

    /// Returns what belongs to its layers of `x: [layers, ..]`.
    pub(crate) fn layers(&self, x: &Tensor) -> Result<Tensor> {
        self.part(x.slice(self.layers.clone())?)
    }

    /// Returns the rows of its layers of `x: [layers, m, c]`.
    pub(crate) fn layer_rows(&self, x: &Tensor) -> Result<Tensor> {
        let m = self.sizes[2];
        let first = self.layers.start * m + self.rows.start;
        let count = self.layers.len() * self.rows.len();
        self.part(x.reshape([x.numel() / x.cols(), x.cols()])?.slice(first..first + count)?)
    }
}
