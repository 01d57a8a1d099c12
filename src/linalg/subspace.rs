//! Subspaces given by orthonormal bases: projections, principal angles, similarity. Batched, on the device.
//!
//! With `A: [B, m, p]` and `B: [B, m, q]` orthonormal, the cosines of the principal angles are the singular values of
//! `A^T B`, the sines those of `(I - A A^T) B` for q <= p (Bjorck, Golub, "Numerical methods for computing angles
//! between linear subspaces", 1973). A cosine says nothing about an angle below 3e-4 in f32, a sine nothing near 90
//! degrees: each angle is taken from the smaller of the two.
//!
//! Must not form an `m x m` projector.

use super::qr::qr;
use super::svd_small::svd_small;
use super::{MAX_COLUMNS, stack};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, wgsl};
use crate::kernels::gemm::{Trans, gemm};
use crate::tensor::Tensor;

/// Angles from sines and cosines.
pub static PRINCIPAL_ANGLES: Kernel =
    Kernel::new("principal_angles", wgsl!["subspace.wgsl"]).params::<SubspaceParams>();
/// `|A^T B|_F^2 / r`.
pub static MEAN_SQUARE_COSINE: Kernel =
    Kernel::new("mean_square_cosine", wgsl!["subspace.wgsl"]).params::<SubspaceParams>();

crate::params! {
    struct SubspaceParams { count: u32, size: u32, divisor: f32 }
}

/// `P_U X = U (U^T X)` for an orthonormal `u: [.., m, r]` and `x: [.., m, n]`; u may have fewer matrices than x, as in
/// [`gemm`].
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit.
pub fn project(u: &Tensor, x: &Tensor) -> Result<Tensor> {
    let y = Tensor::empty_f32(x.gpu(), x.shape())?;
    gemm(Trans::N, Trans::N, 1.0, u, &coordinates(u, x)?, 0.0, &y)?;
    Ok(y)
}

/// `(I - P_U) X`, as [`project`].
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit.
pub fn complement(u: &Tensor, x: &Tensor) -> Result<Tensor> {
    let y = x.duplicate()?;
    gemm(Trans::N, Trans::N, -1.0, u, &coordinates(u, x)?, 1.0, &y)?;
    Ok(y)
}

/// `U^T X`.
fn coordinates(u: &Tensor, x: &Tensor) -> Result<Tensor> {
    let [outer @ .., _, n] = x.dims() else {
        return Err(Error::shape("project", "x [.., m, n]", format!("{x:?}")));
    };
    let mut shape = outer.to_vec();
    shape.extend([u.cols(), *n]);
    let c = Tensor::empty_f32(x.gpu(), &shape)?;
    gemm(Trans::T, Trans::N, 1.0, u, x, 0.0, &c)?;
    Ok(c)
}

/// The pair with the wider basis first, `[B, m, p]` and `[B, m, q]` with q <= p; angles are symmetric.
fn pair(op: &'static str, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let (shape_a, shape_b) = (stack(op, a)?, stack(op, b)?);
    let [batch, m, p] = shape_a;
    let q = shape_b[2];
    if shape_b[..2] != [batch, m] || batch == 0 || !(1..=MAX_COLUMNS).contains(&p.min(q)) || p.max(q) > m {
        let expected = format!("a [B, m, p], b [B, m, q], p, q <= m, 1 <= min(p, q) <= {MAX_COLUMNS}");
        return Err(Error::shape(op, expected, format!("a {a:?}, b {b:?}")));
    }
    let (a, b) = (a.reshape(shape_a)?, b.reshape(shape_b)?);
    Ok(if q <= p { (a, b) } else { (b, a) })
}

/// Cosines of the principal angles between the spans of orthonormal `a: [B, m, p]` and `b: [B, m, q]`, falling:
/// `[B, min(p, q)]`.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit or min(p, q) > 64; [`Error::Device`].
pub fn cosines(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = pair("cosines", a, b)?;
    Ok(svd_small(&coordinates(&a, &b)?, 1)?.s)
}

/// Sines of the principal angles, falling: `[B, min(p, q)]`; accurate for small angles down to the rounding of the
/// bases.
///
/// # Errors
/// As [`cosines`].
pub fn sines(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = pair("sines", a, b)?;
    let (_, r) = qr(&complement(&a, &b)?)?;
    Ok(svd_small(&r, 1)?.s)
}

/// Principal angles in radians, rising: `[B, min(p, q)]`. Accurate to about 1e-6 over the whole range.
///
/// # Errors
/// As [`cosines`].
pub fn angles(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (cosines, sines) = (cosines(a, b)?, sines(a, b)?);
    let y = Tensor::empty_f32(a.gpu(), cosines.shape())?;
    let params = SubspaceParams { count: y.numel() as u32, size: y.cols() as u32, divisor: 1.0 };
    Launch::new(&PRINCIPAL_ANGLES)
        .params(&params)
        .read("cosines", &cosines)
        .read("sines", &sines)
        .write("y", &y)
        .threads(y.numel(), 64)
        .run(a.gpu())?;
    Ok(y)
}

/// Principal similarity `|A^T B|_F^2 / min(p, q)` in [0, 1], the mean squared cosine: `[B]`.
///
/// # Errors
/// As [`cosines`].
pub fn similarity(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = pair("similarity", a, b)?;
    let products = coordinates(&a, &b)?;
    let batch = products.dims()[0];
    let y = Tensor::empty_f32(a.gpu(), [batch])?;
    let size = (products.numel() / batch) as u32;
    Launch::new(&MEAN_SQUARE_COSINE)
        .params(&SubspaceParams { count: batch as u32, size, divisor: b.cols() as f32 })
        .read("products", &products)
        .write("y", &y)
        .workgroups(batch)
        .run(a.gpu())?;
    Ok(y)
}

/// Distances of two subspaces on the Grassmannian, from their principal angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distances {
    /// `|t|_2`.
    pub geodesic: f64,
    /// `|sin t|_2`.
    pub chordal: f64,
    /// `sin t_max`.
    pub projection: f64,
}

/// The distances that METHOD section 7 names, from angles in radians.
pub fn distances(angles: &[f32]) -> Distances {
    let angles = || angles.iter().map(|&t| f64::from(t));
    Distances {
        geodesic: angles().map(|t| t * t).sum::<f64>().sqrt(),
        chordal: angles().map(|t| t.sin().powi(2)).sum::<f64>().sqrt(),
        projection: angles().fold(0.0, f64::max).sin(),
    }
}
