//! The findings on tokens: activations, Jacobians, routed PCA and load.

use serde::{Deserialize, Serialize};

use super::{KeptPairs, Pairs};
use crate::linalg::statistics::mean;
use crate::nn::config::ExpertMatrix;

/// How tokens use the singular directions of one expert's matrix (METHOD §6, figure 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Activations {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// The expert.
    pub expert: usize,
    /// Tokens routed to it.
    pub tokens: usize,
    /// `|x.v| / |x|` beyond which a direction counts as active.
    pub threshold: f64,
    /// Share of tokens that use each direction, by falling singular value. Empty, as the next two, for one of many
    /// experts: see [`ActivationMeans`].
    pub ratio: Vec<Option<f64>>,
    /// Share of the input's energy along each direction.
    pub input_energy: Vec<Option<f64>>,
    /// Share of the output's energy that each direction carries.
    pub output_energy: Vec<Option<f64>>,
    /// Relative change of the projections when the tokens of a sequence are permuted, for the top part.
    pub shuffle_top: Option<f64>,
    /// That change for the tail.
    pub shuffle_tail: Option<f64>,
    /// That change for random directions in place of the singular ones.
    #[serde(default)]
    pub shuffle_control: Option<f64>,
    /// The mean of `ratio` that tokens of random direction have.
    pub null: Option<f64>,
    /// The mean of `ratio` for random directions in place of the singular ones.
    pub control: Option<f64>,
}

/// Curves of [`Activations`], means over a layer's experts: what is kept of many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ActivationMeans {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// How many experts had tokens.
    pub experts: usize,
    /// Share of tokens that use each direction.
    pub ratio: Vec<Option<f64>>,
    /// Share of the input's energy along each direction.
    pub input_energy: Vec<Option<f64>>,
    /// Share of the output's energy that each direction carries.
    pub output_energy: Vec<Option<f64>>,
}

/// Experts as functions: their Jacobians at the layer's input (METHOD §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Jacobians {
    /// The layer.
    pub layer: usize,
    /// Tokens at which they were taken.
    pub tokens: usize,
    /// The position of each of them in its window, from 0.
    #[serde(default)]
    pub positions: Vec<usize>,
    /// Tokens of a window; 0 where that is not known.
    #[serde(default)]
    pub window: usize,
    /// Sources of text that they come from; 0 where that is not known.
    #[serde(default)]
    pub sources: usize,
    /// Probes for a token; none where Jacobians are exact.
    pub probes: Option<usize>,
    /// Mean over tokens of the cosine of two experts' Jacobians.
    pub mean_of_cosines: KeptPairs,
    /// Cosine of the mean Jacobians.
    pub cosine_of_means: KeptPairs,
    /// Mean of `mean_of_cosines` over pairs.
    pub mean_offdiag: Option<f64>,
    /// Standard deviation of `mean_of_cosines` over pairs.
    #[serde(default)]
    pub spread: Option<f64>,
    /// Mean of `cosine_of_means` over pairs.
    pub means_offdiag: Option<f64>,
    /// Singular values of each expert's exact Jacobian, mean over all the tokens; empty where Jacobians are probed. Of
    /// many experts there is only their mean.
    pub singular_values: Vec<Vec<f64>>,
    /// The mean over experts of those, each over its expert's largest, where they are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean_spectrum: Vec<f64>,
    /// Effective rank of each expert's Jacobian, mean over the same tokens.
    pub effective_rank: Vec<Option<f64>>,
    /// As [`Jacobians::relative_spectrum`], of experts with Gaussian matrices of the same norms, at the same tokens;
    /// empty where there are no spectra.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spectrum_control: Vec<f64>,
    /// The mean effective rank of those.
    #[serde(default)]
    pub effective_rank_control: Option<f64>,
    /// Expected cosine of independent Jacobians: 0.
    pub null: f64,
    /// `mean_offdiag` of experts with Gaussian matrices of the same norms, at the same tokens.
    pub control: Option<f64>,
    /// Standard deviation of that control over its pairs.
    #[serde(default)]
    pub control_spread: Option<f64>,
}

impl Jacobians {
    /// Mean over experts of the singular values, each over its expert's largest.
    pub fn relative_spectrum(&self) -> Vec<f64> {
        if self.singular_values.is_empty() {
            return self.mean_spectrum.clone();
        }
        mean_relative(&self.singular_values)
    }
}

/// The mean over matrices of their singular values, each over its matrix's largest.
pub(in crate::analysis) fn mean_relative(values: &[Vec<f64>]) -> Vec<f64> {
    let relative = |s: &Vec<f64>, j: usize| Some(s.get(j)? / s.first().filter(|first| **first > 0.0)?);
    let of = |j: usize| mean(values.iter().filter_map(|s| relative(s, j)));
    // Matrices without a value come last; where none has one the curve ends.
    (0..values.iter().map(Vec::len).max().unwrap_or(0)).map_while(of).collect()
}

/// Principal components of the tokens that each expert gets (METHOD §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RoutedPca {
    /// The layer.
    pub layer: usize,
    /// Dimensions of the compared subspaces.
    pub r: usize,
    /// Tokens of each expert.
    pub tokens: Vec<usize>,
    /// Share of the variance in the leading r components.
    pub explained_variance: Vec<Option<f64>>,
    /// `(sum l)^2 / sum l^2`.
    pub participation_ratio: Vec<Option<f64>>,
    /// `exp(entropy(l / sum l))`.
    pub effective_rank: Vec<Option<f64>>,
    /// Similarity of the subspaces, as for weights.
    pub similarity: KeptPairs,
    /// Geodesic distances `|t|_2`.
    pub geodesic: KeptPairs,
    /// Chordal distances `|sin t|_2`.
    pub chordal: KeptPairs,
    /// Projection distances `sin t_max`.
    pub projection: KeptPairs,
    /// Mean geodesic distance over pairs, over its largest value `sqrt(r) pi / 2`.
    pub mean_geodesic: Option<f64>,
    /// Mean similarity over pairs.
    pub mean_offdiag: Option<f64>,
    /// Standard deviation of the similarity over pairs.
    #[serde(default)]
    pub spread: Option<f64>,
    /// `r / d`.
    pub null: f64,
    /// `mean_offdiag` of random groups of tokens of the same sizes.
    pub control: Option<f64>,
    /// Standard deviation of the control over its pairs.
    #[serde(default)]
    pub control_spread: Option<f64>,
    /// `mean_geodesic` of those groups.
    pub control_geodesic: Option<f64>,
}

/// How the tokens of one layer spread over its experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Load {
    /// The layer.
    pub layer: usize,
    /// Share of routed tokens of each expert.
    pub share: Vec<f64>,
    /// Experts without a token.
    pub dead: usize,
    /// `-sum f ln f`, in nats.
    pub entropy: f64,
    /// Standard deviation over mean.
    pub variation: f64,
    /// `E max f - 1`.
    pub max_violation: f64,
    /// Names of the sources (files or folders) of the tokens.
    pub sources: Vec<String>,
    /// Share of each source's routed tokens that each expert gets: sources by experts.
    pub by_source: Pairs,
    /// Mutual information of source and expert, in nats.
    pub mutual_information: Option<f64>,
    /// Over `ln min(sources, E)`.
    pub normalised_information: Option<f64>,
    /// The value that independent source and expert give by sampling alone: `(S - 1)(E - K) / 2N`.
    pub null: Option<f64>,
    /// The mutual information with the sources permuted among tokens, mean over several permutations.
    pub control: Option<f64>,
    /// Standard deviation over those permutations.
    #[serde(default)]
    pub control_spread: Option<f64>,
}
