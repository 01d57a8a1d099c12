//! The gate of Qwen's shared expert.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{GroupKernels, forms, group_launch, pack, variants};
use crate::ops::targets::TargetPair;
use crate::tensor::Tensor;

/// The gated rows.
pub static SIGMOID_GATE: GroupKernels = forms!("sigmoid_gate", "sigmoid_gate.wgsl", SigmoidGateParams, groups);
/// Both gradients.
pub static SIGMOID_GATE_BACKWARD: GroupKernels =
    forms!("sigmoid_gate_backward", "sigmoid_gate.wgsl", SigmoidGateParams, groups);

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    [&SIGMOID_GATE, &SIGMOID_GATE_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
}

crate::params! {
    struct SigmoidGateParams {
        rows: u32,
        /// Packs of a row.
        width: u32,
        dx_factor: f32,
        dlogit_factor: f32,
    }
}

/// `y[t] = sigmoid(l[t]) x[t]`. Inputs: x `[T, d]`, logit `[T, 1]`. Output: `[T, d]`.
#[derive(Clone, Copy, Debug)]
pub struct SigmoidGate;

impl Op for SigmoidGate {
    fn name(&self) -> &'static str {
        "sigmoid_gate"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("sigmoid_gate", "x [T, d], logit [T, 1]", format!("{inputs:?}"));
        let [x, logit] = inputs else { return Err(fail()) };
        let [tokens, d] = *x.dims() else { return Err(fail()) };
        if logit.dims() != [tokens, 1] {
            return Err(fail());
        }
        let gpu = x.gpu();
        let y = Tensor::empty(gpu, [tokens, d], x.dtype())?;
        if y.numel() == 0 {
            return Ok(y.into());
        }
        let width = d / pack(d);
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[d, 1]).ranges()? {
            let params =
                SigmoidGateParams { rows: range.len() as u32, width: width as u32, dx_factor: 0.0, dlogit_factor: 0.0 };
            group_launch(&SIGMOID_GATE, gpu, range.len(), pack(d), width)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .read("logit", &logit.slice(range.clone())?)
                .write("y", &y.slice(range.clone())?)
                .run(gpu)?;
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (x, logit, dy) = (pass.input(0), pass.input(1), pass.dy());
        let pair = TargetPair::new(pass, 0, 1)?;
        let ((dx, dx_factor), (dlogit, dlogit_factor)) = (pair.first.clone(), pair.second.clone());
        let (gpu, d) = (x.gpu(), x.cols());
        if x.numel() == 0 {
            return Ok(());
        }
        let width = d / pack(d);
        for range in Parts::new(self.name(), x.rows()).sliced(gpu, &[d, 1]).ranges()? {
            let params = SigmoidGateParams { rows: range.len() as u32, width: width as u32, dx_factor, dlogit_factor };
            group_launch(&SIGMOID_GATE_BACKWARD, gpu, range.len(), pack(d), width)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .read("logit", &logit.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dx", &dx.slice(range.clone())?)
                .write("dlogit", &dlogit.slice(range.clone())?)
                .run(gpu)?;
        }
        pair.finish(pass)
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, logit) = (&inputs[0], &inputs[1]);
        Array::from_fn(&x.shape, |i| x.data[i] / (1.0 + (-logit.data[i / x.cols()]).exp()))
    }
}
