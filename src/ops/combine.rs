//! Rows grouped by expert back to tokens: the weighted sum over each token's experts.

use crate::autograd::{Array, Backward, Forward, Op};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::rows::{LaneKernels, row_threads};
use crate::ops::permute::choice_passes;
use crate::ops::targets::TargetPair;
use crate::tensor::{DType, Tensor, row_chunks};

const GRID: &str = include_str!("../../shaders/lib/grid.wgsl");
const LANE_VEC4: &str = include_str!("../../shaders/lib/lane_vec4.wgsl");
const LANE_SCALAR: &str = include_str!("../../shaders/lib/lane_scalar.wgsl");
const SUM_SUBGROUP: &str = include_str!("../../shaders/lib/row_sum_subgroup.wgsl");
const SUM_WORKGROUP: &str = include_str!("../../shaders/lib/row_sum_workgroup.wgsl");
const OWN: &str = include_str!("../../shaders/combine.wgsl");

const VEC4: &[&str] = &[GRID, LANE_VEC4, SUM_WORKGROUP, OWN];
const SCALAR: &[&str] = &[GRID, LANE_SCALAR, SUM_WORKGROUP, OWN];

/// Rows to tokens.
pub static COMBINE: Kernel = Kernel { name: "combine", sources: VEC4, entry: "combine", constants: &[] };
/// Rows of any length to tokens.
pub static COMBINE_SCALAR: Kernel =
    Kernel { name: "combine_scalar", sources: SCALAR, entry: "combine", constants: &[] };
/// Gradients of rows and weights.
pub static COMBINE_BACKWARD: Kernel =
    Kernel { name: "combine_backward", sources: VEC4, entry: "combine_backward", constants: &[] };
/// Gradients of rows of any length and weights.
pub static COMBINE_BACKWARD_SCALAR: Kernel =
    Kernel { name: "combine_backward_scalar", sources: SCALAR, entry: "combine_backward", constants: &[] };
/// [`COMBINE_BACKWARD`] with sums over one subgroup.
pub static COMBINE_BACKWARD_SUBGROUP: Kernel = Kernel {
    name: "combine_backward_subgroup",
    sources: &[GRID, LANE_VEC4, SUM_SUBGROUP, OWN],
    entry: "combine_backward",
    constants: &[],
};
/// [`COMBINE_BACKWARD_SCALAR`] with sums over one subgroup.
pub static COMBINE_BACKWARD_SCALAR_SUBGROUP: Kernel = Kernel {
    name: "combine_backward_scalar_subgroup",
    sources: &[GRID, LANE_SCALAR, SUM_SUBGROUP, OWN],
    entry: "combine_backward",
    constants: &[],
};

const FORWARD: LaneKernels = LaneKernels { vec4: &COMBINE, scalar: &COMBINE_SCALAR };

fn backward_kernels(gpu: &Gpu) -> LaneKernels {
    if gpu.tier() == Tier::Subgroup {
        LaneKernels { vec4: &COMBINE_BACKWARD_SUBGROUP, scalar: &COMBINE_BACKWARD_SCALAR_SUBGROUP }
    } else {
        LaneKernels { vec4: &COMBINE_BACKWARD, scalar: &COMBINE_BACKWARD_SCALAR }
    }
}

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 6] = [
        &COMBINE,
        &COMBINE_SCALAR,
        &COMBINE_BACKWARD,
        &COMBINE_BACKWARD_SCALAR,
        &COMBINE_BACKWARD_SUBGROUP,
        &COMBINE_BACKWARD_SCALAR_SUBGROUP,
    ];
    all.into_iter().map(Variant::from).collect()
}

crate::params! {
    struct CombineParams {
        rows: u32,
        width: u32,
        top_k: u32,
        first: u32,
        count: u32,
        first_choice: u32,
        last_choice: u32,
        factor: f32,
        dw_factor: f32,
    }
}

/// `y[t] = sum_j w[t, j] z[slot[t, j]]`, in the order of j.
/// Inputs: z `[R, d]`, weights `[T, K]`, slot `u32 [T, K]`, source `u32 [R]` (the inverse of slot). Output: `[T, d]`.
///
/// The gradient of z is written in every row, zero in rows without source: the weight-gradient product reads those that
/// pad a tile.
#[derive(Clone, Copy, Debug)]
pub struct Combine;

impl Op for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let expected = "z [R, d], weights [T, K], u32 slot [T, K], u32 source [R]";
        let fail = || Error::shape("combine", expected, format!("{inputs:?}"));
        let [z, weights, slot, source] = inputs else { return Err(fail()) };
        let ([rows, d], [tokens, top_k]) = (z.dims(), weights.dims()) else { return Err(fail()) };
        let (rows, d, tokens, top_k) = (*rows, *d, *tokens, *top_k);
        let indices = slot.dtype() == DType::U32 && source.dtype() == DType::U32;
        if slot.dims() != weights.dims() || source.dims() != [rows] || !indices {
            return Err(fail());
        }
        let gpu = z.gpu();
        let y = Tensor::empty_f32(gpu, [tokens, d])?;
        if y.numel() == 0 || z.numel() == 0 || weights.numel() == 0 {
            y.clear()?;
            return Ok(y.into());
        }
        let (kernel, width) = FORWARD.of(d);
        let threads = row_threads(gpu);
        let chunks: Vec<_> = row_chunks(gpu, self.name(), rows, &[d])?.collect();
        for range in row_chunks(gpu, self.name(), tokens, &[d, top_k])? {
            let mut factor = 0.0;
            for choices in choice_passes(chunks.len(), top_k) {
                for from in &chunks {
                    let params = CombineParams {
                        rows: range.len() as u32,
                        width: width as u32,
                        top_k: top_k as u32,
                        first: from.start as u32,
                        count: from.len() as u32,
                        first_choice: choices.start as u32,
                        last_choice: choices.end as u32,
                        factor,
                        dw_factor: 0.0,
                    };
                    Launch::new(kernel)
                        .constant("WG", threads)
                        .params(&params)
                        .read("z", &z.slice(from.clone())?)
                        .read("weights", &weights.slice(range.clone())?)
                        .read("slot", &slot.slice(range.clone())?)
                        .write("y", &y.slice(range.clone())?)
                        .workgroups(range.len() as u64)
                        .run(gpu)?;
                    factor = 1.0;
                }
            }
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (z, weights, source, dy) = (pass.input(0), pass.input(1), pass.input(3), pass.dy());
        let pair = TargetPair::new(pass, 0, 1)?;
        let ((dz, factor), (dw, dw_factor)) = (pair.first.clone(), pair.second.clone());
        let (gpu, rows, d, tokens, top_k) = (z.gpu(), z.rows(), z.cols(), weights.rows(), weights.cols());
        if z.numel() == 0 || weights.numel() == 0 {
            return Ok(());
        }
        let (kernel, width) = backward_kernels(gpu).of(d);
        let threads = row_threads(gpu);
        for range in row_chunks(gpu, self.name(), rows, &[d, 1])? {
            for from in row_chunks(gpu, self.name(), tokens, &[d, top_k])? {
                let params = CombineParams {
                    rows: range.len() as u32,
                    width: width as u32,
                    top_k: top_k as u32,
                    first: from.start as u32,
                    count: from.len() as u32,
                    factor,
                    dw_factor,
                    ..Default::default()
                };
                Launch::new(kernel)
                    .constant("WG", threads)
                    .params(&params)
                    .read("z", &z.slice(range.clone())?)
                    .read("weights", &weights.slice(from.clone())?)
                    .read("source", &source.slice(range.clone())?)
                    .read("dy", &dy.slice(from.clone())?)
                    .write("dz", &dz.slice(range.clone())?)
                    .write("dw", &dw.slice(from)?)
                    .workgroups(range.len() as u64)
                    .run(gpu)?;
            }
        }
        pair.finish(pass)
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (z, weights, slot) = (&inputs[0], &inputs[1], &inputs[2]);
        let d = z.cols();
        Array::from_fn(&[weights.rows(), d], |i| {
            let choices = weights.row(i / d).iter().zip(slot.row(i / d));
            choices.map(|(w, &row)| w * z.row(row as usize)[i % d]).sum()
        })
    }
}
