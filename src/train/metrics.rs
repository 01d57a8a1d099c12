//! The reports of a run's steps: the lines of `metrics.jsonl`.
//!
//! Losses are in nats per token, a byte where the run has no tokenizer. A field that is not there was not measured at that step.

use serde::{Deserialize, Serialize};

use crate::nn::config::ExpertMatrix;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Cross-entropy on the training batch.
    pub loss: f32,
    /// Load-balance and z-loss, weighted, summed over layers.
    pub aux_loss: f32,
    /// Learning rate.
    pub lr: f32,
    /// Global norm of what the parameters receive, before clipping; 0 for a step that the loss scale has skipped.
    pub grad_norm: f32,
    /// In mixed precision the loss scale of this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// In mixed precision the steps up to this one that overflowed and were skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u32>,
    /// Bytes trained on per second, over the last stretch of steps of half a second or more; validation, spectral figures,
    /// checkpoints and steps that waited for kernels to be compiled are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Cross-entropy on the held-out part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f32>,
    /// Largest load of an expert over the even load, less 1; the worst layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_max_violation: Option<f32>,
    /// Experts without a token, over all layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_experts: Option<u32>,
    /// The entropy of the experts' load over `ln E`, of the most uneven layer: 1 is even, `ln K / ln E` is K experts that get
    /// every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_entropy: Option<f32>,
    /// The spectral block.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub spectral: Option<SpectralMetrics>,
}

/// The spectral block of a line: means over layers and matrices, unless said otherwise. Without spectral decoupling only
/// `similarity_merged` is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SpectralMetrics {
    /// Hidden-side top-r similarity of the merged experts `W_i`, mean over pairs; none with a single expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_merged: Option<f32>,
    /// The similarity of `W_u,i`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_unique: Option<f32>,
    /// Share of `W_u,i` inside the common basis on the model side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_model: Option<f32>,
    /// The similarity on the hidden side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_hidden: Option<f32>,
    /// sigma_k / sigma_{k+1} of `W_c` at the last refresh: the median over layers and matrices, as a mean of ratios is that
    /// of the largest; none where half of them or more are infinite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_gap: Option<f32>,
    /// Share of the energy of `W_c` beyond rank k at the last refresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_energy_beyond_rank: Option<f32>,
    /// Largest angle between the last two bases, in radians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis_angle: Option<f32>,
    /// Share of the gradient's energy in the common part at the last refresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_gradient_share: Option<f32>,
}

/// A side of an expert's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Width d: input of gate and up, output of down.
    Model,
    /// Width f: the other one.
    Hidden,
}

/// Mean pairwise similarity of the experts of one layer, for one matrix and side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Similarity {
    /// The layer, from 0.
    pub layer: usize,
    /// The matrix.
    pub matrix: ExpertMatrix,
    /// The side.
    pub side: Side,
    /// The similarity of the merged experts `W_i`.
    pub merged: f32,
    /// Its standard deviation over pairs; none of a single pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_spread: Option<f32>,
    /// The similarity of the unique parts `W_u,i`; none for a matrix that is not decoupled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<f32>,
    /// Its standard deviation over pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_spread: Option<f32>,
    /// The similarity of random subspaces: r over the side's width.
    pub chance: f32,
}

#[cfg(all(test, feature = "files"))]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_what_was_measured_and_nothing_else() {
        let mut line = StepMetrics { step: 3, loss: 2.5, ..StepMetrics::default() };
        let short = r#"{"step":3,"loss":2.5,"aux_loss":0.0,"lr":0.0,"grad_norm":0.0}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), short);
        line.spectral = Some(SpectralMetrics { basis_angle: Some(0.25), ..SpectralMetrics::default() });
        line.dead_experts = Some(1);
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.ends_with(r#""dead_experts":1,"basis_angle":0.25}"#), "{text}");
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), line);
        // Read back, a block of which nothing is there is an empty one.
        assert_eq!(
            serde_json::from_str::<StepMetrics>(short).unwrap().spectral.unwrap_or_default(),
            Default::default()
        );
    }
}
