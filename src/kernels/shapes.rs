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

/// The shape in which a product's kernel was launched with these constants, in words; none for a kernel that has but one.
#[cfg(feature = "bench")]
pub(crate) fn described(kernel: &str, constants: &[(&str, f64)]) -> Option<String> {
    let of_gpus = SHAPES.iter().find(|shape| {
        let (rows, columns) = shape.block.size();
        kernel.contains(&format!("_workgroup_{rows}x{columns}"))
            && shape.constants().iter().all(|c| constants.contains(c))
    });
    let value = |name: &str| constants.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    // As `software/product.wgsl` has it: a lane has four columns of a block.
    let of_software = || {
        let (rows, columns) = (value("TILE_ROWS")?, 4.0 * value("WG")? * value("COLUMN_BLOCKS")?);
        let of = if value("C_TRANSPOSED") == Some(1.0) { " of the transposed product" } else { "" };
        Some(format!("{rows} x {columns}{of}"))
    };
    of_gpus.map(Shape::to_string).or_else(of_software)
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

    #[cfg(feature = "bench")]
    #[test]
    fn a_launch_is_described_by_its_shape() {
        for (shape, kernel) in [(SHAPES[3], "gemm_workgroup_8x8_scalar"), (SHAPES[8], "grouped_gemm_workgroup_8x4")] {
            let constants = [&[("A_TRANSPOSED", 0.0)][..], &shape.constants()].concat();
            assert_eq!(described(kernel, &constants), Some(shape.to_string()));
            assert_eq!(described("gemm_workgroup_2x2", &constants), None);
        }
        let mut constants = vec![("TILE_ROWS", 16.0), ("COLUMN_BLOCKS", 2.0), ("WG", 8.0), ("C_TRANSPOSED", 0.0)];
        assert_eq!(described("gemm_subgroup", &constants).unwrap(), "16 x 64");
        constants[3].1 = 1.0;
        assert_eq!(described("gemm_subgroup", &constants).unwrap(), "16 x 64 of the transposed product");
        assert_eq!(described("gemm_plain", &[("A_TRANSPOSED", 1.0)]), None);
    }

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
