//! The shapes of products on matrix units: what a workgroup of `gemm/cooperative.wgsl` and each of its subgroups compute.

use crate::gpu::AdapterReport;

/// The part of a tile that a subgroup has, 32 rows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// 32 columns: `gemm/cooperative_2x2.wgsl`.
    Columns32,
    /// 64 columns: `gemm/cooperative_2x4.wgsl`.
    Columns64,
}

impl Part {
    fn columns(self) -> usize {
        match self {
            Part::Columns32 => 32,
            Part::Columns64 => 64,
        }
    }
}

/// A shape: constants of `gemm/cooperative.wgsl`, and the fragment that it is joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Rows of a workgroup's tile of C.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// A subgroup's part of the tile.
    pub part: Part,
}

const fn shape(rows: usize, columns: usize, part: Part) -> MatrixShape {
    MatrixShape { rows, columns, part }
}

/// Every shape.
pub const MATRIX_SHAPES: [MatrixShape; 4] = [
    shape(128, 128, Part::Columns64),
    shape(128, 64, Part::Columns32),
    shape(64, 128, Part::Columns32),
    shape(64, 64, Part::Columns32),
];

/// The shape that every adapter with matrix units can run.
pub(super) const SMALLEST: MatrixShape = MATRIX_SHAPES[3];

/// Rows of a subgroup's part.
const PART_ROWS: usize = 32;
/// Steps of K that are in workgroup memory at a time.
pub(super) const STEPS: usize = 32;

impl MatrixShape {
    /// Subgroups that have a part of the tile.
    fn parts(&self) -> usize {
        self.rows / PART_ROWS * (self.columns / self.part.columns())
    }

    /// Threads of a workgroup, whose subgroups have `lanes` lanes at most.
    pub fn threads(&self, lanes: usize) -> usize {
        self.parts() * lanes
    }

    /// Bytes of workgroup memory: rows of 40 elements of f16, and a block of sums for each subgroup in rows of 20.
    pub fn bytes(&self) -> usize {
        (self.rows + self.columns) * 40 * 2 + self.parts() * 16 * 20 * 4
    }

    /// Tiles of an m x n matrix.
    pub fn tiles(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }

    /// Whether an adapter's workgroups have the threads and the memory, and each thread something to load.
    pub fn runs(&self, adapter: &AdapterReport) -> bool {
        let threads = self.threads(adapter.subgroup_size.1 as usize);
        let fours = self.rows.min(self.columns) * STEPS / 4;
        threads <= fours
            && threads <= adapter.workgroup_threads as usize
            && self.bytes() <= adapter.workgroup_bytes as usize
    }

    /// The constants that its kernel is given, where subgroups have so many lanes, least and most.
    pub fn constants(&self, (least, most): (u32, u32)) -> [(&'static str, f64); 4] {
        [
            ("TILE_ROWS", self.rows as f64),
            ("TILE_COLUMNS", self.columns as f64),
            ("LANES", f64::from(most)),
            ("VARYING", f64::from(u8::from(least != most))),
        ]
    }
}

impl std::fmt::Display for MatrixShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {} on matrix units, {PART_ROWS} x {} a subgroup", self.rows, self.columns, self.part.columns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_what_its_kernel_relies_on() {
        for shape in MATRIX_SHAPES {
            assert!(
                shape.rows.is_multiple_of(PART_ROWS) && shape.columns.is_multiple_of(shape.part.columns()),
                "{shape}"
            );
            // Where subgroups have 32 lanes, a thread keeps four fours of each operand.
            let fours = shape.rows.max(shape.columns) * STEPS / 4;
            assert!(fours <= 4 * shape.threads(32) && shape.bytes() <= 32 << 10, "{shape}");
        }
        // WebGPU's least.
        assert!(SMALLEST.bytes() <= 16 << 10);
    }
}
