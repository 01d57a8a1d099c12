//! The findings of an analysis: the content of `analysis.json`.
//!
//! Every similarity stands beside its `null`, the value that random subspaces of the same sizes would have, and its
//! `control`, what the same measurement gives where there is nothing to find (matched random matrices, random groups of
//! tokens of the same sizes). What is undefined (an expert without tokens, too few tokens for a subspace) is `None`, in
//! JSON `null`, never NaN.

mod outputs;
mod pruning;
mod tokens;
mod weights;

use serde::{Deserialize, Serialize};

pub use super::pairs::{KeptPairs, Pairs, Reduced};
use crate::train::warnings::Warning;

pub use outputs::Outputs;
pub use pruning::{PrunedLayer, Pruning, PruningStep, Redundant};
pub(super) use tokens::mean_relative;
pub use tokens::{ActivationMeans, Activations, Jacobians, Load, RoutedPca};
pub use weights::{Decoupling, Gates, Similarity, Spectrum, SpectrumControl, SpectrumOverExperts};

/// Everything that one analysis found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Analysis {
    /// The model that was analysed.
    pub target: Target,
    /// How.
    pub settings: Settings,
    /// How much of it.
    pub coverage: Coverage,
    /// Subspaces compared between experts.
    pub similarity: Vec<Similarity>,
    /// Singular spectra.
    pub spectra: Vec<Spectrum>,
    /// The spectra of random matrices of the same sizes, one for each kind and size.
    pub spectra_controls: Vec<SpectrumControl>,
    /// The experts' spectra together, where there are too many to keep each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spectra_over_experts: Vec<SpectrumOverExperts>,
    /// Alignment of the router with the experts.
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
    /// Measures of what experts add to the output of their layer.
    pub outputs: Vec<Outputs>,
    /// Which experts are needed least, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pruning: Option<Pruning>,
    /// Drift of decoupled experts out of their complement, and the share of the gradient that is common.
    pub decoupling: Vec<Decoupling>,
    /// The run's curves, where the target is a run.
    pub training: Option<Training>,
}

/// The model that was analysed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
#[serde(default)]
pub struct Coverage {
    /// Signs of experts that are not in this record, a sentence each; empty where it has all.
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
#[non_exhaustive]
#[serde(default)]
pub struct OtherStack {
    /// The words before `layers` in its tensors' names.
    pub name: String,
    /// The folder of its report, within that of this one.
    pub folder: String,
}

/// The matrices or activations that a subspace belongs to.
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

/// A run's curves: one value a step, `None` where it was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Training {
    /// Steps, from 1.
    pub step: Vec<u64>,
    /// Training loss, nats per token: a byte where the run has no tokenizer.
    pub loss: Vec<Option<f64>>,
    /// Validation loss, as the training loss.
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
    /// The similarity of random subspaces: the mean of `r / f` over layers and matrices.
    pub null_similarity: Option<f64>,
    /// The drift of random matrices on the model side: `sqrt(k / d)`.
    pub null_drift_model: Option<f64>,
    /// On the hidden side: `sqrt(k / f)`.
    pub null_drift_hidden: Option<f64>,
    /// Doubts about the run's settings and figures.
    pub warnings: Vec<Warning>,
}
