//! The product of two values, element by element.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// `y = a b`, element by element. Inputs: a and b of one shape and type. Output: likewise.
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

/// Forward, and each gradient.
pub static MULTIPLY: PackKernels = forms!("multiply", "multiply.wgsl", MultiplyParams, packs);

crate::params! {
    struct MultiplyParams {
        /// In packs.
        count: u32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    variants(&MULTIPLY)
}

/// Records `y = a b + beta y`.
fn multiply(a: &Tensor, b: &Tensor, beta: f32, y: &Tensor) -> Result<()> {
    let count = [y.numel()];
    let (a, b, y) = (a.reshape(count)?, b.reshape(count)?, y.reshape(count)?);
    for range in Parts::new("multiply", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(range.len());
        pack_launch(&MULTIPLY, pack)
            .params(&MultiplyParams { count: (range.len() / pack) as u32, beta })
            .read("a", &a.slice(range.clone())?)
            .read("b", &b.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [a, b] = inputs else { return Err(Error::shape("multiply", "2 inputs", format!("{}", inputs.len()))) };
        if a.shape() != b.shape() || a.dtype() != b.dtype() {
            return Err(Error::shape("multiply", format!("{a:?}"), format!("{b:?}")));
        }
        let y = Tensor::empty(a.gpu(), a.shape(), a.dtype())?;
        multiply(a, b, 0.0, &y)?;
        Ok(y.into())
    }

    // da = dy b, db = dy a
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dy = pass.dy();
        for i in [0, 1] {
            if pass.needs(i) {
                let other = pass.input(1 - i);
                let (target, beta) = pass.target(i)?;
                multiply(&dy, &other, beta, &target)?;
            }
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].zip(&inputs[1], |a, b| a * b)
    }
}
