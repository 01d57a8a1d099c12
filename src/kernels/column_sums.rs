//! Sums over the rows of a matrix, in a fixed tree: the same bits however the matrix is split over launches.

use crate::error::Result;
use crate::gpu::{Kernel, Launch};
use crate::tensor::{Tensor, row_chunks};

/// One level of the tree.
pub static COLUMN_SUMS: Kernel = Kernel {
    name: "column_sums",
    sources: &[include_str!("../../shaders/lib/grid.wgsl"), include_str!("../../shaders/column_sums.wgsl")],
    entry: "column_sums",
    constants: &[],
};

crate::params! {
    struct ColumnSumsParams { rows: u32, columns: u32, block: u32 }
}

/// Threads of a workgroup.
const THREADS: u32 = 64;

/// Rows that one thread adds. It depends on the columns alone: neither on the rows nor on the adapter's limits. A block
/// of up to 8192 numbers (32 KiB) fits every binding.
fn block_rows(columns: usize) -> usize {
    (8192 / columns.max(1)).clamp(8, 64)
}

/// Records the sums over all rows of `x: [.., C]`; gives `[C]`. A matrix of one row is its own sum and is shared, so the
/// result must not be written to.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (gpu, columns) = (x.gpu(), x.cols());
    let block = block_rows(columns);
    let mut level = x.reshape([x.rows(), columns])?;
    while level.rows() > 1 {
        let rows = level.rows();
        let blocks = rows.div_ceil(block);
        let sums = Tensor::empty_f32(gpu, [blocks, columns])?;
        for range in row_chunks(gpu, "column_sums", blocks, &[block * columns, columns])? {
            let taken = range.start * block..rows.min(range.end * block);
            let params = ColumnSumsParams { rows: taken.len() as u32, columns: columns as u32, block: block as u32 };
            Launch::new(&COLUMN_SUMS)
                .params(&params)
                .read("x", &level.slice(taken)?)
                .write("y", &sums.slice(range.clone())?)
                .threads(range.len() * columns, THREADS)
                .run(gpu)?;
        }
        level = sums;
    }
    level.reshape([columns])
}
