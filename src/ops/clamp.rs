//! Values held within limits: OLMoE's `clip_qkv`.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// `y = min(max(x, -limit), limit)`. Input: x of any shape. Output: of the same shape and type. The gradient passes where
/// x is within the limits, or at them, as `torch.clamp` has it.
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// Largest absolute value, at least 0.
    pub limit: f32,
}

/// The forward.
pub static CLAMP: PackKernels = forms!("clamp_symmetric", "clamp.wgsl", ClampParams, packs);
/// The gradient.
pub static CLAMP_BACKWARD: PackKernels = forms!("clamp_symmetric_backward", "clamp.wgsl", ClampParams, packs);

crate::params! {
    struct ClampParams {
        /// In packs.
        count: u32,
        limit: f32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    [&CLAMP, &CLAMP_BACKWARD].into_iter().flat_map(|k| variants(k)).collect()
}

impl Op for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("clamp", "x, and a limit of at least 0", format!("{inputs:?}, {}", self.limit));
        let ([x], true) = (inputs, self.limit >= 0.0) else { return Err(fail()) };
        let y = Tensor::empty(x.gpu(), x.shape(), x.dtype())?;
        let (flat_x, flat_y) = (x.reshape([x.numel()])?, y.reshape([x.numel()])?);
        for range in Parts::new("clamp", x.numel()).sliced(x.gpu(), &[1]).ranges()? {
            let pack = pack(range.len());
            pack_launch(&CLAMP, pack)
                .params(&ClampParams { count: (range.len() / pack) as u32, limit: self.limit, beta: 0.0 })
                .read("x", &flat_x.slice(range.clone())?)
                .write("y", &flat_y.slice(range.clone())?)
                .threads(range.len() / pack, THREADS)
                .run(x.gpu())?;
        }
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (x, dy) = (pass.input(0), pass.dy());
        let (dx, beta) = pass.target(0)?;
        let count = [x.numel()];
        let (x, dy, dx) = (x.reshape(count)?, dy.reshape(count)?, dx.reshape(count)?);
        for range in Parts::new("clamp", x.numel()).sliced(x.gpu(), &[1]).ranges()? {
            let pack = pack(range.len());
            pack_launch(&CLAMP_BACKWARD, pack)
                .params(&ClampParams { count: (range.len() / pack) as u32, limit: self.limit, beta })
                .read("x", &x.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dx", &dx.slice(range.clone())?)
                .threads(range.len() / pack, THREADS)
                .run(x.gpu())?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let limit = f64::from(self.limit);
        inputs[0].map(|x| x.clamp(-limit, limit))
    }
}
