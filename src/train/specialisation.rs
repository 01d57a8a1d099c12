//! How alike the experts of a trainer are, for its log and its summary.

use super::metrics::{Side, Similarity, SpectralMetrics};
use super::trainer::Trainer;
use crate::error::Result;
use crate::nn::config::ExpertMatrix;
use crate::nn::params::Group;
use crate::optim::spectral_metrics::{off_diagonal, similarities as pairwise};
use crate::optim::{MatrixMetrics, MetricOptions};
use crate::tensor::Tensor;

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
        mean(similarity.iter().filter(|s| s.side == Side::Hidden).map(|s| f(s).map(f64::from)))
    };
    let over = |f: fn(&MatrixMetrics) -> Option<f64>| mean(decoupled.iter().map(f));
    Ok(SpectralMetrics {
        similarity_merged: hidden(|s| Some(s.merged)),
        similarity_unique: hidden(|s| s.unique),
        drift_model: over(|m| Some(m.drift_model)),
        drift_hidden: over(|m| Some(m.drift_hidden)),
        common_gap: over(|m| Some(m.refresh?.common_gap).filter(|g| g.is_finite())),
        common_energy_beyond_rank: over(|m| Some(m.refresh?.common_energy_beyond_rank)),
        basis_angle: decoupled.iter().filter_map(|m| Some(m.refresh?.basis_angle as f32)).reduce(f32::max),
        common_gradient_share: over(|m| m.common_gradient_share),
    })
}

/// Mean of what is there; none when nothing is.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f32> {
    let (sum, count) = values.flatten().fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    (count > 0.0).then(|| (sum / count) as f32)
}

async fn all(trainer: &Trainer, decoupled: &[MatrixMetrics]) -> Result<Vec<Similarity>> {
    let mut all = Vec::new();
    for m in decoupled {
        let (Some(merged), Some(unique)) = (m.similarity_merged, m.similarity_unique) else { continue };
        let chance = m.similarity_chance;
        for (side, merged, unique, chance) in [
            (Side::Model, merged.model, unique.model, chance.model),
            (Side::Hidden, merged.hidden, unique.hidden, chance.hidden),
        ] {
            let unique = Some(unique as f32);
            let (merged, chance) = (merged as f32, chance as f32);
            all.push(Similarity { layer: m.layer, matrix: m.matrix, side, merged, unique, chance });
        }
    }
    for matrix in ExpertMatrix::ALL {
        let buffers = trainer.model().params().group(Group::Experts(matrix));
        if let (Some(buffers), false) = (buffers, decoupled.iter().any(|m| m.matrix == matrix)) {
            let mut first = 0;
            for (w, _) in &buffers.stacks {
                all.extend(plain(matrix, first, w).await?);
                first += w.dims()[0];
            }
        }
    }
    all.sort_by_key(|s| (s.layer, s.matrix, s.side != Side::Model));
    Ok(all)
}

/// Similarities of experts that are not decoupled, `w: [layers, E, m, n]`, the first layer being `first`.
async fn plain(matrix: ExpertMatrix, first: usize, w: &Tensor) -> Result<Vec<Similarity>> {
    let &[layers, experts, m, n] = w.dims() else { return Ok(Vec::new()) };
    if experts < 2 {
        return Ok(Vec::new());
    }
    // 1 % of the singular directions, rounded up (METHOD, section 6).
    let r = m.min(n).div_ceil(100);
    let (left, right) = match matrix {
        ExpertMatrix::Gate | ExpertMatrix::Up => (Side::Model, Side::Hidden),
        ExpertMatrix::Down => (Side::Hidden, Side::Model),
    };
    let mut all = Vec::new();
    for ((side, width), pairs) in [(left, m), (right, n)].into_iter().zip(pairwise(w, r)?) {
        let pairs: Vec<f64> = pairs.to_f32().await?.into_iter().map(f64::from).collect();
        for layer in 0..layers {
            let overlap = off_diagonal(&pairs[layer * experts * experts..(layer + 1) * experts * experts], experts);
            let merged = overlap / r as f64;
            let chance = r as f32 / width as f32;
            all.push(Similarity { layer: first + layer, matrix, side, merged: merged as f32, unique: None, chance });
        }
    }
    Ok(all)
}
