//! How alike the experts of a trainer are, for its log and its summary.

use super::metrics::{Side, Similarity, SpectralMetrics};
use super::trainer::Trainer;
use crate::error::Result;
use crate::linalg::statistics::{mean, median};
use crate::nn::config::ExpertMatrix;
use crate::nn::params::Group;
use crate::optim::spectral::similarity::{PendingSimilarity, SidePairs, leading, similarity_chance};
use crate::optim::{MatrixMetrics, MetricOptions, SideSimilarity};
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
    let is_plain = |matrix, layer| !decoupled.iter().any(|m| (m.matrix, m.layer) == (matrix, layer));
    for stack in MergedStack::all(trainer) {
        if !stack.layers.iter().any(|&layer| is_plain(stack.matrix, layer)) {
            continue;
        }
        let Some(pending) = PendingSimilarity::start(stack.matrix, stack.w, stack.subspace)? else { continue };
        for (merged, &layer) in pending.read().await?.into_iter().zip(&stack.layers) {
            if is_plain(stack.matrix, layer) {
                all.extend(by_side(layer, stack.matrix, merged, None, stack.chance));
            }
        }
    }
    all.sort_by_key(|s| (s.layer, s.matrix, s.side != Side::Model));
    Ok(all)
}

/// The merged experts of one kind in some layers.
struct MergedStack<'a> {
    matrix: ExpertMatrix,
    /// `[layers, E, m, n]`.
    w: &'a Tensor,
    /// The numbers of the layers in the model.
    layers: Vec<usize>,
    /// Directions that are compared.
    subspace: usize,
    chance: SideSimilarity,
}

impl<'a> MergedStack<'a> {
    /// All experts of the model.
    fn all(trainer: &'a Trainer) -> Vec<Self> {
        let params = trainer.model().params();
        let mut all = Vec::new();
        for matrix in ExpertMatrix::ALL {
            let mut first = 0;
            for (w, _) in params.group(Group::Experts(matrix)).into_iter().flat_map(|buffers| &buffers.stacks) {
                let &[count, _, m, n] = w.dims() else { continue };
                let layers = (first..first + count).map(|i| params.expert_layer(i)).collect();
                let subspace = leading(m, n);
                all.push(Self { matrix, w, layers, subspace, chance: similarity_chance(matrix, m, n, subspace) });
                first += count;
            }
        }
        all
    }
}

/// The similarity of each pair of a layer's experts, for one matrix and side.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PairSimilarity {
    /// The layer, from 0.
    pub layer: usize,
    /// The matrix.
    pub matrix: ExpertMatrix,
    /// The side.
    pub side: Side,
    /// Similarity of the merged experts, `[E, E]`, symmetric.
    pub merged: Vec<f32>,
    /// Similarity of the `W_u,i`, where they are decoupled.
    pub unique: Option<Vec<f32>>,
    /// Similarity that random subspaces have.
    pub chance: f32,
}

/// Returns the similarity of each pair of experts in each layer, matrix and side; nothing with a single expert.
///
/// # Errors
/// [`crate::Error::Device`].
pub async fn pair_similarities(trainer: &Trainer) -> Result<Vec<PairSimilarity>> {
    let mut unique = Vec::new();
    for bank in trainer.optimizer().banks() {
        for stack in &bank.stacks {
            let w_u = stack.unique()?;
            let &[_, _, m, n] = w_u.dims() else { continue };
            let Some(pending) = PendingSimilarity::start(bank.matrix, &w_u, leading(m, n))? else { continue };
            let pairs = pending.read_pairs().await?;
            unique.extend(stack.numbers.iter().zip(pairs).map(|(&layer, pairs)| ((layer, bank.matrix), pairs)));
        }
    }
    let mut all = Vec::new();
    for stack in MergedStack::all(trainer) {
        let Some(pending) = PendingSimilarity::start(stack.matrix, stack.w, stack.subspace)? else { continue };
        for (merged, &layer) in pending.read_pairs().await?.into_iter().zip(&stack.layers) {
            let unique = unique.iter().find(|(key, _)| *key == (layer, stack.matrix)).map(|(_, pairs)| pairs);
            for side in [Side::Model, Side::Hidden] {
                let table = |pairs: &SidePairs| {
                    let of_side = if side == Side::Model { &pairs.model } else { &pairs.hidden };
                    of_side.iter().map(|&x| x as f32).collect()
                };
                let chance = if side == Side::Model { stack.chance.model } else { stack.chance.hidden };
                let (matrix, chance) = (stack.matrix, chance as f32);
                all.push(PairSimilarity {
                    layer,
                    matrix,
                    side,
                    merged: table(&merged),
                    unique: unique.map(table),
                    chance,
                });
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
