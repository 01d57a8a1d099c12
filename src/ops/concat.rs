//! Tensors behind each other along the last dimension.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::columns::copy_columns;
use crate::tensor::Tensor;

/// The rows of all inputs behind each other. Inputs: one or more `x_i: [.., n_i]`, alike but for n_i. Output:
/// `[.., sum of n_i]`, of their type.
#[derive(Clone, Copy, Debug)]
pub struct Concat;

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("concat", "one or more [.., n], alike but for n", format!("{inputs:?}"));
        let Some((first, others)) = inputs.split_first() else { return Err(fail()) };
        let Some((_, outer)) = first.dims().split_last() else { return Err(fail()) };
        let like_first =
            |x: &&&Tensor| x.dims().split_last().is_some_and(|(_, dims)| dims == outer) && x.dtype() == first.dtype();
        if !others.iter().all(|x| like_first(&x)) {
            return Err(fail());
        }
        let mut shape = outer.to_vec();
        shape.push(inputs.iter().map(|x| x.cols()).sum());
        let y = Tensor::empty(first.gpu(), &shape, first.dtype())?;
        let mut to = 0;
        for x in inputs {
            copy_columns("concat", x, 0..x.cols(), 0.0, &y, to)?;
            to += x.cols();
        }
        Ok(y.into())
    }

    // Each input's gradient is its range of dy.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (dy, mut from) = (pass.dy(), 0);
        for i in 0..pass.inputs() {
            let width = pass.shape(i).dims().last().copied().unwrap_or(1);
            if pass.needs(i) {
                let (dx, beta) = pass.target(i)?;
                copy_columns("concat", &dy, from..from + width, beta, &dx, 0)?;
            }
            from += width;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let mut shape = inputs[0].shape.clone();
        *shape.last_mut().expect("a dimension") = inputs.iter().map(Array::cols).sum();
        let rows = (0..inputs[0].rows()).flat_map(|i| inputs.iter().flat_map(move |x| x.row(i).to_vec()));
        Array::new(&shape, rows.collect())
    }
}
