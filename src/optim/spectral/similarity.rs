//! How alike experts are: the overlap of their leading singular subspaces (METHOD §6), compared on the device.
//!
//! Sides are named by where they live: the model side, d, is the input of gate and up and the output of down.

use super::record::floats;
use crate::error::Result;
use crate::gpu::Readback;
use crate::kernels::spectral::{pair_overlaps, sizes};
use crate::linalg::MAX_COLUMNS;
use crate::linalg::statistics::{deviation, mean};
use crate::linalg::svd::{Draw, SvdOptions, randomized_svd};
use crate::nn::config::ExpertMatrix;
use crate::tensor::Tensor;

/// Mean similarity `|U_a^T U_b|_F^2 / r` over pairs of different experts, by side.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SideSimilarity {
    /// Model side.
    pub model: f64,
    /// Hidden side.
    pub hidden: f64,
    /// Standard deviation over the pairs by side, model and hidden; none of a single pair, or where nothing was measured.
    pub spread: Option<[f64; 2]>,
}

/// Number of leading directions that are compared: 1 % of min(m, n), rounded up (METHOD §6).
pub(crate) fn leading(m: usize, n: usize) -> usize {
    m.min(n).div_ceil(100)
}

/// Returns the similarity of random subspaces of r dimensions for matrices `m x n`.
pub(crate) fn similarity_chance(matrix: ExpertMatrix, m: usize, n: usize, r: usize) -> SideSimilarity {
    let (model, hidden) = sides(matrix, r as f64 / m as f64, r as f64 / n as f64);
    SideSimilarity { model, hidden, spread: None }
}

/// Left and right as model side and hidden side.
pub(super) fn sides<T>(matrix: ExpertMatrix, left: T, right: T) -> (T, T) {
    match matrix {
        ExpertMatrix::Gate | ExpertMatrix::Up => (left, right),
        ExpertMatrix::Down => (right, left),
    }
}

/// Settings of an SVD whose leading r directions can be compared: experts have a nearly flat spectrum, in which few power
/// iterations find a mixture of directions, and mixtures are less alike than the directions (0.407 for 0.440 after four of
/// them with r + 8 columns). Each matrix has a sketch of its own, as a common one would make them alike on one side.
///
/// With these a mean over pairs of matrices up to 512 x 512 is right to 3e-4 where the spectrum is that of a Gaussian
/// matrix, the flattest, and to 1e-4 where experts have anything in common.
fn exact_svd(r: usize) -> SvdOptions {
    let columns = (r + 8).next_multiple_of(SKETCH).min(MAX_COLUMNS).max(r);
    SvdOptions {
        oversampling: columns - r,
        power_iterations: POWER_ITERATIONS,
        draw: Draw::Distinct,
        ..SvdOptions::default()
    }
}

/// Columns of a sketch come in multiples of this: what a tile of the products has.
const SKETCH: usize = 16;
const POWER_ITERATIONS: usize = 16;

/// Similarities on their way from the device.
#[derive(Debug)]
pub(crate) struct PendingSimilarity {
    matrix: ExpertMatrix,
    layers: usize,
    experts: usize,
    subspace: usize,
    /// `|U_a^T U_b|_F^2` of the experts' leading directions, left and right, `[layers, E, E]` each.
    overlaps: [Readback; 2],
}

impl PendingSimilarity {
    /// Starts comparing the r leading singular directions of the experts' matrices `w: [layers, E, m, n]`; none with a
    /// single expert.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when r exceeds min(m, n); [`crate::Error::Device`].
    pub(crate) fn start(matrix: ExpertMatrix, w: &Tensor, r: usize) -> Result<Option<Self>> {
        let [l, e, m, n] = sizes("similarity", w)?;
        if e < 2 {
            return Ok(None);
        }
        let svd = randomized_svd(&w.reshape([l * e, m, n])?, r, exact_svd(r), None)?;
        let left = pair_overlaps(&svd.u.reshape([l, e, m, r])?)?.read()?;
        let right = pair_overlaps(&svd.v.reshape([l, e, n, r])?)?.read()?;
        Ok(Some(Self { matrix, layers: l, experts: e, subspace: r, overlaps: [left, right] }))
    }

    /// The similarity of each pair, by layer.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub(crate) async fn read_pairs(self) -> Result<Vec<SidePairs>> {
        let (e, r) = (self.experts, self.subspace as f64);
        let [left, right] = self.overlaps;
        let (left, right) = (floats(left).await?, floats(right).await?);
        let side = |x: &[f64], layer: usize| x[layer * e * e..][..e * e].iter().map(|x| x / r).collect();
        let layer = |layer| {
            let (model, hidden) = sides(self.matrix, side(&left, layer), side(&right, layer));
            SidePairs { experts: e, model, hidden }
        };
        Ok((0..self.layers).map(layer).collect())
    }

    /// The means over pairs, by layer.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub(crate) async fn read(self) -> Result<Vec<SideSimilarity>> {
        Ok(self.read_pairs().await?.iter().map(SidePairs::means).collect())
    }
}

/// The similarity of each pair of a layer's experts by side, `[E, E]`, symmetric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SidePairs {
    experts: usize,
    /// Model side.
    pub(crate) model: Vec<f64>,
    /// Hidden side.
    pub(crate) hidden: Vec<f64>,
}

impl SidePairs {
    /// Returns mean and deviation over pairs of different experts.
    fn means(&self) -> SideSimilarity {
        let side = |x: &[f64]| {
            let pairs = off_diagonal(x, self.experts);
            (mean(pairs.iter().copied()).unwrap_or_default(), deviation(&pairs))
        };
        let (model, hidden) = (side(&self.model), side(&self.hidden));
        let spread = model.1.zip(hidden.1).map(|(model, hidden)| [model, hidden]);
        SideSimilarity { model: model.0, hidden: hidden.0, spread }
    }
}

/// The elements of the symmetric `x: [E, E]` for each pair of different experts once.
fn off_diagonal(x: &[f64], e: usize) -> Vec<f64> {
    (0..e).flat_map(|a| (a + 1..e).map(move |b| x[a * e + b])).collect()
}
