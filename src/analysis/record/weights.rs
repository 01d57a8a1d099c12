//! The findings on weights and gradients: subspaces, spectra, the router's alignment, decoupling.

use serde::{Deserialize, Serialize};

use super::{KeptPairs, Of, Part};
use crate::nn::config::ExpertMatrix;
use crate::train::metrics::Side;

/// Principal similarity `|U_a^T U_b|_F^2 / r` between the experts of one layer (METHOD §6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Similarity {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// The side that the singular vectors live on.
    pub side: Side,
    /// The matrices or activations that are compared.
    pub of: Of,
    /// The part of the spectrum.
    pub part: Part,
    /// Dimensions of the subspaces.
    pub r: usize,
    /// Mean over pairs of different experts.
    pub mean_offdiag: Option<f64>,
    /// Standard deviation over those pairs; none for a single one.
    #[serde(default)]
    pub spread: Option<f64>,
    /// Mean over those pairs of the mean cosine of the principal angles.
    pub mean_cosine: Option<f64>,
    /// The largest over those pairs.
    pub max: Option<f64>,
    /// `r / m`: what random subspaces of the side's dimension m have.
    pub null: f64,
    /// `mean_offdiag` of Gaussian matrices of the same sizes.
    pub control: Option<f64>,
    /// Standard deviation of the control over its pairs, of which 8 matrices have 28, 16 have 120.
    #[serde(default)]
    pub control_spread: Option<f64>,
    /// Experts by experts (samples by samples for activations).
    pub pairs: KeptPairs,
}

/// The singular spectrum of one matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spectrum {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// The expert; none for the common matrix `W_c`.
    pub expert: Option<usize>,
    /// Weights, unique parts or gradients.
    pub of: Of,
    /// Share of `sum s^2` in the top part.
    pub energy_top: f64,
    /// `energy_top` of a random matrix of the same size.
    pub energy_top_control: Option<f64>,
    /// `|W|_F^2 / s_1^2`.
    pub stable_rank: f64,
    /// `stable_rank` of a random matrix of the same size.
    #[serde(default)]
    pub stable_rank_control: Option<f64>,
    /// `exp(-sum p ln p)` with `p = s^2 / sum s^2`; none unless all singular values are known.
    pub effective_rank: Option<f64>,
    /// `effective_rank` of a random matrix of the same size.
    #[serde(default)]
    pub effective_rank_control: Option<f64>,
    /// `|W|_F`.
    pub frobenius: f64,
    /// Falling; the leading tenth, or all. Empty for one of many experts: see [`SpectrumOverExperts`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub singular_values: Vec<f64>,
}

/// The singular spectrum of Gaussian matrices of one size: the control of the spectra of a kind of matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpectrumControl {
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// Rows, as stored.
    pub rows: usize,
    /// Columns, as stored.
    pub columns: usize,
    /// Matrices drawn.
    pub draws: usize,
    /// Singular values over the largest, mean over the draws; as many as of the matrices themselves.
    pub relative: Vec<f64>,
}

/// The singular values of a layer's experts, each over its expert's largest: what is kept of many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpectrumOverExperts {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// Weights, unique parts or gradients.
    pub of: Of,
    /// How many experts.
    pub experts: usize,
    /// The smallest of each direction.
    pub lowest: Vec<f64>,
    /// The median; of an even number the mean of the two in the middle.
    pub median: Vec<f64>,
    /// The largest.
    pub highest: Vec<f64>,
}

/// Alignment of router vectors with the leading input directions of experts (METHOD §6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gates {
    /// The layer.
    pub layer: usize,
    /// Dimensions of the bases.
    pub r: usize,
    /// `|V_i^T r_i|^2` for the unit router vector of expert i.
    pub own: Vec<Option<f64>>,
    /// `|V_j^T r_i|^2`: router vectors by experts.
    pub cross: KeptPairs,
    /// Own over the mean of the others, of each expert. A ratio of few directions has a skewed distribution: the median
    /// for random router vectors is not 1 but, for example, 0.73 (r = 2, d = 128, 8 experts).
    pub specificity: Vec<Option<f64>>,
    /// Mean of `own` over the mean of all alignments with other experts: 1 for random router vectors.
    #[serde(default)]
    pub mean_specificity: Option<f64>,
    /// Mean of `mean_specificity` over several draws of random router vectors.
    #[serde(default)]
    pub specificity_control: Option<f64>,
    /// Standard deviation of `mean_specificity` over those draws.
    #[serde(default)]
    pub specificity_control_spread: Option<f64>,
    /// With the leading directions of the layer's input, where data was given.
    pub data: Option<Vec<Option<f64>>>,
    /// `r / d`.
    pub null: f64,
    /// Standard deviation of `own` over experts.
    #[serde(default)]
    pub spread: Option<f64>,
    /// Mean of `own` for random router vectors.
    pub control: Option<f64>,
    /// Standard deviation over draws of the mean that as many random router vectors as there are experts have.
    #[serde(default)]
    pub control_spread: Option<f64>,
    /// `|R|_F^2 / |R|_2^2` of the router's matrix: in how many directions it tells tokens apart, about. None of a zero router.
    #[serde(default)]
    pub stable_rank: Option<f64>,
    /// The stable rank of a Gaussian matrix whose sizes are large: `d E / (sqrt d + sqrt E)^2`.
    #[serde(default)]
    pub stable_rank_null: Option<f64>,
    /// The mean stable rank of two random routers.
    #[serde(default)]
    pub stable_rank_control: Option<f64>,
}

/// How well decoupled experts stay decoupled (METHOD §5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decoupling {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// Mean over experts of the share of `W_u,i` inside the common basis, on the model side.
    pub drift_model: f64,
    /// On the hidden side.
    pub drift_hidden: f64,
    /// The drift that a random matrix of the model side's dimension has: `sqrt(k / m)`.
    pub null_model: f64,
    /// On the hidden side.
    pub null_hidden: f64,
    /// Share of the energy of `W_c` beyond rank k.
    pub energy_beyond_rank: Option<f64>,
    /// Share of the gradient's energy in the common part.
    pub common_gradient_share: Option<f64>,
    /// `1 - (1 - k/m)(1 - k/n)`: the share of a random gradient.
    pub null_gradient_share: f64,
}
