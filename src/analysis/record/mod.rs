//! What an analysis found: the content of `analysis.json`.
//!
//! Every similarity stands beside its `null`, the value that random subspaces of the same sizes would have, and its
//! `control`, what the same measurement gives where there is nothing to find (matched random matrices, random groups of
//! tokens of the same sizes). What is undefined (an expert without tokens, too few tokens for a subspace) is `None`, in
//! JSON `null`, never NaN.

use serde::{Deserialize, Serialize};

pub use super::pairs::{KeptPairs, Pairs, Reduced};
use crate::linalg::statistics::mean;
use crate::nn::config::ExpertMatrix;
use crate::train::metrics::Side;
use crate::train::warnings::Warning;

/// Everything that one analysis found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Analysis {
    /// What was analysed.
    pub target: Target,
    /// How.
    pub settings: Settings,
    /// How much of it.
    pub coverage: Coverage,
    /// Subspaces compared between experts.
    pub similarity: Vec<Similarity>,
    /// Singular spectra.
    pub spectra: Vec<Spectrum>,
    /// What random matrices of the same sizes have, one for each kind and size.
    pub spectra_controls: Vec<SpectrumControl>,
    /// The experts' spectra together, where there are too many to keep each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spectra_over_experts: Vec<SpectrumOverExperts>,
    /// What the router follows.
    pub gates: Vec<Gates>,
    /// Which singular directions the tokens use.
    pub activations: Vec<Activations>,
    /// The experts' curves of that together, where there are too many to keep each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub activation_means: Vec<ActivationMeans>,
    /// Whether experts compute different functions.
    pub jacobians: Vec<Jacobians>,
    /// Where the tokens of each expert lie.
    pub routed_pca: Vec<RoutedPca>,
    /// Who gets how many tokens, from where.
    pub load: Vec<Load>,
    /// Drift of decoupled experts out of their complement, and the share of the gradient that is common.
    pub decoupling: Vec<Decoupling>,
    /// The run's curves, where the target is a run.
    pub training: Option<Training>,
}

/// What was analysed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    /// The name to show: the folder's or file's name.
    pub name: String,
    /// `run`, `checkpoint`, `hugging_face` or `safetensors`.
    pub kind: String,
    /// The family whose tensor names were found: `sdmoe`, `qwen2_moe`, `mixtral`, `olmoe`, `deepseek_v2`.
    pub family: String,
    /// The stack of layers, by what stands before `layers` in its tensors' names: `model`, `mtp`, or nothing.
    pub stack: String,
    /// Whether the experts are decoupled (`W_i = W_c + W_u,i`).
    pub spectral: bool,
    /// MoE layers found, by their numbers in the model.
    pub layers: Vec<usize>,
    /// Experts of a layer.
    pub experts: usize,
    /// Model width d.
    pub d_model: usize,
    /// Hidden width f of an expert.
    pub d_expert: usize,
    /// The step of the checkpoint, where known.
    pub step: Option<u64>,
}

/// How the analysis was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Share of the directions in the top subspace: 0.01.
    pub top: f64,
    /// Seed of sketches, probes and controls.
    pub seed: u64,
    /// Tokens looked at; 0 without data.
    pub tokens: usize,
    /// The data's path, if any.
    pub data: Option<String>,
    /// The adapter and its driver.
    pub adapter: String,
    /// The version of this program.
    pub version: String,
}

/// How much of the target was analysed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// What speaks for experts that are not in this record, a sentence each; empty where it has all.
    pub incomplete: Vec<String>,
    /// Other stacks of layers of the same checkpoint, each with a report of its own.
    pub other_stacks: Vec<OtherStack>,
    /// Expert matrices analysed.
    pub matrices: usize,
    /// Expert matrices found in this stack of layers.
    pub matrices_found: usize,
    /// Tensors whose names say that they are no experts' (attention, norms, embeddings): not analysed, expected.
    pub other_tensors: usize,
    /// Tensors with names that are not understood.
    pub unknown_tensors: Vec<String>,
}

/// A stack of layers that has a report of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherStack {
    /// What stands before `layers` in its tensors' names.
    pub name: String,
    /// The folder of its report, within that of this one.
    pub folder: String,
}

/// What a subspace belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The experts' weights; merged ones where experts are decoupled.
    Weights,
    /// `W_u,i` of decoupled experts.
    Unique,
    /// The experts' gradients.
    Gradients,
    /// Activations over samples of the data.
    Activations,
}

/// Which singular directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The leading r.
    Top,
    /// The rest.
    Tail,
}

/// Principal similarity `|U_a^T U_b|_F^2 / r` between the experts of one layer (METHOD §6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// The side that the singular vectors live on.
    pub side: Side,
    /// What is compared.
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
    /// The same of a random matrix of the same size.
    pub energy_top_control: Option<f64>,
    /// `|W|_F^2 / s_1^2`.
    pub stable_rank: f64,
    /// The same of a random matrix of the same size.
    #[serde(default)]
    pub stable_rank_control: Option<f64>,
    /// `exp(-sum p ln p)` with `p = s^2 / sum s^2`; none unless all singular values are known.
    pub effective_rank: Option<f64>,
    /// The same of a random matrix of the same size.
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
pub struct SpectrumOverExperts {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// Weights, unique parts or gradients.
    pub of: Of,
    /// How many experts.
    pub experts: usize,
    /// Of each direction the smallest.
    pub lowest: Vec<f64>,
    /// The median; of an even number the mean of the two in the middle.
    pub median: Vec<f64>,
    /// The largest.
    pub highest: Vec<f64>,
}

/// Alignment of router vectors with the leading input directions of experts (METHOD §6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// The layer.
    pub layer: usize,
    /// Dimensions of the bases.
    pub r: usize,
    /// `|V_i^T r_i|^2` for the unit router vector of expert i.
    pub own: Vec<Option<f64>>,
    /// `|V_j^T r_i|^2`: router vectors by experts.
    pub cross: KeptPairs,
    /// Own over the mean of the others, of each expert. A ratio of few directions has a skewed distribution: the median for
    /// random router vectors is not 1 but, for example, 0.73 (r = 2, d = 128, 8 experts).
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
}

/// How tokens use the singular directions of one expert's matrix (METHOD §6, figure 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Share of tokens that use each direction, by falling singular value. Empty, as the next two, for one of many experts:
    /// see [`ActivationMeans`].
    pub ratio: Vec<Option<f64>>,
    /// Share of the input's energy along each direction.
    pub input_energy: Vec<Option<f64>>,
    /// Share of the output's energy that each direction carries.
    pub output_energy: Vec<Option<f64>>,
    /// Relative change of the projections when the tokens of a sequence are permuted, for the top part.
    pub shuffle_top: Option<f64>,
    /// The same for the tail.
    pub shuffle_tail: Option<f64>,
    /// The same for random directions in place of the singular ones.
    #[serde(default)]
    pub shuffle_control: Option<f64>,
    /// The mean of `ratio` that tokens of random direction have.
    pub null: Option<f64>,
    /// The mean of `ratio` for random directions in place of the singular ones.
    pub control: Option<f64>,
}

/// Curves of [`Activations`], means over a layer's experts: what is kept of many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Singular values of each expert's exact Jacobian, mean over all the tokens; empty where Jacobians are probed. Of many
    /// experts there is only their mean.
    pub singular_values: Vec<Vec<f64>>,
    /// The mean over experts of those, each over its expert's largest, where they are not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean_spectrum: Vec<f64>,
    /// Effective rank of each expert's Jacobian, mean over the same tokens.
    pub effective_rank: Vec<Option<f64>>,
    /// As [`Jacobians::relative_spectrum`], of experts with Gaussian matrices of the same norms, at the same tokens; empty where
    /// there are no spectra.
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
pub(super) fn mean_relative(values: &[Vec<f64>]) -> Vec<f64> {
    let relative = |s: &Vec<f64>, j: usize| Some(s.get(j)? / s.first().filter(|first| **first > 0.0)?);
    let of = |j: usize| mean(values.iter().filter_map(|s| relative(s, j)));
    // Matrices without a value come last; where none has one the curve ends.
    (0..values.iter().map(Vec::len).max().unwrap_or(0)).map_while(of).collect()
}

/// Principal components of the tokens that each expert gets (METHOD §7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// What independent source and expert give by sampling alone: `(S - 1)(E - K) / 2N`.
    pub null: Option<f64>,
    /// The mutual information with the sources permuted among tokens, mean over several permutations.
    pub control: Option<f64>,
    /// Standard deviation over those permutations.
    #[serde(default)]
    pub control_spread: Option<f64>,
}

/// How well decoupled experts stay decoupled (METHOD §5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoupling {
    /// The layer.
    pub layer: usize,
    /// The kind of matrix.
    pub matrix: ExpertMatrix,
    /// Mean over experts of the share of `W_u,i` inside the common basis, on the model side.
    pub drift_model: f64,
    /// On the hidden side.
    pub drift_hidden: f64,
    /// What a random matrix of the model side's dimension has: `sqrt(k / m)`.
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

/// A run's curves: one value a step, `None` where it was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// Steps, from 1.
    pub step: Vec<u64>,
    /// Training loss, nats per byte.
    pub loss: Vec<Option<f64>>,
    /// Validation loss, nats per byte.
    pub val_loss: Vec<Option<f64>>,
    /// Hidden-side similarity of merged experts.
    pub similarity_merged: Vec<Option<f64>>,
    /// Hidden-side similarity of `W_u,i`.
    pub similarity_unique: Vec<Option<f64>>,
    /// Drift on the model side.
    pub drift_model: Vec<Option<f64>>,
    /// Drift on the hidden side.
    pub drift_hidden: Vec<Option<f64>>,
    /// `E max f - 1`, the worst layer.
    pub load_max_violation: Vec<Option<f64>>,
    /// What random subspaces have for the similarities: the mean of `r / f` over layers and matrices.
    pub null_similarity: Option<f64>,
    /// What random matrices have for the drift on the model side: `sqrt(k / d)`.
    pub null_drift_model: Option<f64>,
    /// On the hidden side: `sqrt(k / f)`.
    pub null_drift_hidden: Option<f64>,
    /// What is doubtful in the run's settings and figures.
    pub warnings: Vec<Warning>,
}
