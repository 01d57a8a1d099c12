//! Rows grouped by expert back to tokens: the weighted sum over each token's experts.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{GroupKernels, forms, group_launch, pack, variants};
use crate::ops::gather::{RowParams, gather};
use crate::ops::targets::TargetPair;
use crate::tensor::{DType, Tensor};

/// Rows to tokens.
pub static COMBINE: GroupKernels = forms!("combine", "combine.wgsl", RowParams, groups);
/// Gradients of rows and weights.
pub static COMBINE_BACKWARD: GroupKernels = forms!("combine_backward", "combine.wgsl", RowParams, groups);

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    [&COMBINE, &COMBINE_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
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
        let (&[rows, d], &[tokens, _]) = (z.dims(), weights.dims()) else { return Err(fail()) };
        let indices = slot.dtype() == DType::U32 && source.dtype() == DType::U32;
        if slot.dims() != weights.dims() || source.dims() != [rows] || !indices {
            return Err(fail());
        }
        let gpu = z.gpu();
        let y = Tensor::empty(gpu, [tokens, d], z.dtype())?;
        if y.numel() == 0 || z.numel() == 0 || weights.numel() == 0 {
            y.clear()?;
            return Ok(y.into());
        }
        gather(&COMBINE, self.name(), z, Some(weights), slot, 0.0, &y)?;
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
        for range in Parts::new(self.name(), rows).sliced(gpu, &[d, 1]).ranges()? {
            for from in Parts::new(self.name(), tokens).sliced(gpu, &[d, top_k]).ranges()? {
                let params = RowParams { factor, dw_factor, ..RowParams::new(&range, d, top_k, &from) };
                group_launch(&COMBINE_BACKWARD, gpu, range.len(), pack(d), d / pack(d))
                    .params(&params)
                    .read("z", &z.slice(range.clone())?)
                    .read("weights", &weights.slice(from.clone())?)
                    .read("source", &source.slice(range.clone())?)
                    .read("dy", &dy.slice(from.clone())?)
                    .write("dz", &dz.slice(range.clone())?)
                    .write("dw", &dw.slice(from)?)
                    .run(gpu)?;
            }
        }
        pair.finish(pass)
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1, 3])
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
