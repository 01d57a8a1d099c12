//! `y = x w` and `y = x w^T`: the product of a model's linear layers.
//!
//! ```text
//! x: [.., K]   w: [K, N], or [N, K] with trans_b   y: [.., N]
//! ```

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::gemm::{Trans, gemm};
use crate::tensor::{DType, Tensor};

/// `y = x op(w)`. Inputs: `x: [.., K]`, `w: [K, N]`, or `[N, K]` with `trans_b`. Output: `[.., N]`, f16 where both
/// inputs are.
#[derive(Clone, Copy, Debug)]
pub struct MatMul {
    /// Whether `w` is stored `[N, K]`, as an embedding that serves as the output head is.
    pub trans_b: bool,
}

impl MatMul {
    fn trans(self) -> Trans {
        if self.trans_b { Trans::T } else { Trans::N }
    }
}

/// The type of a product: f16 where both factors are, f32 where one is.
pub(super) fn wider(x: &Tensor, w: &Tensor) -> DType {
    if x.dtype() == w.dtype() { x.dtype() } else { DType::F32 }
}

/// A tensor `[.., n]` as a matrix.
fn rows(x: &Tensor) -> Result<Tensor> {
    let columns = x.dims().last().copied().unwrap_or(1);
    x.reshape([x.numel() / columns.max(1), columns])
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let ([x, w], true) = (inputs, inputs.iter().all(|x| x.dims().len() >= 2)) else {
            return Err(Error::shape("matmul", "x [.., K] and w [K, N]", format!("{inputs:?}")));
        };
        let &[w_rows, w_columns] = w.dims() else {
            return Err(Error::shape("matmul", "w [K, N]", format!("{w:?}")));
        };
        let (k, n) = if self.trans_b { (w_columns, w_rows) } else { (w_rows, w_columns) };
        let mut shape = x.dims().to_vec();
        if shape.pop() != Some(k) {
            return Err(Error::shape("matmul", format!("x [.., {k}] for w {w:?}"), format!("{x:?}")));
        }
        shape.push(n);
        let y = Tensor::empty(x.gpu(), &shape, wider(x, w))?;
        gemm(Trans::N, self.trans(), 1.0, &rows(x)?, w, 0.0, &rows(&y)?)?;
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (x, w, dy) = (rows(&pass.input(0))?, pass.input(1), rows(&pass.dy())?);
        if pass.needs(0) {
            // dx = dy op(w)^T
            let (dx, beta) = pass.target(0)?;
            gemm(Trans::N, self.trans().flip(), 1.0, &dy, &w, beta, &rows(&dx)?)?;
        }
        if pass.needs(1) {
            // dw = x^T dy, or its transpose dy^T x
            let (dw, beta) = pass.target(1)?;
            let (left, right) = if self.trans_b { (&dy, &x) } else { (&x, &dy) };
            gemm(Trans::T, Trans::N, 1.0, left, right, beta, &dw)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let [x, w] = inputs else { panic!("matmul takes x and w, got {} inputs", inputs.len()) };
        let flat = Array::new(&[x.rows(), x.cols()], x.data.clone());
        let y = flat.matmul(&if self.trans_b { w.transpose() } else { w.clone() });
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("a matrix") = y.cols();
        Array::new(&shape, y.data)
    }
}
