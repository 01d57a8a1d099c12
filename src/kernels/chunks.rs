//! Weight gradients of experts that have far more rows than the others, on GPUs.
//!
//! A workgroup goes through the rows of one expert, so with skewed routing a few workgroups had most of the work: an H200 computed
//! gradients at 8 to 11 TFLOP/s where even routing had 29 (docs/performance.md). So rows beyond a bound
//! go to workgroups of their own, and what those find is added in a fixed order. Which experts have such rows only the
//! device knows: the bound and the number of slots for chunks follow from the sizes, and slots without a chunk cost a look
//! at the experts' offsets.

use super::Variant;
use super::cuts::FULL;
use super::product::{ExpertRows, Stores, WeightGradientParams};
use crate::error::Result;
use crate::gpu::{Bound, Gpu, Kernel, Launch, Tier, rows_in_window, wgsl};
use crate::tensor::Tensor;

/// Rows of a chunk, at least.
const LEAST_ROWS: usize = 256;

/// Threads of a workgroup of `gemm/sum_chunks.wgsl`, and fours of each, as `WG` and `FOURS` there.
const THREADS: usize = 64;
const FOURS: usize = 4;

crate::params! {
    struct SumChunksParams {
        of: ExpertRows,
        size: u32,
        c_first: u32,
        c_matrix: u32,
    }
}

static SUM_CHUNKS: Stores = Stores {
    vec4: Kernel::new("sum_chunks", wgsl!["gemm/store_vec4.wgsl", "gemm/sum_chunks.wgsl"]).params::<SumChunksParams>(),
    scalar: Kernel::new("sum_chunks_scalar", wgsl!["gemm/store_scalar.wgsl", "gemm/sum_chunks.wgsl"])
        .entry("sum_chunks")
        .params::<SumChunksParams>(),
};

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    vec![(&SUM_CHUNKS.vec4).into(), (&SUM_CHUNKS.scalar).into()]
}

/// How the rows of experts are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Rows of a chunk, a multiple of a tile's.
    pub rows: usize,
    /// Chunks beyond the experts' first ones, at most.
    pub slots: usize,
}

impl Chunks {
    /// Cuts `rows` rows of all experts, whose gradients of `size` elements take `workgroups` workgroups each; none where that has no
    /// use. A chunk has the rows that a workgroup would have if all were spread over [`FULL`] of them: twice an expert's even share
    /// where even routing makes twice [`FULL`]; where it makes fewer, its experts are cut, too, and fill the device.
    pub fn new(gpu: &Gpu, rows: usize, tile_rows: usize, workgroups: usize, size: usize) -> Option<Self> {
        let chunk = (rows * workgroups / FULL).max(LEAST_ROWS).next_multiple_of(tile_rows);
        // So many chunks beyond its first has an expert with all rows; experts together have no more.
        let slots = rows.saturating_sub(1) / chunk;
        let used = rows > chunk && gpu.tier() == Tier::Gpu && rows_in_window(gpu, slots, size) == slots;
        used.then_some(Chunks { rows: chunk, slots })
    }

    /// What the launch for the chunks in slots is given, where that for the first chunks is given `params`: C has a matrix for each slot,
    /// without gaps.
    pub fn in_slots(self, params: &WeightGradientParams) -> WeightGradientParams {
        WeightGradientParams { c_first: 0, c_stride: params.n, c_matrix: params.m * params.n, beta: 0.0, ..*params }
    }

    /// Records that the chunks in `parts` are added to the gradients in `c`, where a launch with `params` put the first ones, whose
    /// matrices have no gaps between rows.
    pub fn add(
        self,
        gpu: &Gpu,
        params: &WeightGradientParams,
        parts: &Tensor,
        offsets: impl Into<Bound>,
        c: impl Into<Bound>,
    ) -> Result<()> {
        let size = params.m * params.n;
        let aligned = [size, params.c_first, params.c_matrix].iter().all(|x| x.is_multiple_of(4));
        let sum = SumChunksParams { of: params.of, size, c_first: params.c_first, c_matrix: params.c_matrix };
        let pieces = (size as usize).div_ceil(4 * FOURS * THREADS);
        Launch::new(SUM_CHUNKS.of(aligned))
            .params(&sum)
            .read("parts", parts)
            .write("c", c)
            .read("offsets", offsets)
            .workgroups(self.slots * pieces)
            .run(gpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_the_device_is_not_cut_and_slots_are_few() {
        let gpu = pollster::block_on(Gpu::open(&crate::gpu::GpuOptions::default().tier(Tier::Gpu))).unwrap();
        // 4096 rows over 8 experts, 64 tiles each: an expert may have twice its share.
        let chunks = Chunks::new(&gpu, 4096, 64, 64, 512 * 512).unwrap();
        assert_eq!(chunks, Chunks { rows: 1024, slots: 3 });
        // Large matrices fill the device by themselves; few rows are not worth it.
        assert_eq!(Chunks::new(&gpu, 4096, 64, 256, 2048 * 2048), None);
        assert_eq!(Chunks::new(&gpu, 256, 64, 1, 64 * 64), None);
    }
}
