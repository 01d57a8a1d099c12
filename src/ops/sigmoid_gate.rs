//! The gate of Qwen's shared expert.

use crate::autograd::{Array, Backward, Forward, Op};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::rows::{LaneKernels, row_threads};
use crate::ops::targets::TargetPair;
use crate::tensor::{Tensor, row_chunks};

const GRID: &str = include_str!("../../shaders/lib/grid.wgsl");
const LANE_VEC4: &str = include_str!("../../shaders/lib/lane_vec4.wgsl");
const LANE_SCALAR: &str = include_str!("../../shaders/lib/lane_scalar.wgsl");
const SUM_SUBGROUP: &str = include_str!("../../shaders/lib/row_sum_subgroup.wgsl");
const SUM_WORKGROUP: &str = include_str!("../../shaders/lib/row_sum_workgroup.wgsl");
const OWN: &str = include_str!("../../shaders/sigmoid_gate.wgsl");

const VEC4: &[&str] = &[GRID, LANE_VEC4, SUM_WORKGROUP, OWN];
const SCALAR: &[&str] = &[GRID, LANE_SCALAR, SUM_WORKGROUP, OWN];

/// The gated rows.
pub static SIGMOID_GATE: Kernel = Kernel { name: "sigmoid_gate", sources: VEC4, entry: "sigmoid_gate", constants: &[] };
/// The gated rows of any length.
pub static SIGMOID_GATE_SCALAR: Kernel =
    Kernel { name: "sigmoid_gate_scalar", sources: SCALAR, entry: "sigmoid_gate", constants: &[] };
/// Both gradients.
pub static SIGMOID_GATE_BACKWARD: Kernel =
    Kernel { name: "sigmoid_gate_backward", sources: VEC4, entry: "sigmoid_gate_backward", constants: &[] };
/// Both gradients, for rows of any length.
pub static SIGMOID_GATE_BACKWARD_SCALAR: Kernel =
    Kernel { name: "sigmoid_gate_backward_scalar", sources: SCALAR, entry: "sigmoid_gate_backward", constants: &[] };
/// [`SIGMOID_GATE_BACKWARD`] with sums over one subgroup.
pub static SIGMOID_GATE_BACKWARD_SUBGROUP: Kernel = Kernel {
    name: "sigmoid_gate_backward_subgroup",
    sources: &[GRID, LANE_VEC4, SUM_SUBGROUP, OWN],
    entry: "sigmoid_gate_backward",
    constants: &[],
};
/// [`SIGMOID_GATE_BACKWARD_SCALAR`] with sums over one subgroup.
pub static SIGMOID_GATE_BACKWARD_SCALAR_SUBGROUP: Kernel = Kernel {
    name: "sigmoid_gate_backward_scalar_subgroup",
    sources: &[GRID, LANE_SCALAR, SUM_SUBGROUP, OWN],
    entry: "sigmoid_gate_backward",
    constants: &[],
};

const FORWARD: LaneKernels = LaneKernels { vec4: &SIGMOID_GATE, scalar: &SIGMOID_GATE_SCALAR };

fn backward_kernels(gpu: &Gpu) -> LaneKernels {
    if gpu.tier() == Tier::Subgroup {
        LaneKernels { vec4: &SIGMOID_GATE_BACKWARD_SUBGROUP, scalar: &SIGMOID_GATE_BACKWARD_SCALAR_SUBGROUP }
    } else {
        LaneKernels { vec4: &SIGMOID_GATE_BACKWARD, scalar: &SIGMOID_GATE_BACKWARD_SCALAR }
    }
}

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 6] = [
        &SIGMOID_GATE,
        &SIGMOID_GATE_SCALAR,
        &SIGMOID_GATE_BACKWARD,
        &SIGMOID_GATE_BACKWARD_SCALAR,
        &SIGMOID_GATE_BACKWARD_SUBGROUP,
        &SIGMOID_GATE_BACKWARD_SCALAR_SUBGROUP,
    ];
    all.into_iter().map(Variant::from).collect()
}

crate::params! {
    struct SigmoidGateParams { rows: u32, width: u32, dx_factor: f32, dlogit_factor: f32 }
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
        let y = Tensor::empty_f32(gpu, [tokens, d])?;
        if y.numel() == 0 {
            return Ok(y.into());
        }
        let (kernel, width) = FORWARD.of(d);
        let threads = row_threads(gpu);
        for range in row_chunks(gpu, self.name(), tokens, &[d, 1])? {
            let params =
                SigmoidGateParams { rows: range.len() as u32, width: width as u32, dx_factor: 0.0, dlogit_factor: 0.0 };
            Launch::new(kernel)
                .constant("WG", threads)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .read("logit", &logit.slice(range.clone())?)
                .write("y", &y.slice(range.clone())?)
                .workgroups(range.len() as u64)
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
        let (kernel, width) = backward_kernels(gpu).of(d);
        let threads = row_threads(gpu);
        for range in row_chunks(gpu, self.name(), x.rows(), &[d, 1])? {
            let params = SigmoidGateParams { rows: range.len() as u32, width: width as u32, dx_factor, dlogit_factor };
            Launch::new(kernel)
                .constant("WG", threads)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .read("logit", &logit.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dx", &dx.slice(range.clone())?)
                .write("dlogit", &dlogit.slice(range.clone())?)
                .workgroups(range.len() as u64)
                .run(gpu)?;
        }
        pair.finish(pass)
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, logit) = (&inputs[0], &inputs[1]);
        Array::from_fn(&x.shape, |i| x.data[i] / (1.0 + (-logit.data[i / x.cols()]).exp()))
    }
}
