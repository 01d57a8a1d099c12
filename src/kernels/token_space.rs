//! The gradient split in token space (METHOD §4): activations and output gradients are projected before the
//! weight-gradient product, which then gives the unique parts by itself.
//!
//! ```text
//! X' = X - (X U) U^T      dY' = dY - (dY V) V^T      G_u,i = X'_i^T dY'_i
//! G_c = U A + B V^T       A = (X U)^T dY             B = (I - P_U) X^T (dY V) = X'^T (dY V)
//! ```
//!
//! A and B run over all routed rows of all experts at once. Rows past `offsets[E]` hold anything, NaN included; they
//! come out as zeros everywhere.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::grouped::Groups;
use crate::tensor::Tensor;

const THREADS: u32 = 64;

/// Zeroes the rows that are not in use.
pub static KEEP_ROWS: Kernel = Kernel::new("keep_rows", wgsl!["keep_rows.wgsl"]).params::<KeepParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    vec![(&KEEP_ROWS).into()]
}

crate::params! {
    struct KeepParams { count: u32, columns: u32, first_row: u32, last: u32 }
}

/// One layer's bases, and the sums that its backward passes of a step make.
#[derive(Clone, Debug)]
pub struct TokenSpace {
    /// *U*, `[m, k]`.
    pub u: Tensor,
    /// *V*, `[n, k]`.
    pub v: Tensor,
    /// `A = (X U)^T dY`, `[k, n]`.
    pub a: Tensor,
    /// `B = (I - P_U) X^T (dY V)`, `[m, k]`.
    pub b: Tensor,
}

impl TokenSpace {
    /// Records the projections of routed rows `x: [R, m]` and `dy: [R, n]`, and `a = A + beta a`, `b = B + beta b`; returns
    /// X' and dY', of the types of x and dy. `beta` is 0 (a and b may hold anything) or 1, as for the weight gradient that X' and dY' make.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
    pub fn project(&self, x: &Tensor, dy: &Tensor, groups: &Groups, beta: f32) -> Result<(Tensor, Tensor)> {
        if x.dims() != [groups.capacity, self.u.rows()] || dy.dims() != [groups.capacity, self.v.rows()] {
            let expected = format!("x [{}, {}], dy [.., {}]", groups.capacity, self.u.rows(), self.v.rows());
            return Err(Error::shape("token space", expected, format!("x {x:?}, dy {dy:?}")));
        }
        let (gpu, rows, k) = (x.gpu(), groups.capacity, self.u.cols());
        let (x, dy) = (keep_rows(x, groups)?, keep_rows(dy, groups)?);
        let xu = Tensor::empty_f32(gpu, [rows, k])?;
        let dyv = Tensor::empty_f32(gpu, [rows, k])?;
        gemm(Trans::N, Trans::N, 1.0, &x, &self.u, 0.0, &xu)?;
        gemm(Trans::N, Trans::N, 1.0, &dy, &self.v, 0.0, &dyv)?;
        gemm(Trans::T, Trans::N, 1.0, &xu, &dy, beta, &self.a)?;
        gemm(Trans::N, Trans::T, -1.0, &xu, &self.u, 1.0, &x)?;
        gemm(Trans::N, Trans::T, -1.0, &dyv, &self.v, 1.0, &dy)?;
        gemm(Trans::T, Trans::N, 1.0, &x, &dyv, beta, &self.b)?;
        Ok((x, dy))
    }
}

/// A copy of `x: [R, c]` whose rows from `offsets[E]` on are zero.
fn keep_rows(x: &Tensor, groups: &Groups) -> Result<Tensor> {
    let y = Tensor::empty(x.gpu(), x.shape(), x.dtype())?;
    for range in Parts::new("token space", x.rows()).sliced(x.gpu(), &[x.cols()]).ranges()? {
        let (x, y) = (x.slice(range.clone())?, y.slice(range.clone())?);
        let params = KeepParams {
            count: x.numel() as u32,
            columns: x.cols() as u32,
            first_row: range.start as u32,
            last: groups.experts as u32,
        };
        let launch = Launch::new(&KEEP_ROWS).constant("WG", THREADS).params(&params);
        launch
            .read("offsets", &groups.offsets)
            .read("x", &x)
            .write("y", &y)
            .threads(x.numel().div_ceil(4), THREADS)
            .run(x.gpu())?;
    }
    Ok(y)
}
