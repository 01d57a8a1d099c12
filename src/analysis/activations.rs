//! Which singular directions tokens use (METHOD §6, figures 3 and 5 of the SD-MoE paper).
//!
//! For `Y = X W`, `W = U S V^T` and the rows x of X that were routed to the expert, direction m has
//!
//! - ratio: the share of tokens with `|x.u_m| > tau |x|`, `tau = 2 / sqrt(dim)`;
//! - input energy: `sum_t (x.u_m)^2 / sum_t |x|^2`;
//! - output energy: `s_m^2 sum_t (x.u_m)^2 / sum_t |x W|^2`, which sums to 1 over all directions;
//!
//! and the shuffle sensitivity of a range of directions is `|(X' - X) U|_F / |X U|_F`, X' the same tokens' activations
//! when the tokens of their sequence are permuted. Null of the ratio: the share of random directions in `dim`
//! dimensions, for which `(x.u)^2 / |x|^2` has the beta distribution (1/2, (dim - 1)/2). Control: Gaussian orthonormal
//! directions in place of the singular ones, at the same tokens.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::spectral::square_norms;
use crate::linalg::qr::orthonormalize;
use crate::linalg::random::fill_normal;
use crate::tensor::Tensor;

/// The shares of one expert's matrix, by falling singular value.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Share of tokens that use a direction.
    pub ratio: Vec<Option<f64>>,
    /// Share of the input's energy.
    pub input_energy: Vec<Option<f64>>,
    /// Share of the output's energy.
    pub output_energy: Vec<Option<f64>>,
}

/// `2 / sqrt(dim)`.
pub(crate) fn threshold(dim: usize) -> f64 {
    2.0 / (dim as f64).sqrt()
}

/// Squared projections `(x_t.u_m)^2`, `[T, r]`, of the rows of `x: [T, dim]` on the columns of `directions: [dim, r]`.
async fn projections(x: &Tensor, directions: &Tensor) -> Result<Vec<f32>> {
    let y = Tensor::empty_f32(x.gpu(), [x.rows(), directions.cols()])?;
    gemm(Trans::N, Trans::N, 1.0, x, directions, 0.0, &y)?;
    y.to_f32().await
}

/// How the tokens `x: [T, dim]` use the `directions: [dim, r]` with the singular values `s` of the matrix
/// `w: [dim, n]`. All undefined without tokens.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
pub async fn usage(x: &Tensor, w: &Tensor, directions: &Tensor, s: &[f64]) -> Result<Usage> {
    let (tokens, dim, r) = (x.rows(), x.cols(), directions.cols());
    if directions.rows() != dim || w.rows() != dim || s.len() < r {
        let got = format!("x {x:?}, w {w:?}, directions {directions:?}, {} singular values", s.len());
        return Err(Error::shape("activations", "x [T, m], w [m, n], directions [m, r], r singular values", got));
    }
    let none = vec![None; r];
    if tokens == 0 {
        return Ok(Usage { ratio: none.clone(), input_energy: none.clone(), output_energy: none });
    }
    let norms: Vec<f64> = row_norms(x).await?;
    let (share, energy) = shares(&projections(x, directions).await?, &norms, r, threshold(dim));
    let y = Tensor::empty_f32(x.gpu(), [tokens, w.cols()])?;
    gemm(Trans::N, Trans::N, 1.0, x, w, 0.0, &y)?;
    let output: f64 = row_norms(&y).await?.iter().sum();
    let input: f64 = norms.iter().sum();
    let over = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
    Ok(Usage {
        ratio: share.into_iter().map(Some).collect(),
        input_energy: energy.iter().map(|&e| over(e, input)).collect(),
        output_energy: energy.iter().zip(s).map(|(&e, s)| over(s * s * e, output)).collect(),
    })
}

/// Squared norms of the rows.
async fn row_norms(x: &Tensor) -> Result<Vec<f64>> {
    let norms = square_norms(&x.reshape([x.rows(), 1, x.cols()])?, 0)?.to_f32().await?;
    Ok(norms.into_iter().map(f64::from).collect())
}

/// For each direction the share of tokens beyond the threshold, and the energy.
fn shares(p: &[f32], norms: &[f64], r: usize, threshold: f64) -> (Vec<f64>, Vec<f64>) {
    let (mut share, mut energy) = (vec![0.0; r], vec![0.0; r]);
    for (row, norm) in p.chunks(r).zip(norms) {
        for ((share, energy), &p) in share.iter_mut().zip(&mut energy).zip(row) {
            let square = f64::from(p).powi(2);
            *energy += square;
            if square > threshold * threshold * norm {
                *share += 1.0 / norms.len() as f64;
            }
        }
    }
    (share, energy)
}

/// The control of [`usage`]'s ratio: its mean over random directions `[dim, r]`; none without tokens.
///
/// # Errors
/// [`Error::Device`].
pub(crate) async fn mean_ratio(x: &Tensor, directions: &Tensor) -> Result<Option<f64>> {
    if x.rows() == 0 {
        return Ok(None);
    }
    let r = directions.cols();
    let (share, _) = shares(&projections(x, directions).await?, &row_norms(x).await?, r, threshold(x.cols()));
    Ok(Some(share.iter().sum::<f64>() / r as f64))
}

/// Gaussian orthonormal directions, `[dim, r]`: what controls have in place of singular ones.
///
/// # Errors
/// [`Error::Device`].
pub(crate) fn random_directions(gpu: &Gpu, dim: usize, r: usize, seed: u64) -> Result<Tensor> {
    let drawn = Tensor::empty_f32(gpu, [dim, r])?;
    fill_normal(&drawn, seed, r as u32, 1.0)?;
    orthonormalize(&drawn)?.reshape([dim, r])
}

/// `|(X' - X) U|_F / |X U|_F` of the first `split` directions and of the rest, for `x, permuted: [T, dim]`, row by row
/// the same tokens; none where the denominator is zero or a part is empty.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
pub(crate) async fn shuffle_sensitivity(
    x: &Tensor,
    permuted: &Tensor,
    directions: &Tensor,
    split: usize,
) -> Result<[Option<f64>; 2]> {
    if x.dims() != permuted.dims() || directions.rows() != x.cols() {
        let got = format!("{x:?}, {permuted:?}, directions {directions:?}");
        return Err(Error::shape("shuffle sensitivity", "two [T, m] and directions [m, r]", got));
    }
    let r = directions.cols();
    let (before, after) = (projections(x, directions).await?, projections(permuted, directions).await?);
    let mut sums = [(0.0, 0.0); 2];
    for (before, after) in before.chunks(r).zip(after.chunks(r)) {
        for (m, (&a, &b)) in before.iter().zip(after).enumerate() {
            let sum = &mut sums[usize::from(m >= split)];
            sum.0 += (f64::from(b) - f64::from(a)).powi(2);
            sum.1 += f64::from(a).powi(2);
        }
    }
    Ok(sums.map(|(change, size)| (size > 0.0).then(|| (change / size).sqrt())))
}

/// The rows `tokens` of `x: [T, dim]`, given on the host, as a tensor.
///
/// # Errors
/// [`Error::Device`].
pub fn rows(gpu: &Gpu, x: &[f32], dim: usize, tokens: impl Iterator<Item = usize>) -> Result<Tensor> {
    let data: Vec<f32> = tokens.flat_map(|t| x[t * dim..(t + 1) * dim].iter().copied()).collect();
    Tensor::from_f32(gpu, [data.len() / dim, dim], &data)
}

/// The null of the ratio: P(|x.u| > tau |x|) for a random direction of `dim` dimensions, by Simpson's rule on the
/// density of the angle between them, which is proportional to `sin^(dim - 2)`. None in one dimension, where there is
/// no angle.
pub(crate) fn random_share(dim: usize) -> Option<f64> {
    let tau = threshold(dim);
    if dim < 2 {
        return None;
    }
    if tau >= 1.0 {
        return Some(0.0);
    }
    // |cos a| > tau: a below acos(tau), or beyond pi - acos(tau); the density is symmetric about pi / 2.
    let integral = |end: f64| {
        let steps = 4096;
        let h = end / f64::from(steps);
        let f = |i: i32| (f64::from(i) * h).sin().powi(dim as i32 - 2);
        (1..steps).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum::<f64>() * h / 3.0
            + (f(0) + f(steps)) * h / 3.0
    };
    Some(integral(tau.acos()) / integral(std::f64::consts::FRAC_PI_2))
}

#[cfg(test)]
mod tests {
    use super::random_share;

    #[test]
    fn the_null_of_the_ratio_is_that_of_its_distribution() {
        // In three dimensions the cosine is uniform on [-1, 1]; for many it is normal with deviation 1 / sqrt(dim).
        assert_eq!(random_share(3), Some(0.0));
        assert!((random_share(16).unwrap() - 0.04095).abs() < 2e-4, "{:?}", random_share(16));
        assert!((random_share(100_000).unwrap() - 0.0455).abs() < 1e-4, "{:?}", random_share(100_000));
        assert_eq!(random_share(1), None);
    }
}
