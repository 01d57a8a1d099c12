//! The figures of decoupled experts in a training log: drift, spectrum of `W_c`, turning of the bases, similarity of experts.
//!
//! The device computes small tensors; [`PendingMetrics::read`] awaits them and takes the last means in f64. Sides are
//! named by where they live (METHOD §6): the model side, d, is the input of gate and up and the output of down.

use super::record::{DriftRow, HostRows, PendingRecord, PendingRows, ShareRow};
use super::refresh::record_drift;
use super::similarity::{PendingSimilarity, SideSimilarity, leading, sides, similarity_chance};
use super::state::{SpectralBank, SpectralStack};
use crate::error::Result;
use crate::kernels::spectral::sizes;
use crate::linalg::statistics::mean;
use crate::nn::config::{ExpertMatrix, GradientForm};

/// The choice of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

setters!(MetricOptions { similarity: bool, subspace: usize });

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
    /// The measurements of the last refresh before it turned the bases; none before the first.
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
    /// The chance level, that of random subspaces: `r / d` and `r / f`.
    pub similarity_chance: SideSimilarity,
}

/// Measured by a refresh, after the step's update and before the bases turn.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
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
    /// The layers' numbers in the model.
    layers: Vec<usize>,
    /// Layers, rows and columns.
    sizes: [usize; 3],
    rank: usize,
    chance: SideSimilarity,
    token_space: bool,
    /// As it is now.
    drift: PendingRows<DriftRow>,
    /// The measurements of the last refresh.
    record: PendingRecord,
    merged: Option<PendingSimilarity>,
    unique: Option<PendingSimilarity>,
}

impl PendingMetrics {
    pub(in crate::optim) fn start(banks: &[SpectralBank], options: MetricOptions) -> Result<Self> {
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
        let [l, _, m, n] = sizes("spectral metrics", &stack.w)?;
        let drift = stack.record.drift.empty_like()?;
        let w_u = stack.unique()?;
        record_drift(&stack.basis.products(&w_u)?, &w_u, &drift)?;
        let (drift, record) = (drift.read()?, stack.record.read()?);
        let r = if options.subspace == 0 { leading(m, n) } else { options.subspace.min(m.min(n)) };
        let similarity = |w| if options.similarity { PendingSimilarity::start(bank.matrix, w, r) } else { Ok(None) };
        Ok(Self {
            matrix: bank.matrix,
            layers: stack.numbers.clone(),
            sizes: [l, m, n],
            rank: stack.basis.rank(),
            chance: similarity_chance(bank.matrix, m, n, r),
            token_space: bank.form == GradientForm::TokenSpace,
            drift,
            record,
            merged: similarity(&stack.w)?,
            unique: similarity(&w_u)?,
        })
    }

    async fn finish(self) -> Result<Vec<MatrixMetrics>> {
        let [l, m, n] = self.sizes;
        let k = self.rank;
        let (now, record) = (self.drift.arrive().await?, self.record.arrive().await?);
        let (mut merged, mut unique) = (Vec::new(), Vec::new());
        for (pending, found) in [(self.merged, &mut merged), (self.unique, &mut unique)] {
            if let Some(pending) = pending {
                *found = pending.read().await?;
            }
        }
        let metrics = (0..l).map(|layer| {
            // 0 where W_u is zero, as with k = min(m, n).
            let drift = |rows: &HostRows<DriftRow>| {
                let whole = rows.get(DriftRow::Whole, layer);
                let side = |row| root_ratio(rows.get(row, layer), whole).unwrap_or(0.0);
                sides(self.matrix, side(DriftRow::Left), side(DriftRow::Right))
            };
            let (drift_model, drift_hidden) = drift(&now);
            let refresh = record.singular(layer).map(|s| {
                let (drift_model, drift_hidden) = drift(&record.drift);
                let leading: f64 = s[..k].iter().map(|s| s * s).sum();
                RefreshMetrics {
                    drift_model,
                    drift_hidden,
                    common_gap: s.get(k).filter(|&&s| s > 0.0).map_or(f64::INFINITY, |next| s[k - 1] / next),
                    common_energy_beyond_rank: (1.0 - leading / record.energy(layer)).max(0.0),
                    basis_angle: record.largest_angle(layer),
                }
            });
            let share =
                || mean_ratio(record.share.get(ShareRow::Common, layer), record.share.get(ShareRow::Whole, layer));
            MatrixMetrics {
                layer: self.layers[layer],
                matrix: self.matrix,
                drift_model,
                drift_hidden,
                refresh,
                common_gradient_share: if self.token_space { None } else { share() },
                common_gradient_chance: 1.0 - (1.0 - k as f64 / m as f64) * (1.0 - k as f64 / n as f64),
                similarity_merged: merged.get(layer).copied(),
                similarity_unique: unique.get(layer).copied(),
                similarity_chance: self.chance,
            }
        });
        Ok(metrics.collect())
    }
}

/// Mean of part / whole over the experts whose whole is not zero; none when all are.
fn mean_ratio(part: &[f64], whole: &[f64]) -> Option<f64> {
    mean(part.iter().zip(whole).filter(|(_, w)| **w > 0.0).map(|(p, w)| p / w))
}

/// As [`mean_ratio`] of the roots.
fn root_ratio(part: &[f64], whole: &[f64]) -> Option<f64> {
    mean(part.iter().zip(whole).filter(|(_, w)| **w > 0.0).map(|(p, w)| (p / w).sqrt()))
}
