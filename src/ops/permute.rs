//! Tokens to rows grouped by expert, and their gradients back.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::grouped::NONE;
use crate::kernels::rows::{GroupKernels, forms, group_launch, pack, variants};
use crate::ops::gather::{RowParams, gather};
use crate::tensor::{DType, Tensor};

/// Tokens to rows.
pub static PERMUTE: GroupKernels = forms!("permute", "permute.wgsl", RowParams, groups);
/// Rows' gradients to tokens.
pub static PERMUTE_BACKWARD: GroupKernels = forms!("permute_backward", "permute.wgsl", RowParams, groups);

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    [&PERMUTE, &PERMUTE_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
}

/// `y[r] = x[source[r] / K]`, zero where `source[r]` is [`NONE`].
/// Inputs: x `[T, d]`, source `u32 [R]`, slot `u32 [T, K]` (the inverse of source). Output: `[R, d]`.
#[derive(Clone, Copy, Debug)]
pub struct Permute;

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
        let y = Tensor::empty(gpu, [rows, d], x.dtype())?;
        if y.numel() == 0 || x.numel() == 0 {
            y.clear()?;
            return Ok(y.into());
        }
        for range in Parts::new(self.name(), rows).sliced(gpu, &[d, 1]).ranges()? {
            for from in Parts::new(self.name(), tokens).sliced(gpu, &[d]).ranges()? {
                let params = RowParams::new(&range, d, top_k, &from);
                group_launch(&PERMUTE, gpu, range.len(), pack(d), d / pack(d))
                    .params(&params)
                    .read("x", &x.slice(from)?)
                    .read("source", &source.slice(range.clone())?)
                    .write("y", &y.slice(range.clone())?)
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
        if target.numel() == 0 {
            return Ok(());
        }
        gather(&PERMUTE_BACKWARD, self.name(), &dy, None, &slot, factor, &target)
    }

    fn reads(&self) -> Reads {
        Reads::inputs([2])
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
