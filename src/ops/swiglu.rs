//! The SwiGLU activation of an expert.

use crate::autograd::{Array, Backward, Forward, Op};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch};
use crate::kernels::Variant;
use crate::kernels::rows::LaneKernels;
use crate::ops::targets::TargetPair;
use crate::tensor::{Tensor, row_chunks};

const VEC4: &[&str] = &[
    include_str!("../../shaders/lib/grid.wgsl"),
    include_str!("../../shaders/lib/lane_vec4.wgsl"),
    include_str!("../../shaders/swiglu.wgsl"),
];
const SCALAR: &[&str] = &[
    include_str!("../../shaders/lib/grid.wgsl"),
    include_str!("../../shaders/lib/lane_scalar.wgsl"),
    include_str!("../../shaders/swiglu.wgsl"),
];
/// Threads of a workgroup.
const THREADS: u32 = 64;

/// The activation.
pub static SWIGLU: Kernel = Kernel { name: "swiglu", sources: VEC4, entry: "swiglu", constants: &[] };
/// The activation of tensors of any length.
pub static SWIGLU_SCALAR: Kernel = Kernel { name: "swiglu_scalar", sources: SCALAR, entry: "swiglu", constants: &[] };
/// Both gradients.
pub static SWIGLU_BACKWARD: Kernel =
    Kernel { name: "swiglu_backward", sources: VEC4, entry: "swiglu_backward", constants: &[] };
/// Both gradients of tensors of any length.
pub static SWIGLU_BACKWARD_SCALAR: Kernel =
    Kernel { name: "swiglu_backward_scalar", sources: SCALAR, entry: "swiglu_backward", constants: &[] };

const FORWARD: LaneKernels = LaneKernels { vec4: &SWIGLU, scalar: &SWIGLU_SCALAR };
const BACKWARD: LaneKernels = LaneKernels { vec4: &SWIGLU_BACKWARD, scalar: &SWIGLU_BACKWARD_SCALAR };

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 4] = [&SWIGLU, &SWIGLU_SCALAR, &SWIGLU_BACKWARD, &SWIGLU_BACKWARD_SCALAR];
    all.into_iter().map(Variant::from).collect()
}

crate::params! {
    struct SwiGluParams { count: u32, gate_factor: f32, up_factor: f32 }
}

/// `y = silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`. Inputs: gate and up of one shape. Output: that shape.
/// Each element depends on its own two inputs only: what unused rows of grouped tensors hold does not matter.
#[derive(Clone, Copy, Debug)]
pub struct SwiGlu;

/// The kernel for tensors of `numel` numbers, and the shape `[lanes, numbers of a lane]` to slice them by.
fn lanes(kernels: LaneKernels, numel: usize) -> (&'static Kernel, [usize; 2]) {
    let (kernel, count) = kernels.of(numel);
    (kernel, [count, numel / count.max(1)])
}

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
        let output = Tensor::empty_f32(gpu, gate.shape())?;
        if output.numel() == 0 {
            return Ok(output.into());
        }
        let (kernel, shape) = lanes(FORWARD, output.numel());
        let (gate, up, y) = (gate.reshape(shape)?, up.reshape(shape)?, output.reshape(shape)?);
        for range in row_chunks(gpu, self.name(), shape[0], &[shape[1]])? {
            Launch::new(kernel)
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
        let (kernel, shape) = lanes(BACKWARD, dgate.numel());
        let (gate, up, dy) = (pass.input(0).reshape(shape)?, pass.input(1).reshape(shape)?, pass.dy().reshape(shape)?);
        let (dgate, dup) = (dgate.reshape(shape)?, dup.reshape(shape)?);
        for range in row_chunks(gate.gpu(), self.name(), shape[0], &[shape[1]])? {
            Launch::new(kernel)
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

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].zip(&inputs[1], |gate, up| gate / (1.0 + (-gate).exp()) * up)
    }
}
