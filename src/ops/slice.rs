//! A range of the last dimension.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::columns::copy_columns;
use crate::tensor::Tensor;

/// `y[.., c] = x[.., start + c]`. Input: `x: [.., n]`. Output: `[.., width]`, of x's type.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// First of the elements that are taken.
    pub start: usize,
    /// Their number, at least 1.
    pub width: usize,
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let Slice { start, width } = *self;
        let [x] = inputs else { return Err(Error::shape("slice", "1 input", format!("{}", inputs.len()))) };
        let end = start.saturating_add(width);
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if width > 0 && end <= *last => *last = width,
            _ => return Err(Error::shape("slice", format!("x [.., {end} or more], width >= 1"), format!("{x:?}"))),
        }
        let y = Tensor::empty(x.gpu(), &shape, x.dtype())?;
        copy_columns("slice", x, start..end, 0.0, &y, 0)?;
        Ok(y.into())
    }

    // dx is dy in the range and 0 elsewhere.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dy = pass.dy();
        let (dx, beta) = pass.target(0)?;
        if beta == 0.0 {
            dx.clear()?;
        }
        copy_columns("slice", &dy, 0..self.width, beta, &dx, self.start)
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (x, mut shape) = (&inputs[0], inputs[0].shape.clone());
        *shape.last_mut().expect("a dimension") = self.width;
        Array::from_fn(&shape, |i| x.row(i / self.width)[self.start + i % self.width])
    }
}
