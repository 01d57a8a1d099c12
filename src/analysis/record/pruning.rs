//! The findings on which experts a model can do without.

use serde::{Deserialize, Serialize};

use crate::linalg::statistics::{deviation, mean};

/// The experts of each layer by how little they are needed, and the loss on the text without the least needed ones
/// (METHOD §7).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Pruning {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub top_k: usize,
    /// The layers in which experts were switched off, all at once.
    pub layers: Vec<PrunedLayer>,
    /// The loss with all experts, nats a token.
    pub loss: f64,
    /// The losses without some, by rising number.
    pub steps: Vec<PruningStep>,
    /// Numbers of experts that could not be switched off, and why, a sentence each.
    pub left_out: Vec<String>,
}

/// The experts of one layer, the least needed first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct PrunedLayer {
    /// The layer.
    pub layer: usize,
    /// By redundancy: of the two most aligned experts that are left the one with the lower saliency goes.
    pub redundancy: Vec<Redundant>,
    /// By saliency alone.
    pub saliency: Vec<usize>,
}

/// An expert that goes, and the one that stays for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Redundant {
    /// The expert.
    pub expert: usize,
    /// The expert that it is most aligned with, of those that stay longer: what it would be merged into. None for the
    /// last one, and for one whose Jacobian is zero.
    pub like: Option<usize>,
    /// The mean cosine of the Jacobians of both.
    pub alignment: Option<f64>,
    /// Its saliency over the mean over all choices; none without tokens.
    pub saliency: Option<f64>,
}

/// Losses on the text without some experts of each layer, nats a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct PruningStep {
    /// Experts of each layer that are switched off.
    pub off: usize,
    /// Without the most redundant.
    pub redundancy: f64,
    /// Without those of least saliency.
    pub saliency: f64,
    /// Without as many that were drawn at random, of each draw.
    pub random: Vec<f64>,
}

impl PruningStep {
    /// Mean of the random draws.
    pub fn random_mean(&self) -> Option<f64> {
        mean(self.random.iter().copied())
    }

    /// Their standard deviation.
    pub fn random_spread(&self) -> Option<f64> {
        deviation(&self.random)
    }

    /// The lowest and the highest of them.
    pub fn random_range(&self) -> Option<[f64; 2]> {
        let all = || self.random.iter().copied();
        Some([all().reduce(f64::min)?, all().reduce(f64::max)?])
    }
}

impl PrunedLayer {
    /// The experts that stay without the first `off` of `order`, rising.
    fn kept(order: impl Iterator<Item = usize>, off: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = order.skip(off).collect();
        kept.sort_unstable();
        kept
    }

    /// The experts that stay without the `off` most redundant, rising.
    pub fn kept_by_redundancy(&self, off: usize) -> Vec<usize> {
        Self::kept(self.redundancy.iter().map(|r| r.expert), off)
    }

    /// The experts that stay without the `off` of least saliency, rising.
    pub fn kept_by_saliency(&self, off: usize) -> Vec<usize> {
        Self::kept(self.saliency.iter().copied(), off)
    }
}
