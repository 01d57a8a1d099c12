//! SVD of small matrices, batched: `X = U diag(S) V^T` with `X: [m, n]`, `min(m, n) <= 64`; the other side is reduced
//! by a QR where it is larger.
//!
//! One-sided Jacobi (Hestenes 1958): rotations make the columns of the taller of X and X^T orthogonal. Singular values
//! are right to about 1e-6 of the largest. U's columns for zero singular values are completed by a QR, which leaves the
//! others as they are, so U and V are orthonormal for every input.
//!
//! Must not be used for matrices with both sides large: [`super::svd`] reduces those first.

use super::{MAX_COLUMNS, qr, stack};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Parts, rows_in_window, wgsl};
use crate::kernels::gemm::{Trans, gemm};
use crate::tensor::Tensor;

/// One-sided Jacobi, one workgroup a matrix.
pub static JACOBI_SVD: Kernel = Kernel::new("jacobi_svd", wgsl!["jacobi_svd.wgsl"]);

/// The identity, to transpose by a product.
pub static IDENTITY: Kernel = Kernel::new("identity", wgsl!["identity.wgsl"]).params::<IdentityParams>();

crate::params! {
    struct IdentityParams { size: u32 }
}

/// Singular values, all of them, and the leading singular vectors; all NaN for a matrix that has an element that is not
/// finite.
#[derive(Clone, Debug)]
pub struct SmallSvd {
    /// `[B, m, keep]`, orthonormal columns.
    pub u: Tensor,
    /// `[B, min(m, n)]`, falling.
    pub s: Tensor,
    /// `[B, n, keep]`, orthonormal columns.
    pub v: Tensor,
}

impl SmallSvd {
    /// The singular values in host memory, `[B, min(m, n)]`.
    ///
    /// # Errors
    /// [`Error::Undefined`] where a matrix has an element that is not finite; [`Error::Device`].
    pub async fn values(&self) -> Result<Vec<f32>> {
        super::finite("svd_small", &self.s).await
    }
}

/// Override constants of [`JACOBI_SVD`] for `x: [.., m, n]`: a thread a pair of columns, at least a subgroup of the
/// software adapters.
pub(crate) fn geometry(m: usize, n: usize) -> Vec<(&'static str, f64)> {
    let padded = m.min(n).next_power_of_two().max(16) as f64;
    let sizes = [("ROWS", m.max(n)), ("WIDTH", m.min(n)), ("TRANSPOSED", usize::from(m < n))];
    let sizes = sizes.map(|(name, size)| (name, size as f64));
    [("WG", padded / 2.0), ("COLUMNS", padded)].into_iter().chain(sizes).collect()
}

/// The SVD of `x: [B, m, n]` (or `[m, n]`) with `min(m, n) <= 64`; of U and V the first `keep <= min(m, n)` columns.
/// The result always has a batch dimension.
///
/// # Errors
/// [`Error::Shape`] when `x` has no elements, is too large or `keep` is not within 1 and min(m, n); [`Error::Device`].
pub fn svd_small(x: &Tensor, keep: usize) -> Result<SmallSvd> {
    let [batch, m, n] = stack("svd_small", x)?;
    let (rows, columns) = (m.max(n), m.min(n));
    if batch == 0 || columns == 0 || columns > MAX_COLUMNS || keep == 0 || keep > columns {
        let expected = format!("[B, m, n] with 1 <= keep <= min(m, n) <= {MAX_COLUMNS}");
        return Err(Error::shape("svd_small", expected, format!("{x:?}, keep {keep}")));
    }
    if rows > MAX_COLUMNS {
        return by_triangle(&x.reshape([batch, m, n])?, keep);
    }
    let gpu = x.gpu();
    let elements = rows.next_multiple_of(4) * columns.next_multiple_of(4);
    let most = rows_in_window(gpu, batch, elements).max(1);
    let parts: Vec<_> = Parts::new("svd_small", batch).at_most(most).ranges()?.collect();
    if parts.len() > 1 {
        let x = x.reshape([batch, m, n])?;
        let whole = SmallSvd {
            u: Tensor::empty_f32(gpu, [batch, m, keep])?,
            s: Tensor::empty_f32(gpu, [batch, columns])?,
            v: Tensor::empty_f32(gpu, [batch, n, keep])?,
        };
        for range in parts {
            // A copy starts aligned, a slice may not.
            let part = svd_small(&x.slice(range.clone())?.duplicate()?, keep)?;
            whole.u.slice(range.clone())?.copy_from(&part.u)?;
            whole.s.slice(range.clone())?.copy_from(&part.s)?;
            whole.v.slice(range)?.copy_from(&part.v)?;
        }
        return Ok(whole);
    }
    let long = Tensor::empty_f32(gpu, [batch, rows, keep])?;
    let s = Tensor::empty_f32(gpu, [batch, columns])?;
    let short = Tensor::empty_f32(gpu, [batch, columns, keep])?;
    Launch::new(&JACOBI_SVD)
        .constants(geometry(m, n))
        .read("x", x)
        .write("w", &Tensor::empty_f32(gpu, [batch, columns, rows.next_multiple_of(4)])?)
        .write("vt", &Tensor::empty_f32(gpu, [batch, columns, columns.next_multiple_of(4)])?)
        .write("u", &long)
        .write("s", &s)
        .write("v", &short)
        .workgroups(batch)
        .run(gpu)?;
    let long = qr::orthonormalize(&long)?;
    let (u, v) = if m < n { (short, long) } else { (long, short) };
    Ok(SmallSvd { u, s, v })
}

/// The SVD of a matrix with a long side, by the QR of its taller form: `X = Q R` or `X^T = Q R`.
fn by_triangle(x: &Tensor, keep: usize) -> Result<SmallSvd> {
    let [batch, m, n] = stack("svd_small", x)?;
    let tall = if m >= n {
        x.clone()
    } else {
        let y = Tensor::empty_f32(x.gpu(), [batch, n, m])?;
        gemm(Trans::T, Trans::N, 1.0, x, &identity(x.gpu(), m)?, 0.0, &y)?;
        y
    };
    let (q, r) = qr::qr(&tall)?;
    let small = svd_small(&r, keep)?;
    let long = Tensor::empty_f32(x.gpu(), [batch, m.max(n), keep])?;
    gemm(Trans::N, Trans::N, 1.0, &q, &small.u, 0.0, &long)?;
    let (u, v) = if m >= n { (long, small.v) } else { (small.v, long) };
    Ok(SmallSvd { u, s: small.s, v })
}

fn identity(gpu: &Gpu, size: usize) -> Result<Tensor> {
    let y = Tensor::empty_f32(gpu, [size, size])?;
    Launch::new(&IDENTITY)
        .params(&IdentityParams { size: size as u32 })
        .write("y", &y)
        .threads(size * size, 64)
        .run(gpu)?;
    Ok(y)
}
