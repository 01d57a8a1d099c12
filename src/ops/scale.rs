//! A value times a number.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::elementwise::axpby;
use crate::tensor::Tensor;

/// `y = factor x`. Input: x of any shape. Output: of the same shape and type.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The number, which is not differentiated.
    pub factor: f32,
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x] = inputs else { return Err(Error::shape("scale", "1 input", format!("{}", inputs.len()))) };
        let y = Tensor::empty(x.gpu(), x.shape(), x.dtype())?;
        axpby(self.factor, x, 0.0, &y)?;
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dy = pass.dy();
        let (dx, beta) = pass.target(0)?;
        axpby(self.factor, &dy, beta, &dx)
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        inputs[0].map(|x| f64::from(self.factor) * x)
    }
}
