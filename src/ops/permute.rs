//! Tokens to rows grouped by expert, and their gradients back.

use std::ops::Range;

use crate::autograd::{Array, Backward, Forward, Op};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch};
use crate::kernels::Variant;
use crate::kernels::grouped::NONE;
use crate::kernels::rows::{LaneKernels, row_threads};
use crate::tensor::{DType, Tensor, row_chunks};

const VEC4: &[&str] = &[
    include_str!("../../shaders/lib/grid.wgsl"),
    include_str!("../../shaders/lib/lane_vec4.wgsl"),
    include_str!("../../shaders/permute.wgsl"),
];
const SCALAR: &[&str] = &[
    include_str!("../../shaders/lib/grid.wgsl"),
    include_str!("../../shaders/lib/lane_scalar.wgsl"),
    include_str!("../../shaders/permute.wgsl"),
];

/// Tokens to rows.
pub static PERMUTE: Kernel = Kernel { name: "permute", sources: VEC4, entry: "permute", constants: &[] };
/// Tokens to rows of any length.
pub static PERMUTE_SCALAR: Kernel =
    Kernel { name: "permute_scalar", sources: SCALAR, entry: "permute", constants: &[] };
/// Rows' gradients to tokens.
pub static PERMUTE_BACKWARD: Kernel =
    Kernel { name: "permute_backward", sources: VEC4, entry: "permute_backward", constants: &[] };
/// Rows' gradients of any length to tokens.
pub static PERMUTE_BACKWARD_SCALAR: Kernel =
    Kernel { name: "permute_backward_scalar", sources: SCALAR, entry: "permute_backward", constants: &[] };

const FORWARD: LaneKernels = LaneKernels { vec4: &PERMUTE, scalar: &PERMUTE_SCALAR };
const BACKWARD: LaneKernels = LaneKernels { vec4: &PERMUTE_BACKWARD, scalar: &PERMUTE_BACKWARD_SCALAR };

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 4] = [&PERMUTE, &PERMUTE_SCALAR, &PERMUTE_BACKWARD, &PERMUTE_BACKWARD_SCALAR];
    all.into_iter().map(Variant::from).collect()
}

crate::params! {
    struct PermuteParams {
        rows: u32,
        width: u32,
        top_k: u32,
        first: u32,
        count: u32,
        first_choice: u32,
        last_choice: u32,
        factor: f32,
    }
}

/// `y[r] = x[source[r] / K]`, zero where `source[r]` is [`NONE`].
/// Inputs: x `[T, d]`, source `u32 [R]`, slot `u32 [T, K]` (the inverse of source). Output: `[R, d]`.
#[derive(Clone, Copy, Debug)]
pub struct Permute;

/// The launches that sum rows over a token's choices: all choices at once where the rows fit one binding; else one choice
/// after the other, so that the order of the sum, and with it every bit, stays the same.
pub(super) fn choice_passes(chunks: usize, top_k: usize) -> Vec<Range<usize>> {
    if chunks == 1 { std::iter::once(0..top_k).collect() } else { (0..top_k).map(|j| j..j + 1).collect() }
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("permute", "x [T, d], u32 source [R], u32 slot [T, K]", format!("{inputs:?}"));
        let [x, source, slot] = inputs else { return Err(fail()) };
        let ([tokens, d], [rows], [slot_rows, top_k]) = (x.dims(), source.dims(), slot.dims()) else {
            return Err(fail());
        };
        let (tokens, d, rows, top_k) = (*tokens, *d, *rows, *top_k);
        if *slot_rows != tokens || source.dtype() != DType::U32 || slot.dtype() != DType::U32 {
            return Err(fail());
        }
        let gpu = x.gpu();
        let y = Tensor::empty_f32(gpu, [rows, d])?;
        if y.numel() == 0 || x.numel() == 0 {
            y.clear()?;
            return Ok(y.into());
        }
        let (kernel, width) = FORWARD.of(d);
        let threads = row_threads(gpu);
        for range in row_chunks(gpu, self.name(), rows, &[d, 1])? {
            for from in row_chunks(gpu, self.name(), tokens, &[d])? {
                let params = PermuteParams {
                    rows: range.len() as u32,
                    width: width as u32,
                    top_k: top_k as u32,
                    first: from.start as u32,
                    count: from.len() as u32,
                    ..Default::default()
                };
                Launch::new(kernel)
                    .constant("WG", threads)
                    .params(&params)
                    .read("x", &x.slice(from)?)
                    .read("source", &source.slice(range.clone())?)
                    .write("y", &y.slice(range.clone())?)
                    .workgroups(range.len() as u64)
                    .run(gpu)?;
            }
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if !pass.needs(0) {
            return Ok(());
        }
        let (slot, dy) = (pass.input(2), pass.dy());
        let (target, factor) = pass.target(0)?;
        let (gpu, d, top_k) = (dy.gpu(), target.cols(), slot.cols());
        if target.numel() == 0 {
            return Ok(());
        }
        let (kernel, width) = BACKWARD.of(d);
        let threads = row_threads(gpu);
        let chunks: Vec<_> = row_chunks(gpu, self.name(), dy.rows(), &[d])?.collect();
        for range in row_chunks(gpu, self.name(), target.rows(), &[d, top_k])? {
            let mut factor = factor;
            for choices in choice_passes(chunks.len(), top_k) {
                for from in &chunks {
                    let params = PermuteParams {
                        rows: range.len() as u32,
                        width: width as u32,
                        top_k: top_k as u32,
                        first: from.start as u32,
                        count: from.len() as u32,
                        first_choice: choices.start as u32,
                        last_choice: choices.end as u32,
                        factor,
                    };
                    Launch::new(kernel)
                        .constant("WG", threads)
                        .params(&params)
                        .read("dy", &dy.slice(from.clone())?)
                        .read("slot", &slot.slice(range.clone())?)
                        .write("dx", &target.slice(range.clone())?)
                        .workgroups(range.len() as u64)
                        .run(gpu)?;
                    factor = 1.0;
                }
            }
        }
        Ok(())
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, source, top_k) = (&inputs[0], &inputs[1], inputs[2].cols());
        let d = x.cols();
        Array::from_fn(&[source.data.len(), d], |i| {
            let pair = source.data[i / d];
            if pair == f64::from(NONE) { 0.0 } else { x.row(pair as usize / top_k)[i % d] }
        })
    }
}
