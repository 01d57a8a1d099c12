//! How a product on a GPU is cut: into tiles of which shape, and its sums over K into how many parts, which a second kernel adds in order
//! where tiles alone do not fill the device. As the nearest product that was measured on the adapter, or else by a table.
//!
//! Shapes are numbered, those in registers ([`SHAPES`]) before those on matrix units ([`MATRIX_SHAPES`]).

use super::matrix_shapes::{self, MATRIX_SHAPES, MatrixShape};
use super::shapes::{Form, SHAPES, Shape};
use crate::gpu::{Gpu, Measured, Resolved};

/// The shape of this number, those of [`SHAPES`] first, in words.
///
/// # Panics
/// Where there is none.
pub fn name(index: usize) -> String {
    SHAPES.get(index).map_or_else(|| MATRIX_SHAPES[index - SHAPES.len()].to_string(), ToString::to_string)
}

/// The number of the shape that is called so.
fn number(name: &str) -> Option<usize> {
    let registers = SHAPES.iter().position(|shape| shape.to_string() == name);
    let on_units = || MATRIX_SHAPES.iter().position(|shape| shape.to_string() == name).map(|i| SHAPES.len() + i);
    registers.or_else(on_units)
}

/// How a product is cut, into tiles in registers or on matrix units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut<S> {
    pub shape: S,
    /// Parts of the sums over K.
    pub splits: usize,
}

/// The product that is to be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub form: Form,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Matrices, or experts.
    pub batch: usize,
    /// A multiple of the rows of every tile, where someone else cuts the rows; 0 elsewhere.
    pub fixed_rows: usize,
    /// Whether sums may be cut.
    pub splits: bool,
}

impl Task {
    /// The nearest of the products of this form that were measured and that `may` be followed; none where all are far.
    pub fn nearest<'a>(&self, known: &'a [Resolved], may: impl Fn(&Resolved) -> bool) -> Option<&'a Resolved> {
        let alike = known.iter().filter(|other| other.measured.form == self.form.name() && may(other));
        let distances = alike.map(|other| (self.distance(&other.measured), other));
        let near = distances.filter(|(distance, _)| *distance <= FAR);
        near.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, other)| other)
    }

    /// How far a product that was measured is from this one: doublings of sizes, squared.
    fn distance(&self, other: &Measured) -> f64 {
        let doublings = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).log2().powi(2);
        doublings(self.m, other.m)
            + doublings(self.n, other.n)
            + doublings(self.k, other.k)
            + doublings(self.batch, other.batch)
    }

    /// Whether tiles of so many rows do not cross those in which someone else cuts the rows.
    fn takes(&self, rows: usize) -> bool {
        self.fixed_rows == 0 || self.fixed_rows.is_multiple_of(rows)
    }

    /// Parts of the sums that fill the device where a matrix has so many tiles.
    fn parts(&self, tiles: usize) -> usize {
        FULL.div_ceil((tiles * self.batch).max(1))
    }

    /// Whether that many parts may be, and none is short.
    fn long(&self, parts: usize) -> bool {
        parts == 1 || self.splits && self.k / parts >= LEAST_STEPS
    }

    /// So many parts of the sums, as far as they may be cut and each has `least` steps.
    fn cut<S>(&self, shape: S, splits: usize, least: usize) -> Cut<S> {
        let most = if self.splits { self.k / least } else { 1 };
        Cut { shape, splits: splits.clamp(1, most.max(1)) }
    }
}

/// The shapes of the table, which came out best on an H200 (docs/notes/gpu.md): over the products of `sdmoe tune` its choice takes 1.06
/// of the time of the fastest on average.
const BY_SIZE: [Shape; 2] = [SHAPES[1], SHAPES[5]];
/// The shape for grouped rows, whose tiles have at most 64 rows.
const GROUPED: [Shape; 1] = [SHAPES[9]];
const SMALLEST: Shape = SHAPES[13];
/// Workgroups that fill a GPU: twice the multiprocessors of a large one.
pub(super) const FULL: usize = 256;
/// Steps of K below which the table cuts no part.
const LEAST_STEPS: usize = 256;
/// How far a product that was measured may be, see [`Task::distance`]: three doublings of one size, say.
const FAR: f64 = 9.0;

/// Cuts a product as the nearest one that was measured, or else as the table says.
pub(super) fn cut(gpu: &Gpu, task: Task) -> Cut<Shape> {
    let suits = |shape: &Shape| task.takes(shape.rows);
    if let Some((index, splits)) = gpu.shapes().forced()
        && let Some(&shape) = SHAPES.get(index).filter(|shape| suits(shape))
    {
        return task.cut(shape, splits, shape.steps);
    }
    let known = gpu.shapes().known();
    let may = |other: &Resolved| !other.measured.f16 && SHAPES.get(other.shape).is_some_and(suits);
    if let Some(nearest) = task.nearest(known.products(number), may) {
        return task.cut(SHAPES[nearest.shape], nearest.measured.splits, 32);
    }
    let tiles = |shape: &Shape| shape.tiles(task.m, task.n);
    // The largest whose tiles are not half empty and fill the device, with sums cut where they are long.
    let least = tiles(&SMALLEST) * SMALLEST.rows * SMALLEST.columns;
    let full = |shape: &Shape| tiles(shape) * shape.rows * shape.columns * 3 <= least * 4;
    let fills = |shape: &&Shape| suits(shape) && full(shape) && task.long(task.parts(tiles(shape)));
    let by_size = if task.fixed_rows == 0 { &BY_SIZE[..] } else { &GROUPED };
    let shape = *by_size.iter().find(fills).unwrap_or(&SMALLEST);
    task.cut(shape, task.parts(tiles(&shape)), LEAST_STEPS)
}

/// The shapes of the table on matrix units, which nobody has measured: the largest, for grouped rows the largest of 64 rows, and the
/// one that every adapter runs.
const ON_UNITS: [MatrixShape; 3] = [MATRIX_SHAPES[0], MATRIX_SHAPES[2], matrix_shapes::SMALLEST];

/// Cuts a product of f16 operands for matrix units, as the nearest one that was measured, or else as the table says; none
/// where another kernel was measured to be faster, or is forced.
pub(super) fn cut_on_matrix_units(gpu: &Gpu, task: Task) -> Option<Cut<MatrixShape>> {
    let suits = |shape: &MatrixShape| shape.runs(gpu.adapter()) && task.takes(shape.rows);
    let on_units = |index: usize| index.checked_sub(SHAPES.len()).and_then(|i| MATRIX_SHAPES.get(i));
    if let Some((index, splits)) = gpu.shapes().forced() {
        let shape = *on_units(index)?;
        let shape = if suits(&shape) { shape } else { matrix_shapes::SMALLEST };
        return Some(task.cut(shape, splits, matrix_shapes::STEPS));
    }
    let known = gpu.shapes().known();
    let may = |other: &Resolved| other.measured.f16 && on_units(other.shape).is_none_or(suits);
    if let Some(nearest) = task.nearest(known.products(number), may) {
        return on_units(nearest.shape).map(|&shape| task.cut(shape, nearest.measured.splits, matrix_shapes::STEPS));
    }
    let tiles = |shape: &MatrixShape| shape.tiles(task.m, task.n);
    let full = |shape: &MatrixShape| tiles(shape) * shape.rows * shape.columns * 3 <= task.m * task.n * 4;
    let fills = |shape: &MatrixShape| suits(shape) && full(shape) && task.long(task.parts(tiles(shape)));
    let shape = ON_UNITS.into_iter().find(fills).unwrap_or(matrix_shapes::SMALLEST);
    Some(task.cut(shape, task.parts(tiles(&shape)), LEAST_STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_a_number_and_a_name() {
        for i in 0..SHAPES.len() + MATRIX_SHAPES.len() {
            assert_eq!(number(&name(i)), Some(i));
        }
    }
}
