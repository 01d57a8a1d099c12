//! The launch that permute and combine have in common: the sum over a token's choices of their rows in the grouped
//! layout.

use std::ops::Range;

use crate::error::Result;
use crate::gpu::Parts;
use crate::kernels::rows::{GroupKernels, group_launch, pack};
use crate::tensor::Tensor;

crate::params! {
    /// The parameters of every kernel of `permute.wgsl` and `combine.wgsl`.
    pub(super) struct RowParams {
        /// Written by this launch.
        rows: u32,
        /// Packs of a row.
        width: u32,
        top_k: u32,
        /// First of the rows or tokens bound here to be read.
        first: u32,
        /// Their number.
        count: u32,
        first_choice: u32,
        last_choice: u32,
        factor: f32,
        /// The factor on the gradient of combine's weights.
        dw_factor: f32,
    }
}

impl RowParams {
    /// The parameters of a launch that writes the rows `range` of `d` elements and reads the rows or tokens `from`.
    pub(super) fn new(range: &Range<usize>, d: usize, top_k: usize, from: &Range<usize>) -> Self {
        RowParams {
            rows: range.len() as u32,
            width: (d / pack(d)) as u32,
            top_k: top_k as u32,
            first: from.start as u32,
            count: from.len() as u32,
            ..Default::default()
        }
    }
}

/// The launches that sum rows over a token's choices: all choices at once where the rows fit one binding; else one
/// choice after the other, so that the order of the sum, and with it every bit, stays the same.
fn choice_passes(chunks: usize, top_k: usize) -> Vec<Range<usize>> {
    if chunks == 1 { std::iter::once(0..top_k).collect() } else { (0..top_k).map(|j| j..j + 1).collect() }
}

/// Records `y[t] = sum_j w[t, j] z[slot[t, j]] + factor y[t]`, with `w = 1` where there are no weights.
///
/// `z: [R, d]`, `w, slot: [T, K]`, `y: [T, d]`, none of them empty.
pub(super) fn gather(
    kernels: &'static GroupKernels,
    op: &'static str,
    z: &Tensor,
    weights: Option<&Tensor>,
    slot: &Tensor,
    factor: f32,
    y: &Tensor,
) -> Result<()> {
    let (gpu, d, top_k) = (y.gpu(), y.cols(), slot.cols());
    let chunks: Vec<_> = Parts::new(op, z.rows()).sliced(gpu, &[d]).ranges()?.collect();
    for range in Parts::new(op, y.rows()).sliced(gpu, &[d, top_k]).ranges()? {
        let mut factor = factor;
        for choices in choice_passes(chunks.len(), top_k) {
            for from in &chunks {
                let params = RowParams {
                    first_choice: choices.start as u32,
                    last_choice: choices.end as u32,
                    factor,
                    ..RowParams::new(&range, d, top_k, from)
                };
                let iterations = d / pack(d) * (1 + choices.len());
                let mut launch = group_launch(kernels, gpu, range.len(), pack(d), iterations)
                    .params(&params)
                    .read("z", &z.slice(from.clone())?)
                    .read("slot", &slot.slice(range.clone())?)
                    .write("y", &y.slice(range.clone())?);
                if let Some(weights) = weights {
                    launch = launch.read("weights", &weights.slice(range.clone())?);
                }
                launch.run(gpu)?;
                factor = 1.0;
            }
        }
    }
    Ok(())
}
