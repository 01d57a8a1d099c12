//! Principal similarity of subspaces, all pairs (METHOD §6).
//!
//! With orthonormal bases of r dimensions, `s(a, b) = |U_a^T U_b|_F^2 / r`: the mean squared cosine of the principal
//! angles; beside it the mean cosine, from the singular values of `U_a^T U_b`. The products of all pairs are one
//! product on the device.
//!
//! The tail is the rest. On a side of dimension `D = min(m, n)` that is the whole complement, which needs no basis:
//! `|(I - P_a)(I - P_b)|_F^2 = D - 2 r + |U_a^T U_b|_F^2`, and since complements have the angles of the subspaces, but
//! for zeros (Knyazev, Argentati, "Majorization for changes in angles between subspaces", 2006, theorem 2.7), the
//! cosines sum to `D - 2 r + sum cos`. On a longer side it is what the matrix spans besides its top part:
//! `min(m, n) - r` dimensions, compared only where all singular vectors are known.

use faer::{Mat, MatRef};
use rayon::prelude::*;

use super::dense;
use super::record::{Of, Pairs, Part, Similarity};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::statistics::{deviation, mean};
use crate::nn::config::ExpertMatrix;
use crate::tensor::Tensor;
use crate::train::metrics::Side;

/// Elements of a part of the table of all products.
const TABLE: usize = 1 << 25;
/// Beyond this many multiplications no tail of a longer side is compared: seconds on a CPU.
const MOST_PRODUCTS: f64 = 5e11;
/// Cosines of all pairs are the roots of eigenvalues of r x r matrices; beyond this many elements cubed there are none.
const MOST_COSINES: f64 = 5e9;

/// All pairs of the subspaces of one side.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlaps {
    /// Dimensions of the space.
    pub space: usize,
    /// Dimensions of the subspaces.
    pub r: usize,
    /// Mean squared cosines.
    pub squared: Pairs,
    /// Mean cosines.
    pub cosine: Pairs,
}

impl Overlaps {
    /// Compares subspaces given by orthonormal bases `[space, r]`; those that are none (undefined) give none.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bases' sizes differ; [`Error::Device`].
    pub async fn of(gpu: &Gpu, bases: &[Option<MatRef<'_, f64>>]) -> Result<Option<Self>> {
        let defined: Vec<(usize, MatRef<'_, f64>)> =
            bases.iter().enumerate().filter_map(|(i, b)| Some((i, (*b)?))).collect();
        let Some(&(_, first)) = defined.first() else { return Ok(None) };
        let (space, r) = (first.nrows(), first.ncols());
        if let Some((_, b)) = defined.iter().find(|(_, b)| b.shape() != first.shape()) {
            let got = format!("{} x {}", b.nrows(), b.ncols());
            return Err(Error::shape("similarity", format!("bases {space} x {r}"), got));
        }
        let count = defined.len();
        let stacked: Vec<f32> = defined.iter().flat_map(|(_, b)| rows_of(*b)).collect();
        let stacked = Tensor::from_f32(gpu, [count * r, space], &stacked)?;
        let with_cosines = r == 1 || (count * count) as f64 * (r as f64).powi(3) < MOST_COSINES;
        let none = vec![vec![None; bases.len()]; bases.len()];
        let mut overlaps = Overlaps { space, r, squared: none.clone(), cosine: none };
        let at_once = (TABLE / (count * r * r)).clamp(1, count);
        for first in (0..count).step_by(at_once) {
            let last = count.min(first + at_once);
            // A copy starts aligned, a slice may not.
            let part = stacked.slice(first * r..last * r)?.duplicate()?;
            let products = Tensor::empty_f32(gpu, [(last - first) * r, count * r])?;
            gemm(Trans::N, Trans::T, 1.0, &part, &stacked, 0.0, &products)?;
            let products = products.to_f32().await?;
            let pairs: Vec<(usize, usize)> = (first..last).flat_map(|a| (a..count).map(move |b| (a, b))).collect();
            let found: Vec<(f64, Option<f64>)> = pairs
                .par_iter()
                .map(|&(a, b)| {
                    let at = |i: usize, j: usize| f64::from(products[((a - first) * r + i) * count * r + b * r + j]);
                    let block = Mat::from_fn(r, r, at);
                    let cosine = if with_cosines { Some(dense::nuclear_norm(block.as_ref())?) } else { None };
                    Ok((block.squared_norm_l2(), cosine))
                })
                .collect::<Result<_>>()?;
            for ((a, b), (squared, cosine)) in pairs.into_iter().zip(found) {
                let (a, b) = (defined[a].0, defined[b].0);
                // Rounding may carry a mean of cosines past 1.
                let mean = |sum: f64| (sum / r as f64).min(1.0);
                for (a, b) in [(a, b), (b, a)] {
                    overlaps.squared[a][b] = Some(mean(squared));
                    overlaps.cosine[a][b] = cosine.map(mean);
                }
            }
        }
        Ok(Some(overlaps))
    }

    /// The overlaps of the complements; none where there are no further dimensions.
    pub fn complement(&self) -> Option<Self> {
        let (space, r) = (self.space as f64, self.r as f64);
        let rest = self.space - self.r;
        let turn = |pairs: &Pairs| {
            let turn = |s: &Option<f64>| s.map(|s| ((space - 2.0 * r + r * s) / rest as f64).clamp(0.0, 1.0));
            pairs.iter().map(|row| row.iter().map(turn).collect()).collect()
        };
        (rest > 0).then(|| Overlaps { r: rest, squared: turn(&self.squared), cosine: turn(&self.cosine), ..*self })
    }

    /// The similarity of random subspaces: `r / D`.
    pub fn null(&self) -> f64 {
        self.r as f64 / self.space as f64
    }

    /// The row of the record; its control is for the caller.
    pub(super) fn row(self, layer: usize, matrix: ExpertMatrix, side: Side, of: Of, part: Part) -> Similarity {
        Similarity {
            layer,
            matrix,
            side,
            of,
            part,
            r: self.r,
            mean_offdiag: mean_offdiag(&self.squared),
            spread: spread_offdiag(&self.squared),
            mean_cosine: mean_offdiag(&self.cosine),
            max: off_diagonal(&self.squared).reduce(f64::max),
            null: self.null(),
            control: None,
            control_spread: None,
            pairs: self.squared.into(),
        }
    }
}

/// Basis vectors one after the other.
fn rows_of(basis: MatRef<'_, f64>) -> impl Iterator<Item = f32> + '_ {
    basis.col_iter().flat_map(|c| c.iter().map(|&x| x as f32))
}

/// Returns the values off the diagonal that are defined.
fn off_diagonal(pairs: &Pairs) -> impl Iterator<Item = f64> + '_ {
    let row = |(i, row): (usize, &'_ Vec<Option<f64>>)| {
        row.iter().enumerate().filter(|&(j, _)| i != j).filter_map(|(_, &x)| x).collect::<Vec<_>>()
    };
    pairs.iter().enumerate().flat_map(row)
}

/// Mean over pairs of different ones, of what is defined; none of nothing.
pub fn mean_offdiag(pairs: &Pairs) -> Option<f64> {
    mean(off_diagonal(pairs))
}

/// Standard deviation over pairs of different ones, each counted once, of what is defined; none of less than two.
pub(crate) fn spread_offdiag(pairs: &Pairs) -> Option<f64> {
    let once: Vec<f64> =
        pairs.iter().enumerate().flat_map(|(i, row)| row.iter().skip(i + 1).filter_map(|&x| x)).collect();
    deviation(&once)
}

/// Top and tail of one side, from the top bases and, on the longer side, those of the tail.
pub(super) async fn top_and_tail(
    gpu: &Gpu,
    top: &[Option<MatRef<'_, f64>>],
    tail: Option<&[Option<MatRef<'_, f64>>]>,
) -> Result<[Option<Overlaps>; 2]> {
    let found = Overlaps::of(gpu, top).await?;
    let rest = match tail {
        None => found.as_ref().and_then(Overlaps::complement),
        Some(bases) => {
            let size = bases.iter().flatten().map(|b| (b.nrows() * b.ncols() * b.ncols()) as f64).fold(0.0, f64::max);
            let affordable = size * (bases.len() * bases.len()) as f64 <= MOST_PRODUCTS;
            if affordable { Overlaps::of(gpu, bases).await? } else { None }
        }
    };
    Ok([found, rest])
}
