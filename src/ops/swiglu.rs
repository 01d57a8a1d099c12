//! The SwiGLU activation of an expert.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::ops::targets::TargetPair;
use crate::tensor::Tensor;

/// The activation.
pub static SWIGLU: PackKernels = forms!("swiglu", "swiglu.wgsl", SwiGluParams, packs);
/// Both gradients.
pub static SWIGLU_BACKWARD: PackKernels = forms!("swiglu_backward", "swiglu.wgsl", SwiGluParams, packs);

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    [&SWIGLU, &SWIGLU_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
}

crate::params! {
    struct SwiGluParams {
        /// In packs.
        count: u32,
        gate_factor: f32,
        up_factor: f32,
    }
}

/// `y = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`. Inputs: gate and up of one shape. Output: that shape.
/// Each element depends on its own two inputs only: what unused rows of grouped tensors hold does not matter.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu;

impl Op for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("swiglu", "gate and up of one shape", format!("{inputs:?}"));
        let [gate, up] = inputs else { return Err(fail()) };
        if gate.dims() != up.dims() {
            return Err(fail());
        }
        let gpu = gate.gpu();
        let output = Tensor::empty(gpu, gate.shape(), gate.dtype())?;
        if output.numel() == 0 {
            return Ok(output.into());
        }
        let pack = pack(output.numel());
        let shape = [output.numel() / pack, pack];
        let (gate, up, y) = (gate.reshape(shape)?, up.reshape(shape)?, output.reshape(shape)?);
        for range in Parts::new(self.name(), shape[0]).sliced(gpu, &[pack]).ranges()? {
            pack_launch(&SWIGLU, pack)
                .params(&SwiGluParams { count: range.len() as u32, gate_factor: 0.0, up_factor: 0.0 })
                .read("gate", &gate.slice(range.clone())?)
                .read("up", &up.slice(range.clone())?)
                .write("y", &y.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(output.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let pair = TargetPair::new(pass, 0, 1)?;
        let ((dgate, gate_factor), (dup, up_factor)) = (pair.first.clone(), pair.second.clone());
        if dgate.numel() == 0 {
            return Ok(());
        }
        let pack = pack(dgate.numel());
        let shape = [dgate.numel() / pack, pack];
        let (gate, up, dy) = (pass.input(0).reshape(shape)?, pass.input(1).reshape(shape)?, pass.dy().reshape(shape)?);
        let (dgate, dup) = (dgate.reshape(shape)?, dup.reshape(shape)?);
        for range in Parts::new(self.name(), shape[0]).sliced(gate.gpu(), &[pack]).ranges()? {
            pack_launch(&SWIGLU_BACKWARD, pack)
                .params(&SwiGluParams { count: range.len() as u32, gate_factor, up_factor })
                .read("gate", &gate.slice(range.clone())?)
                .read("up", &up.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dgate", &dgate.slice(range.clone())?)
                .write("dup", &dup.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gate.gpu())?;
        }
        pair.finish(pass)
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].zip(&inputs[1], |gate, up| gate / (1.0 + (-gate).exp()) * up)
    }
}
