//! Routing on the host: the top-K choice and the placement by expert, and groups of rows made without a device's help.

use crate::autograd::Array;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::grouped::{Groups, NONE, tile_rows};
use crate::tensor::Tensor;

/// All that `kernels::routing::route` gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Routed {
    /// `[T, K]`: each token's experts, the best first.
    pub index: Vec<u32>,
    pub tile_expert: Vec<u32>,
    pub offsets: Vec<u32>,
    pub counts: Vec<u32>,
    /// `[T, K]`: the row of each choice.
    pub slot: Vec<u32>,
    /// `[R]`: the choice in each row, or [`NONE`].
    pub source: Vec<u32>,
}

/// Routes `tokens` by their scores, which a NaN is below: the K best, of equal ones the lower expert first; then rows by expert, each
/// expert's beginning at a tile.
pub(super) fn route(scores: &[f32], bias: Option<&[f32]>, [experts, top_k, tile_rows]: [usize; 3]) -> Routed {
    let mut index = Vec::new();
    for row in scores.chunks(experts) {
        let value = |e: usize| {
            let v = row[e] + bias.map_or(0.0, |b| b[e]);
            if v.is_nan() { (0, 0.0) } else { (1, v) }
        };
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| value(b).partial_cmp(&value(a)).unwrap_or(std::cmp::Ordering::Equal));
        index.extend(order[..top_k].iter().map(|&e| e as u32));
    }
    let capacity = Groups::capacity(index.len(), experts, tile_rows);
    let mut routed = Routed {
        tile_expert: vec![NONE; capacity / tile_rows],
        offsets: vec![0; experts + 1],
        counts: vec![0; experts],
        slot: vec![NONE; index.len()],
        source: vec![NONE; capacity],
        index,
    };
    let mut row = 0;
    for e in 0..experts {
        routed.offsets[e] = row as u32;
        let first = row;
        for (pair, _) in routed.index.iter().enumerate().filter(|(_, i)| **i == e as u32) {
            routed.source[row] = pair as u32;
            routed.slot[pair] = row as u32;
            row += 1;
        }
        routed.counts[e] = (row - first) as u32;
        row = row.next_multiple_of(tile_rows);
        routed.tile_expert[first / tile_rows..row / tile_rows].fill(e as u32);
    }
    routed.offsets[experts] = row as u32;
    routed
}

/// Whole numbers as an array.
pub(super) fn array(shape: &[usize], data: &[u32]) -> Array {
    Array::new(shape, data.iter().map(|&x| f64::from(x)).collect())
}

/// Groups and what the host knows of them.
pub(super) struct HostGroups {
    pub groups: Groups,
    /// First row of each expert, and the end of the last.
    pub offsets: Vec<usize>,
    pub counts: Vec<usize>,
    pub tile_expert: Vec<u32>,
}

/// The groups of experts that have `counts` rows, with `spare` tiles without expert at the end.
pub(super) fn groups(gpu: &Gpu, counts: &[usize], spare: usize) -> Result<HostGroups> {
    let tile = tile_rows(gpu);
    let (mut offsets, mut tile_expert) = (vec![0], Vec::new());
    for (expert, &count) in counts.iter().enumerate() {
        tile_expert.extend(vec![expert as u32; count.div_ceil(tile)]);
        offsets.push(tile_expert.len() * tile);
    }
    tile_expert.resize(tile_expert.len() + spare, NONE);
    let tensor = |data: &[u32]| Tensor::from_u32(gpu, [data.len()], data);
    let narrow = |data: &[usize]| data.iter().map(|&x| x as u32).collect::<Vec<_>>();
    let groups = Groups {
        experts: counts.len(),
        rows: counts.iter().sum(),
        tile_rows: tile,
        capacity: tile_expert.len() * tile,
        tile_expert: tensor(&tile_expert)?,
        offsets: tensor(&narrow(&offsets))?,
        counts: tensor(&narrow(counts))?,
    };
    Ok(HostGroups { groups, offsets, counts: counts.to_vec(), tile_expert })
}

impl HostGroups {
    /// Random rows, zero in the padding and NaN in the spare tiles.
    pub fn rows(&self, columns: usize, seed: u64) -> Array {
        let mut x = Array::random(&[self.groups.capacity, columns], seed);
        for expert in 0..self.counts.len() {
            for row in self.offsets[expert] + self.counts[expert]..self.offsets[expert + 1] {
                x.row_mut(row).fill(0.0);
            }
        }
        for row in self.offsets[self.counts.len()]..self.groups.capacity {
            x.row_mut(row).fill(f64::NAN);
        }
        x
    }

    /// The rows of `x` that belong to `expert`, padding included.
    pub fn of(&self, x: &Array, expert: usize) -> Array {
        let (first, end) = (self.offsets[expert], self.offsets[expert + 1]);
        Array::new(&[end - first, x.cols()], x.data[first * x.cols()..end * x.cols()].to_vec())
    }
}
