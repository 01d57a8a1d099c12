//! Matrices with nearly the same singular vectors and singular values near 1, by Newton-Schulz iterations: products alone.
//!
//! With the quintic of Jordan et al. ("Muon: An optimizer for hidden layers in neural networks", 2024), where X is not higher than
//! wide (otherwise the products stand on the other side):
//!
//! ```text
//! X = X / (|X|_F + 1e-7)      five times:  A = X X^T,   X = (a I + b A + c A^2) X
//! a, b, c = 3.4445, -4.7750, 2.0315
//! ```
//!
//! Singular values above 0.002 of the norm end between 0.68 and 1.21; smaller ones grow by up to `a^5` = 485. The polynomial
//! does not converge to 1, which makes it fast. A zero matrix stays zero.

use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::kernels::spectral::square_norms;
use crate::tensor::Tensor;

/// Iterations; odd, so that the last product comes back to where the first one began.
const ITERATIONS: usize = 5;
/// The coefficients of X, X^3 and X^5.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Added to the norm.
const EPS: f32 = 1e-7;
/// Elements that are worked on at a time, so that what lies beside them is no more (64 MiB).
const AT_A_TIME: usize = 16 << 20;

/// `y = x / (|x| + eps)`.
static NORMALIZE: PackKernels = forms!("normalize_matrices", "newton_schulz.wgsl", NewtonSchulzParams, packs);
/// `y = one I + factor x`.
static SHIFTED: PackKernels = forms!("shifted_matrices", "newton_schulz.wgsl", NewtonSchulzParams, packs);

crate::params! {
    struct NewtonSchulzParams {
        /// In packs.
        count: u32,
        /// The first pack's number in the whole.
        first: u32,
        /// Packs of a matrix, or its rows and columns.
        size: u32,
        eps: f32,
        one: f32,
        factor: f32,
    }
}

/// This file's kernels.
pub fn kernels() -> Vec<Variant> {
    [&NORMALIZE, &SHIFTED].into_iter().flat_map(|kernels| variants(kernels)).collect()
}

/// Records that each matrix of `x: [.., m, n]`, in f32, becomes `factor` times the result of the iterations.
///
/// # Errors
/// [`Error::Shape`] when `x` has no matrices, or when rows exceed a binding; [`Error::Device`].
pub fn newton_schulz(x: &Tensor, factor: f32) -> Result<()> {
    let [outer @ .., m, n] = x.dims() else {
        return Err(Error::shape("newton_schulz", "matrices", format!("{x:?}")));
    };
    let (count, m, n): (usize, usize, usize) = (outer.iter().product(), *m, *n);
    let x = x.reshape([count, m, n])?;
    // A part must begin at an offset that a binding can have.
    let aligned = (m * n * 4).is_multiple_of(x.gpu().offset_alignment() as usize);
    let most = if aligned { (AT_A_TIME / (m * n).max(1)).max(1) } else { count };
    for first in (0..count).step_by(most.max(1)) {
        iterate(&x.slice(first..count.min(first + most))?, factor)?;
    }
    Ok(())
}

fn iterate(x: &Tensor, factor: f32) -> Result<()> {
    let [a, b, c] = COEFFICIENTS;
    let &[count, m, n] = x.dims() else { return Ok(()) };
    let (gpu, side) = (x.gpu(), m.min(n));
    let other = Tensor::empty_f32(gpu, x.shape())?;
    let square = Tensor::empty_f32(gpu, [count, side, side])?;
    let polynomial = Tensor::empty_f32(gpu, [count, side, side])?;
    normalize(x, &other)?;
    let (mut from, mut to) = (&other, x);
    for i in 1..=ITERATIONS {
        let factor = if i == ITERATIONS { factor } else { 1.0 };
        let (left, right) = if m <= n { (Trans::N, Trans::T) } else { (Trans::T, Trans::N) };
        gemm(left, right, 1.0, from, from, 0.0, &square)?;
        shifted(&square, a, b, &polynomial)?;
        gemm(Trans::N, Trans::N, c, &square, &square, 1.0, &polynomial)?;
        let (left, right) = if m <= n { (&polynomial, from) } else { (from, &polynomial) };
        gemm(Trans::N, Trans::N, factor, left, right, 0.0, to)?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(())
}

/// Records `y = x / (|x|_F + eps)` for matrices `[count, m, n]`.
fn normalize(x: &Tensor, y: &Tensor) -> Result<()> {
    let squares = square_norms(x, 0)?;
    let (size, x, y) = (x.numel() / squares.numel(), x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in Parts::new("normalize_matrices", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(size);
        let params = NewtonSchulzParams {
            count: (range.len() / pack) as u32,
            first: (range.start / pack) as u32,
            size: (size / pack) as u32,
            eps: EPS,
            ..NewtonSchulzParams::default()
        };
        pack_launch(&NORMALIZE, pack)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .read("square", &squares)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// Records `y = one I + factor x` for matrices `[count, s, s]`.
fn shifted(x: &Tensor, one: f32, factor: f32, y: &Tensor) -> Result<()> {
    let (side, x, y) = (x.cols(), x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in Parts::new("shifted_matrices", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let pack = pack(side);
        let params = NewtonSchulzParams {
            count: (range.len() / pack) as u32,
            first: (range.start / pack) as u32,
            size: side as u32,
            one,
            factor,
            ..NewtonSchulzParams::default()
        };
        pack_launch(&SHIFTED, pack)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len() / pack, THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}
