//! Gives a tensor another shape, its elements in their order.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};

/// The elements of the input, in order, in another shape. Input: x with as many elements as the shape. Output: of that
/// shape and x's type.
///
/// It copies nothing: both values share a buffer, which is free again once neither is held. No op writes to its inputs,
/// and backward writes to a shared gradient only where nothing else holds it.
#[derive(Clone, Copy, Debug)]
pub struct Reshape {
    /// The output's.
    pub shape: Shape,
}

impl Reshape {
    /// To the shape `shape`.
    pub fn to(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into() }
    }
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x] = inputs else { return Err(Error::shape("reshape", "1 input", format!("{}", inputs.len()))) };
        Ok(x.reshape(self.shape)?.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        // `add` gives it the input's shape.
        let dy = pass.take_dy();
        pass.add(0, dy)
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        Array::new(self.shape.dims(), inputs[0].data.clone())
    }
}
