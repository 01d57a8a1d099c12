//! How alike the experts of a trainer are, for its log and its summary.

use super::metrics::{Side, Similarity, SpectralMetrics};
use super::trainer::Trainer;
use crate::error::Result;
use crate::linalg::statistics::{mean, median};
use crate::nn::config::ExpertMatrix;
use crate::nn::params::Group;
use crate::optim::spectral::similarity::{PendingSimilarity, leading, similarity_chance};
use crate::optim::{MatrixMetrics, MetricOptions, SideSimilarity};

/// Similarities of each layer, matrix and side: of the merged experts, and of `W_u` where they are decoupled.
///
/// # Errors
/// [`crate::Error::Device`].
pub async fn similarities(trainer: &Trainer) -> Result<Vec<Similarity>> {
    let decoupled = trainer.optimizer().metrics(MetricOptions::default())?.read().await?;
    all(trainer, &decoupled).await
}

/// The spectral block of a line of metrics.
///
/// # Errors
/// [`crate::Error::Device`].
pub async fn spectral_block(trainer: &Trainer) -> Result<SpectralMetrics> {
    let decoupled = trainer.optimizer().metrics(MetricOptions::default())?.read().await?;
    let similarity = all(trainer, &decoupled).await?;
    let hidden = |f: fn(&Similarity) -> Option<f32>| {
        mean(similarity.iter().filter(|s| s.side == Side::Hidden).filter_map(f).map(f64::from)).map(|x| x as f32)
    };
    let over = |f: fn(&MatrixMetrics) -> Option<f64>| mean(decoupled.iter().filter_map(f)).map(|x| x as f32);
    let gaps = decoupled.iter().filter_map(|m| Some(m.refresh?.common_gap));
    Ok(SpectralMetrics {
        similarity_merged: hidden(|s| Some(s.merged)),
        similarity_unique: hidden(|s| s.unique),
        drift_model: over(|m| Some(m.drift_model)),
        drift_hidden: over(|m| Some(m.drift_hidden)),
        common_gap: median(gaps).filter(|g| g.is_finite()).map(|g| g as f32),
        common_energy_beyond_rank: over(|m| Some(m.refresh?.common_energy_beyond_rank)),
        basis_angle: decoupled.iter().filter_map(|m| Some(m.refresh?.basis_angle as f32)).reduce(f32::max),
        common_gradient_share: over(|m| m.common_gradient_share),
    })
}

async fn all(trainer: &Trainer, decoupled: &[MatrixMetrics]) -> Result<Vec<Similarity>> {
    let mut all = Vec::new();
    for m in decoupled {
        let (Some(merged), Some(unique)) = (m.similarity_merged, m.similarity_unique) else { continue };
        all.extend(by_side(m.layer, m.matrix, merged, Some(unique), m.similarity_chance));
    }
    for matrix in ExpertMatrix::ALL {
        let buffers = trainer.model().params().group(Group::Experts(matrix));
        if let Some(buffers) = buffers {
            let (params, mut first) = (trainer.model().params(), 0);
            let plain = |i: usize| {
                let layer = params.expert_layer(i);
                !decoupled.iter().any(|m| (m.matrix, m.layer) == (matrix, layer))
            };
            for (w, _) in &buffers.stacks {
                let &[count, _, m, n] = w.dims() else { continue };
                if !(first..first + count).any(plain) {
                    first += count;
                    continue;
                }
                let r = leading(m, n);
                if let Some(pending) = PendingSimilarity::start(matrix, w, r)? {
                    let chance = similarity_chance(matrix, m, n, r);
                    let merged = pending.read().await?.into_iter().zip(first..).filter(|(_, i)| plain(*i));
                    all.extend(
                        merged.flat_map(|(merged, i)| by_side(params.expert_layer(i), matrix, merged, None, chance)),
                    );
                }
                first += count;
            }
        }
    }
    all.sort_by_key(|s| (s.layer, s.matrix, s.side != Side::Model));
    Ok(all)
}

/// The two lines of a layer's matrix.
fn by_side(
    layer: usize,
    matrix: ExpertMatrix,
    merged: SideSimilarity,
    unique: Option<SideSimilarity>,
    chance: SideSimilarity,
) -> [Similarity; 2] {
    let of = |side: Side, f: fn(SideSimilarity) -> f64| {
        let spread = |s: SideSimilarity| s.spread.map(|spread| spread[usize::from(side == Side::Hidden)] as f32);
        Similarity {
            layer,
            matrix,
            side,
            merged: f(merged) as f32,
            merged_spread: spread(merged),
            unique: unique.map(|u| f(u) as f32),
            unique_spread: unique.and_then(spread),
            chance: f(chance) as f32,
        }
    };
    [of(Side::Model, |s| s.model), of(Side::Hidden, |s| s.hidden)]
}
