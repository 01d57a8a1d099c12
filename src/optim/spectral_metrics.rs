//! What a training log shows of decoupled experts: drift, spectrum of `W_c`, turning of the bases, similarity of experts.
//!
//! The device computes small tensors; [`PendingMetrics::read`] awaits them and takes the last means in f64. Sides are
//! named by where they live (METHOD §6): the model side, d, is the input of gate and up and the output of down.

use crate::error::{Error, Result};
use crate::gpu::Readback;
use crate::kernels::spectral::{pair_overlaps, sizes};
use crate::linalg::MAX_COLUMNS;
use crate::linalg::svd::{Draw, SvdOptions, randomized_svd};
use crate::nn::config::{ExpertMatrix, GradientForm};
use crate::nn::spectral::{SpectralBank, SpectralStack};
use crate::optim::spectral::record_drift;
use crate::tensor::Tensor;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricOptions {
    /// Whether to compare the experts' leading subspaces, which takes two SVDs of all experts.
    pub similarity: bool,
    /// Size r of the compared subspaces; 0 for 1 % of min(m, n), rounded up.
    pub subspace: usize,
}

impl Default for MetricOptions {
    fn default() -> Self {
        Self { similarity: true, subspace: 0 }
    }
}

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

/// One layer's matrix kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MatrixMetrics {
    /// The layer.
    pub layer: usize,
    /// The kind.
    pub matrix: ExpertMatrix,
    /// Share of `|W_u,i|_F` inside the basis of the model side now: `|P_U W_u,i|_F / |W_u,i|_F` of gate and up, mean over
    /// the experts.
    pub drift_model: f64,
    /// As `drift_model` for the hidden side.
    pub drift_hidden: f64,
    /// What the last refresh saw before it turned the bases; none before the first.
    pub refresh: Option<RefreshMetrics>,
    /// Share of `|G_i|_F^2` in the common part in the step of the last refresh, mean over the experts that got a
    /// gradient; none before the first refresh, and none in the token-space form, which never sees the `G_i`.
    pub common_gradient_share: Option<f64>,
    /// That share for a gradient without preferred directions: `1 - (1 - k/m)(1 - k/n)`.
    pub common_gradient_chance: f64,
    /// Similarity of the merged `W_i`; none with a single expert or when not asked for.
    pub similarity_merged: Option<SideSimilarity>,
    /// Similarity of the `W_u,i`.
    pub similarity_unique: Option<SideSimilarity>,
    /// What random subspaces give: `r / d` and `r / f`.
    pub similarity_chance: SideSimilarity,
}

/// Measured by a refresh, after the step's update and before the bases turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefreshMetrics {
    /// Drift of the model side.
    pub drift_model: f64,
    /// Drift of the hidden side.
    pub drift_hidden: f64,
    /// `sigma_k / sigma_(k+1)` of `W_c`; infinite where the latter is zero or there is none.
    pub common_gap: f64,
    /// Share of `|W_c|_F^2` beyond the leading k singular values; to about 1e-6.
    pub common_energy_beyond_rank: f64,
    /// Largest principal angle, in radians, between successive bases of the two sides.
    pub basis_angle: f64,
}

/// Metrics on their way from the device.
#[derive(Debug)]
pub struct PendingMetrics {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    matrix: ExpertMatrix,
    first_layer: usize,
    sizes: [usize; 4],
    rank: usize,
    chance: SideSimilarity,
    token_space: bool,
    record: Vec<Readback>,
    merged: Option<PendingSimilarity>,
    unique: Option<PendingSimilarity>,
}

impl PendingMetrics {
    pub(super) fn start(banks: &[SpectralBank], options: MetricOptions) -> Result<Self> {
        let mut parts = Vec::new();
        for bank in banks {
            for stack in &bank.stacks {
                parts.push(Part::start(bank, stack, options)?);
            }
        }
        Ok(Self { parts })
    }

    /// The metrics, by kind and layer.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub async fn read(self) -> Result<Vec<MatrixMetrics>> {
        let mut all = Vec::new();
        for part in self.parts {
            all.extend(part.finish().await?);
        }
        Ok(all)
    }
}

impl Part {
    fn start(bank: &SpectralBank, stack: &SpectralStack, options: MetricOptions) -> Result<Self> {
        let [l, e, m, n] = sizes("spectral metrics", &stack.w)?;
        let drift = Tensor::empty_f32(stack.w.gpu(), [3, l, e])?;
        let w_u = stack.unique()?;
        record_drift(&stack.basis.products(&w_u)?, &w_u, &drift)?;
        let r = &stack.record;
        let record = [&drift, &r.drift, &r.share, &r.energy, &r.singular, &r.angles];
        let r = if options.subspace == 0 { leading(m, n) } else { options.subspace.min(m.min(n)) };
        let similarity = |w| if options.similarity { PendingSimilarity::start(bank.matrix, w, r) } else { Ok(None) };
        Ok(Self {
            matrix: bank.matrix,
            first_layer: stack.layers.start,
            sizes: [l, e, m, n],
            rank: stack.basis.rank(),
            chance: similarity_chance(bank.matrix, m, n, r),
            token_space: bank.form == GradientForm::TokenSpace,
            record: record.into_iter().map(Tensor::read).collect::<Result<_>>()?,
            merged: similarity(&stack.w)?,
            unique: similarity(&w_u)?,
        })
    }

    async fn finish(self) -> Result<Vec<MatrixMetrics>> {
        let [l, e, m, n] = self.sizes;
        let k = self.rank;
        let mut record = Vec::new();
        for part in self.record {
            record.push(floats(part).await?);
        }
        let [now, before, share, energy, singular, angles] = &record[..] else { return Ok(Vec::new()) };
        let (mut merged, mut unique) = (Vec::new(), Vec::new());
        for (pending, found) in [(self.merged, &mut merged), (self.unique, &mut unique)] {
            if let Some(pending) = pending {
                *found = pending.read().await?;
            }
        }
        let metrics = (0..l).map(|layer| {
            let at = |i: usize| (i * l + layer) * e..(i * l + layer + 1) * e;
            // 0 where W_u is zero, as with k = min(m, n).
            let drift = |x: &[f64]| {
                let side = |i: usize| root_ratio(&x[at(i)], &x[at(2)]).unwrap_or(0.0);
                sides(self.matrix, side(0), side(1))
            };
            let (drift_model, drift_hidden) = drift(now);
            let found = singular.len() / l;
            let s = &singular[layer * found..(layer + 1) * found];
            let refresh = s.first().is_some_and(|&s| s > 0.0).then(|| {
                let (drift_model, drift_hidden) = drift(before);
                let leading: f64 = s[..k].iter().map(|s| s * s).sum();
                let angle = |side: usize| angles[(side * l + layer) * k..][..k].iter().copied().fold(0.0, f64::max);
                RefreshMetrics {
                    drift_model,
                    drift_hidden,
                    common_gap: s.get(k).filter(|&&s| s > 0.0).map_or(f64::INFINITY, |next| s[k - 1] / next),
                    common_energy_beyond_rank: (1.0 - leading / energy[layer]).max(0.0),
                    basis_angle: angle(0).max(angle(1)),
                }
            });
            MatrixMetrics {
                layer: self.first_layer + layer,
                matrix: self.matrix,
                drift_model,
                drift_hidden,
                refresh,
                common_gradient_share: if self.token_space { None } else { mean_ratio(&share[at(1)], &share[at(0)]) },
                common_gradient_chance: 1.0 - (1.0 - k as f64 / m as f64) * (1.0 - k as f64 / n as f64),
                similarity_merged: merged.get(layer).copied(),
                similarity_unique: unique.get(layer).copied(),
                similarity_chance: self.chance,
            }
        });
        Ok(metrics.collect())
    }
}

/// Number of leading directions that are compared: 1 % of min(m, n), rounded up (METHOD §6).
pub(crate) fn leading(m: usize, n: usize) -> usize {
    m.min(n).div_ceil(100)
}

/// What random subspaces of r dimensions give for matrices `m x n`.
pub(crate) fn similarity_chance(matrix: ExpertMatrix, m: usize, n: usize, r: usize) -> SideSimilarity {
    let (model, hidden) = sides(matrix, r as f64 / m as f64, r as f64 / n as f64);
    SideSimilarity { model, hidden, spread: None }
}

/// Left and right as model side and hidden side.
fn sides<T>(matrix: ExpertMatrix, left: T, right: T) -> (T, T) {
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

    /// The means over pairs, by layer.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub(crate) async fn read(self) -> Result<Vec<SideSimilarity>> {
        let (layers, e) = (self.layers, self.experts);
        let [left, right] = self.overlaps;
        let (left, right) = (floats(left).await?, floats(right).await?);
        let side = |x: &[f64], layer: usize| {
            let pairs = off_diagonal(&x[layer * e * e..][..e * e], e, self.subspace);
            (mean(pairs.iter().copied()).unwrap_or_default(), deviation(&pairs))
        };
        let layer = |layer| {
            let (model, hidden) = sides(self.matrix, side(&left, layer), side(&right, layer));
            let spread = model.1.zip(hidden.1).map(|(model, hidden)| [model, hidden]);
            SideSimilarity { model: model.0, hidden: hidden.0, spread }
        };
        Ok((0..layers).map(layer).collect())
    }
}

async fn floats(readback: Readback) -> Result<Vec<f64>> {
    let values: Vec<f32> = bytemuck::pod_collect_to_vec(&readback.await?);
    Error::unless_finite("spectral metrics", &values)?;
    Ok(values.into_iter().map(f64::from).collect())
}

/// Mean of part / whole over the experts whose whole is not zero; none when all are.
fn mean_ratio(part: &[f64], whole: &[f64]) -> Option<f64> {
    mean(part.iter().zip(whole).filter(|(_, w)| **w > 0.0).map(|(p, w)| p / w))
}

/// As [`mean_ratio`] of the roots.
fn root_ratio(part: &[f64], whole: &[f64]) -> Option<f64> {
    mean(part.iter().zip(whole).filter(|(_, w)| **w > 0.0).map(|(p, w)| (p / w).sqrt()))
}

/// Mean; none of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// Median, the mean of the two in the middle of an even number; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    // Of the same one twice, or of two infinite ones, the mean is that one.
    Some(if lower == upper { upper } else { 0.5 * (lower + upper) })
}

/// Standard deviation of a sample, over n - 1; none of less than two values.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values.iter().copied())?;
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The symmetric `x: [E, E]` over r, of each pair of different experts once.
fn off_diagonal(x: &[f64], e: usize, r: usize) -> Vec<f64> {
    (0..e).flat_map(|a| (a + 1..e).map(move |b| x[a * e + b] / r as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::{deviation, median};

    #[test]
    fn a_median_is_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median([3.0, 900.0, 2.0]), Some(3.0));
        assert_eq!(median([4.5, 1.0, 6.5, 90.0]), Some(5.5));
        assert_eq!(median([f64::INFINITY, 2.0, 5.0, 4.0]), Some(4.5));
        assert_eq!(median([f64::INFINITY, 2.0, f64::INFINITY, f64::INFINITY]), Some(f64::INFINITY));
        assert_eq!(median([f64::INFINITY, 2.0]), Some(f64::INFINITY));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_deviation_takes_two_values() {
        assert_eq!(deviation(&[1.0, 3.0, 2.0]), Some(1.0));
        assert_eq!((deviation(&[5.0]), deviation(&[])), (None, None));
    }
}
