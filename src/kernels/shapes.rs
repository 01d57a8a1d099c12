//! The shapes of products on GPUs: what a workgroup of `gemm/workgroup.wgsl` and each of its threads compute.
//!
//! No one shape is right: large tiles read less of workgroup memory for a multiplication, small ones fill the device where C is
//! small; [`super::cuts`] chooses.

/// The part of C that a thread computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 4 rows x 4 columns.
    B4x4,
    /// 8 rows x 4 columns.
    B8x4,
    /// 8 rows x 8 columns.
    B8x8,
}

impl Block {
    /// Rows and columns.
    pub fn size(self) -> (usize, usize) {
        match self {
            Block::B4x4 => (4, 4),
            Block::B8x4 => (8, 4),
            Block::B8x8 => (8, 8),
        }
    }
}

/// A shape: constants of `gemm/workgroup.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a workgroup's tile of C.
    pub rows: usize,
    /// Columns of the tile.
    pub columns: usize,
    /// Steps of K that are in workgroup memory at a time.
    pub steps: usize,
    /// A thread's part of the tile.
    pub block: Block,
    /// Whether the next steps are loaded into registers while the present ones are multiplied.
    pub prefetch: bool,
}

const fn shape(rows: usize, columns: usize, steps: usize, block: Block, prefetch: bool) -> Shape {
    Shape { rows, columns, steps, block, prefetch }
}

/// Every shape.
pub const SHAPES: [Shape; 16] = [
    shape(128, 128, 16, Block::B8x8, true),
    shape(128, 128, 16, Block::B8x8, false),
    shape(128, 128, 8, Block::B8x8, true),
    shape(128, 64, 16, Block::B8x8, true),
    shape(64, 128, 16, Block::B8x8, true),
    shape(64, 64, 16, Block::B8x8, true),
    shape(64, 64, 16, Block::B8x8, false),
    shape(64, 64, 16, Block::B8x4, true),
    shape(64, 64, 16, Block::B8x4, false),
    shape(64, 64, 32, Block::B8x4, true),
    shape(64, 64, 32, Block::B4x4, true),
    shape(64, 32, 16, Block::B8x4, true),
    shape(32, 64, 16, Block::B4x4, true),
    shape(32, 32, 32, Block::B4x4, true),
    shape(32, 32, 16, Block::B4x4, true),
    shape(32, 32, 16, Block::B4x4, false),
];

impl Shape {
    /// Threads of a workgroup.
    pub fn threads(&self) -> usize {
        let (rows, columns) = self.block.size();
        self.rows / rows * (self.columns / columns)
    }

    /// Tiles of an m x n matrix.
    pub fn tiles(&self, m: usize, n: usize) -> usize {
        m.div_ceil(self.rows) * n.div_ceil(self.columns)
    }

    /// The constants that its kernel is given.
    pub fn constants(&self) -> [(&'static str, f64); 4] {
        [
            ("TILE_ROWS", self.rows as f64),
            ("TILE_COLUMNS", self.columns as f64),
            ("STEPS", self.steps as f64),
            ("PREFETCH", f64::from(u8::from(self.prefetch))),
        ]
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns) = self.block.size();
        let ahead = if self.prefetch { " ahead" } else { "" };
        write!(f, "{} x {} x {}, {rows} x {columns} a thread{ahead}", self.rows, self.columns, self.steps)
    }
}

/// The form of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `A B`.
    Nn,
    /// `A B^T`.
    Nt,
    /// `A^T B`, and `A^T B^T`.
    Tn,
    /// Rows of experts with the expert's matrix each.
    Grouped,
    /// The experts' weight gradients.
    Gradient,
}

impl Form {
    /// The name, as the file of what was measured has it.
    pub fn name(self) -> &'static str {
        match self {
            Form::Nn => "nn",
            Form::Nt => "nt",
            Form::Tn => "tn",
            Form::Grouped => "grouped",
            Form::Gradient => "gradient",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_keeps_what_the_kernel_relies_on() {
        for shape in SHAPES {
            let (rows, columns) = shape.block.size();
            // An eight is two fours half a tile apart, and fours are exchanged within eights of them.
            assert!(shape.rows.is_multiple_of(8 * rows) && shape.columns.is_multiple_of(8 * columns), "{shape}");
            assert!(shape.steps.is_multiple_of(4), "{shape}");
            let blocks = (shape.rows + shape.columns) * shape.steps / 16;
            assert!(blocks <= 2 * shape.threads(), "{shape}: a thread keeps two blocks");
            // WebGPU's least.
            assert!(shape.threads() <= 256 && (shape.rows + shape.columns) * shape.steps * 4 <= 16384, "{shape}");
        }
    }
}
