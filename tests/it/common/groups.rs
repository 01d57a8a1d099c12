//! Rows grouped by expert, made on the host.

use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::{Groups, NONE, tile_rows};
use sdmoe::tensor::Tensor;

/// Groups and what the host knows of them.
pub struct HostGroups {
    pub groups: Groups,
    /// First row of each expert, and the end of the last.
    pub offsets: Vec<usize>,
    pub counts: Vec<usize>,
    pub tile_expert: Vec<u32>,
}

/// The groups of experts that have `counts` rows, with `spare` tiles without expert at the end.
pub fn groups(gpu: &Gpu, counts: &[usize], spare: usize) -> HostGroups {
    let tile = tile_rows(gpu);
    let (mut offsets, mut tile_expert) = (vec![0], Vec::new());
    for (expert, &count) in counts.iter().enumerate() {
        tile_expert.extend(vec![expert as u32; count.div_ceil(tile)]);
        offsets.push(tile_expert.len() * tile);
    }
    tile_expert.resize(tile_expert.len() + spare, NONE);
    let tensor = |data: &[u32]| Tensor::from_u32(gpu, [data.len()], data).unwrap();
    let narrow = |data: &[usize]| data.iter().map(|&x| x as u32).collect::<Vec<_>>();
    let groups = Groups {
        experts: counts.len(),
        rows: counts.iter().sum(),
        tile_rows: tile,
        capacity: tile_expert.len() * tile,
        tile_expert: tensor(&tile_expert),
        offsets: tensor(&narrow(&offsets)),
        counts: tensor(&narrow(counts)),
    };
    HostGroups { groups, offsets, counts: counts.to_vec(), tile_expert }
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
