//! The sum of two values: the residual connection.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// `y = a + b`, of one shape and type.
#[derive(Clone, Copy, Debug)]
pub struct Add;

/// The forward.
pub static ADD: PackKernels = forms!("add", "add.wgsl", AddParams, packs);

crate::params! {
    struct AddParams {
        /// In packs.
        count: u32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    variants(&ADD)
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [a, b] = inputs else { return Err(Error::shape("add", "2 inputs", format!("{}", inputs.len()))) };
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            return Err(Error::shape("add", format!("{a:?}"), format!("{b:?}")));
        }
        let y = Tensor::empty(a.gpu(), a.shape(), a.dtype())?;
        let count = [a.numel()];
        let (flat_a, flat_b, flat_y) = (a.reshape(count)?, b.reshape(count)?, y.reshape(count)?);
        for range in Parts::new("add", a.numel()).sliced(a.gpu(), &[1]).ranges()? {
            let pack = pack(range.len());
            pack_launch(&ADD, pack)
                .params(&AddParams { count: (range.len() / pack) as u32 })
                .read("a", &flat_a.slice(range.clone())?)
                .read("b", &flat_b.slice(range.clone())?)
                .write("y", &flat_y.slice(range.clone())?)
                .threads(range.len() / pack, THREADS)
                .run(a.gpu())?;
        }
        Ok(y.into())
    }

    // da = dy, db = dy: shared, not copied.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dy = pass.take_dy();
        if pass.needs(0) && pass.needs(1) {
            pass.add(0, dy.clone())?;
            pass.add(1, dy)
        } else {
            pass.add(usize::from(!pass.needs(0)), dy)
        }
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].zip(&inputs[1], |a, b| a + b)
    }
}
