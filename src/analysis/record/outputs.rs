//! The findings on what experts add to the output of their layer.

use serde::{Deserialize, Serialize};

use super::KeptPairs;

/// Measures of what the experts of one layer add to its output, and how alike that is (METHOD §7).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Outputs {
    /// The layer.
    pub layer: usize,
    /// Tokens that chose each expert.
    pub tokens: Vec<usize>,
    /// Mean over an expert's tokens of its weight times the norm of its output: the saliency of REAP.
    pub saliency: Vec<Option<f64>>,
    /// Mean over an expert's tokens of its weight.
    pub weight: Vec<Option<f64>>,
    /// Mean over an expert's tokens of the norm of its output.
    pub norm: Vec<Option<f64>>,
    /// Mean over all choices of weight times norm: the saliency of each expert if it did not matter which one is chosen.
    pub null_saliency: Option<f64>,
    /// Standard deviation of the saliency over the experts that have tokens.
    pub saliency_spread: Option<f64>,
    /// That deviation if the choices were dealt to the experts at random, to each as many as it has.
    pub null_saliency_spread: Option<f64>,
    /// Mean over tokens of the squared norm of the weighted sum of the routed experts.
    pub routed_energy: Option<f64>,
    /// Mean over tokens of the squared norm of the shared expert's output, its gate applied; none without such an expert.
    pub shared_energy: Option<f64>,
    /// `shared_energy` over the sum of both.
    pub shared_share: Option<f64>,
    /// The share of the shared expert in the hidden units that a token meets.
    pub null_shared_share: Option<f64>,
    /// Tokens, the same ones for all experts, at which outputs were compared.
    pub compared: usize,
    /// Mean over those tokens of the cosine of two experts' outputs.
    pub cosine: KeptPairs,
    /// Mean of `cosine` over pairs.
    pub mean_cosine: Option<f64>,
    /// Standard deviation of `cosine` over pairs.
    pub cosine_spread: Option<f64>,
    /// Expected cosine of independent outputs: 0.
    pub null_cosine: f64,
    /// `mean_cosine` of a few experts with Gaussian matrices of the same norms, at the same tokens.
    pub cosine_control: Option<f64>,
    /// Standard deviation of that control over its pairs.
    pub cosine_control_spread: Option<f64>,
}

impl Outputs {
    /// A saliency, or a deviation of saliencies, over the mean over all choices; none where that is zero or not known.
    pub fn over_mean(&self, saliency: Option<f64>) -> Option<f64> {
        let known = |x: Option<f64>| x.filter(|x| x.is_finite());
        Some(known(saliency)? / known(self.null_saliency).filter(|mean| *mean > 0.0)?)
    }

    /// The saliency of each expert over the mean over all choices.
    pub fn relative_saliency(&self) -> Vec<Option<f64>> {
        self.saliency.iter().map(|&x| self.over_mean(x)).collect()
    }
}
