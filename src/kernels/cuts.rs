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
    on_units(index).map_or_else(|| SHAPES[index].to_string(), ToString::to_string)
}

/// The shape of this number where it is one on matrix units.
fn on_units(index: usize) -> Option<&'static MatrixShape> {
    MATRIX_SHAPES.get(index.checked_sub(SHAPES.len())?)
}

/// The number of the shape that is called so.
fn number(name: &str) -> Option<usize> {
    let registers = SHAPES.iter().position(|shape| shape.to_string() == name);
    let units = || MATRIX_SHAPES.iter().position(|shape| shape.to_string() == name).map(|i| SHAPES.len() + i);
    registers.or_else(units)
}

/// The shape in which a product's kernel was launched with these constants, in words; none for a kernel that has but one.
#[cfg(feature = "bench")]
pub(crate) fn described(kernel: &str, constants: &[(&str, f64)]) -> Option<String> {
    let of_gpus = SHAPES.iter().find(|shape| {
        let (rows, columns) = shape.block.size();
        kernel.contains(&format!("_workgroup_{rows}x{columns}"))
            && shape.constants().iter().all(|c| constants.contains(c))
    });
    let value = |name: &str| constants.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    let lanes = value("LANES").unwrap_or_default() as u32;
    let on_units = MATRIX_SHAPES.iter().find(|shape| {
        kernel.contains("_cooperative_") && shape.constants((lanes, lanes))[..3].iter().all(|c| constants.contains(c))
    });
    // As `software/product.wgsl` has it: a lane has four columns of a block.
    let of_software = || {
        let (rows, columns) = (value("TILE_ROWS")?, 4.0 * value("WG")? * value("COLUMN_BLOCKS")?);
        let of = if value("C_TRANSPOSED") == Some(1.0) { " of the transposed product" } else { "" };
        Some(format!("{rows} x {columns}{of}"))
    };
    of_gpus.map(Shape::to_string).or_else(|| on_units.map(MatrixShape::to_string)).or_else(of_software)
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
    /// Matrices of a launch, which are the experts' for a gradient.
    pub batch: usize,
    /// Experts, and rows of all of them; 0 of a dense product.
    pub experts: usize,
    pub rows: usize,
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
        // What someone else's rows are cut into, only the device knows: they are compared as a whole.
        let (k, batch) = match self.form {
            Form::Grouped => (self.k, self.experts),
            Form::Gradient => (self.rows, self.experts),
            Form::Nn | Form::Nt | Form::Tn => (self.k, self.batch),
        };
        doublings(self.m, other.m) + doublings(self.n, other.n) + doublings(k, other.k) + doublings(batch, other.batch)
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

/// Cuts a product as the nearest one that was measured, in f16 with `f16` if there is one, or else as the table says.
pub(super) fn cut(gpu: &Gpu, task: Task, f16: bool) -> Cut<Shape> {
    let suits = |shape: &Shape| task.takes(shape.rows);
    if let Some((index, splits)) = gpu.shapes().forced()
        && let Some(&shape) = SHAPES.get(index).filter(|shape| suits(shape))
    {
        return task.cut(shape, splits, shape.steps);
    }
    let known = gpu.shapes().known();
    let measured = |f16: bool| {
        let may = |other: &Resolved| other.measured.f16 == f16 && SHAPES.get(other.shape).is_some_and(suits);
        task.nearest(known.products(number), may)
    };
    if let Some(nearest) = measured(true).filter(|_| f16).or_else(|| measured(false)) {
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

/// The table's among [`MATRIX_SHAPES`], which nobody has measured: the largest, for grouped rows the largest of 64 rows, and the
/// one that every adapter runs.
pub(super) const ON_UNITS: [usize; 3] = [0, 2, 3];

/// Cuts a product of f16 operands for matrix units, as the nearest one that was measured, or else as the table says; none
/// where another kernel was measured to be faster, or is forced.
pub(super) fn cut_on_matrix_units(gpu: &Gpu, task: Task) -> Option<Cut<MatrixShape>> {
    let suits = |shape: &MatrixShape| shape.runs(gpu.adapter()) && task.takes(shape.rows);
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
    let shape = ON_UNITS.map(|i| MATRIX_SHAPES[i]).into_iter().find(fills).unwrap_or(matrix_shapes::SMALLEST);
    Some(task.cut(shape, task.parts(tiles(&shape)), LEAST_STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "bench")]
    #[test]
    fn a_launch_is_described_by_its_shape() {
        for (shape, kernel) in [(SHAPES[3], "gemm_workgroup_8x8_scalar"), (SHAPES[8], "grouped_gemm_workgroup_8x4")] {
            let constants = [&[("A_TRANSPOSED", 0.0)][..], &shape.constants()].concat();
            assert_eq!(described(kernel, &constants), Some(shape.to_string()));
            assert_eq!(described("gemm_workgroup_2x2", &constants), None);
        }
        for shape in MATRIX_SHAPES {
            assert_eq!(described("gemm_cooperative_8_2x4", &shape.constants((8, 16))), Some(shape.to_string()));
        }
        let mut constants = vec![("TILE_ROWS", 16.0), ("COLUMN_BLOCKS", 2.0), ("WG", 8.0), ("C_TRANSPOSED", 0.0)];
        assert_eq!(described("gemm_subgroup", &constants).unwrap(), "16 x 64");
        constants[3].1 = 1.0;
        assert_eq!(described("gemm_subgroup", &constants).unwrap(), "16 x 64 of the transposed product");
        assert_eq!(described("gemm_plain", &[("A_TRANSPOSED", 1.0)]), None);
    }

    #[test]
    fn every_shape_has_a_number_and_a_name() {
        for i in 0..SHAPES.len() + MATRIX_SHAPES.len() {
            assert_eq!(number(&name(i)), Some(i));
        }
    }
}
