//! Rows grouped by expert, and the products of each group with its expert's matrix.
//!
//! Routed rows lie in one tensor of `capacity` rows. Each expert's rows are contiguous and begin at a multiple of
//! `tile_rows`, so a tile of rows belongs to one expert; which one, only the device knows (`tile_expert`). The rows
//! between an expert's last row and the next tile are zero. Tiles after the last expert hold anything and are skipped.

use crate::tensor::Tensor;

/// Marks, in u32 tensors, a tile without expert or a row without token.
pub const NONE: u32 = u32::MAX;

/// Which rows belong to which expert; made on the device, without readback.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Number of experts *E*.
    pub experts: usize,
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Rows of the grouped tensors, a multiple of `tile_rows`: enough for every distribution of the routed rows.
    pub capacity: usize,
    /// `u32 [capacity / tile_rows]`: the tile's expert or [`NONE`].
    pub tile_expert: Tensor,
    /// `u32 [E + 1]`: first row of each expert, a multiple of `tile_rows`; the last is the number of rows in use.
    pub offsets: Tensor,
    /// `u32 [E]`: rows of each expert without the padding.
    pub counts: Tensor,
}

impl Groups {
    /// The `capacity` that `rows` routed rows over `experts` experts need.
    pub fn capacity(rows: usize, experts: usize, tile_rows: usize) -> usize {
        let experts = experts.min(rows).max(1);
        (rows + experts * (tile_rows - 1)) / tile_rows * tile_rows
    }
}
