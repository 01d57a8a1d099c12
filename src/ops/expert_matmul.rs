//! The product of each routed row with its expert's matrix.
//!
//! ```text
//! y_r = x_r w[expert of r]      x: [R, m]   w: [E, m, n]   y: [R, n]
//! ```
//!
//! Rows are grouped by expert as [`Groups`] describes; padding rows of x must be zero, as those of the gradient of y, and so are those
//! of y and of the gradient of x: where few rows are routed they are not read. Rows of tiles without expert are never read and hold anything.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::gemm::Trans;
use crate::kernels::grouped::{Groups, NONE, grouped_gemm, grouped_gemm_onto, grouped_weight_gradient};
use crate::ops::matmul::wider;
use crate::tensor::Tensor;

/// `y_r = x_r w[expert of r]`. Inputs: `x: [R, m]` and `w: [E, m, n]`. Output: `[R, n]`, f16 where both inputs
/// are.
#[derive(Clone, Debug)]
pub struct ExpertMatMul {
    /// Which rows belong to which expert.
    pub groups: Groups,
    /// A copy of `groups.tile_expert` on the host. Only the reference reads it; a model leaves it empty, as there the
    /// routing is known to the device alone.
    pub host_tile_expert: Vec<u32>,
}

impl ExpertMatMul {
    /// The op of a model.
    pub fn new(groups: Groups) -> Self {
        ExpertMatMul { groups, host_tile_expert: Vec::new() }
    }
}

impl Op for ExpertMatMul {
    fn name(&self) -> &'static str {
        "expert_matmul"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x, w] = inputs else {
            return Err(Error::shape("expert_matmul", "x [R, m] and w [E, m, n]", format!("{inputs:?}")));
        };
        let n = w.dims().last().copied().unwrap_or(1);
        let y = Tensor::empty(x.gpu(), [self.groups.capacity, n], wider(x, w))?;
        grouped_gemm(x, w, Trans::N, &self.groups, &y)?;
        Ok(y.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (x, w, dy) = (pass.input(0), pass.input(1), pass.dy());
        if pass.needs(0) {
            // dx_r = dy_r w[expert of r]^T
            let (dx, beta) = pass.target(0)?;
            grouped_gemm_onto(&dy, &w, Trans::T, &self.groups, beta, &dx)?;
        }
        if pass.needs(1) {
            // dw[e] = sum over its rows of x_r^T dy_r
            let hook = pass.hook(1);
            let (dw, beta) = pass.target(1)?;
            match hook {
                None => grouped_weight_gradient(&x, &dy, &self.groups, beta, &dw)?,
                Some(hook) => {
                    let (x, dy) = hook.factors(&x, &dy, &self.groups, beta)?;
                    grouped_weight_gradient(&x, &dy, &self.groups, beta, &dw)?;
                }
            }
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let [x, w] = inputs else { panic!("expert_matmul takes x and w, got {} inputs", inputs.len()) };
        let mut y = Array::zeros(&[x.rows(), w.cols()]);
        for row in 0..x.rows() {
            let expert = self.host_tile_expert[row / self.groups.tile_rows];
            if expert == NONE {
                continue;
            }
            let product = Array::new(&[1, x.cols()], x.row(row).to_vec()).matmul(&w.matrix(expert as usize));
            y.row_mut(row).copy_from_slice(&product.data);
        }
        y
    }
}
