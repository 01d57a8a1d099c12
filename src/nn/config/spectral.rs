//! The settings of the spectral decoupling, with their checks.

use serde::{Deserialize, Serialize};

use super::attention::listed;
use super::bounds::{MAX_STEPS, MAX_WIDTH, require, within};
use super::model::{ExpertMatrix, ModelConfig};
use crate::error::Result;
use crate::linalg::MAX_COLUMNS;

/// The treatment, at a basis refresh, of the parts of `W_u` that the turned basis has uncovered (METHOD: the paper is silent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Realign {
    /// Nothing, as published.
    None,
    /// `W_u,i` is projected back into the double orthogonal complement.
    Project,
    /// As `project`, and the experts' mean of the removed parts is added to `W_c`, so that the function changes least.
    Absorb,
}

/// How the gradient is split; both forms agree to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientForm {
    /// Direct above `T_e = 1.33 m n / (m + n)` routed tokens per expert and step, token-space below.
    Auto,
    /// Skinny products with the finished weight gradient.
    Direct,
    /// Projections of the activations and output gradients before the weight-gradient product.
    TokenSpace,
}

/// How the experts' common parts become the gradient of `W_c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommonGradient {
    /// Their sum: the chain rule's gradient, projected.
    Sum,
    /// Their mean.
    Mean,
}

/// Settings of the spectral decoupling (SD-MoE, arXiv 2602.12556).
///
/// The paper leaves more open, which is no setting here: `W_c` decays like every matrix, as `W_u` does; the update rule's moments stay
/// as they are when a refresh turns the basis; at the start `W_c` has the energy that the projection takes from the
/// experts, its singular values graded evenly from 1.25 to 0.75 of their mean, so that runs with and without decoupling
/// start alike and the leading directions are distinct. With k = min(m, n) all of the gradient is common, and `W_u` moves
/// by its decay alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SpectralConfig {
    /// Whether the routed experts are decoupled at all.
    pub enabled: bool,
    /// Rank *k* of the shared bases U and V; 8 in the paper. 0 leaves plain MoE.
    pub rank: usize,
    /// Steps between two refreshes of the bases; 16 in the paper.
    pub refresh_every: u64,
    /// The treatment of `W_u` at a refresh (the paper does not say).
    pub realign: Realign,
    /// Whether the optimizer's update is projected like the gradient was (the paper does not say).
    pub project_update: bool,
    /// Which of the experts' matrices are decoupled; all three in the paper.
    pub matrices: Vec<ExpertMatrix>,
    /// The numbers of the layers whose experts are decoupled, in ascending order; empty for all that have experts. Those of the
    /// others train as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Which form of the gradient split runs. The forms agree to rounding; the paper describes the direct one.
    pub gradient_form: GradientForm,
    /// Oversampling *p* of the randomized SVD (the paper does not say how it finds U and V). Nothing is oversampled where
    /// min(m, n) <= 64: the SVD is then the full one.
    pub oversampling: usize,
    /// Power iterations *q* of the randomized SVD (the paper does not say); one less where it starts from the last V, whose 16
    /// steps of training one iteration makes good: singular values to 2e-5 where `sigma_k / sigma_(k+1)` is 1.34.
    pub power_iterations: usize,
    /// Whether a refresh starts its sketch from the last V (the paper does not say). Without it successive bases of a
    /// spectrum without gaps are less alike.
    pub warm_start: bool,
    /// Sum or mean of the experts' common parts for `W_c` (the paper does not say). AdamW and Muon take out the factor but for
    /// clipping, where the sum weighs more.
    pub common_gradient: CommonGradient,
    /// The paper's choices in one word: overrides `realign` with `none` and `project_update` with `false`.
    pub as_published: bool,
}

impl Default for SpectralConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            rank: 8,
            refresh_every: 16,
            realign: Realign::Absorb,
            project_update: true,
            matrices: ExpertMatrix::ALL.to_vec(),
            layers: Vec::new(),
            gradient_form: GradientForm::Auto,
            oversampling: 8,
            power_iterations: 2,
            warm_start: true,
            common_gradient: CommonGradient::Sum,
            as_published: false,
        }
    }
}

impl SpectralConfig {
    /// The settings that hold: `as_published` applied.
    pub fn resolved(&self) -> Self {
        let mut c = self.clone();
        if c.as_published {
            c.realign = Realign::None;
            c.project_update = false;
        }
        c
    }

    /// Whether there is anything to decouple.
    pub fn decouples(&self) -> bool {
        self.enabled && self.rank > 0
    }

    /// Whether `matrix` is decoupled.
    pub fn covers(&self, matrix: ExpertMatrix) -> bool {
        self.decouples() && self.matrices.contains(&matrix)
    }

    /// Whether the experts of the layer of that number are decoupled.
    pub fn covers_layer(&self, layer: usize) -> bool {
        self.decouples() && (self.layers.is_empty() || self.layers.contains(&layer))
    }

    /// Checks the settings against a model.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a number is beyond its bound, when the rank does not fit the expert matrices or an interval is
    /// zero. Where nothing is decoupled only the bounds count.
    pub fn validate(&self, model: &ModelConfig) -> Result<()> {
        within("spectral.refresh_every", self.refresh_every, 0, MAX_STEPS)?;
        // 16 iterations separate a ratio of 1.1 to three digits; each is two products with every expert matrix.
        within("spectral.power_iterations", self.power_iterations as u64, 0, 100)?;
        within("spectral.rank", self.rank as u64, 0, MAX_WIDTH)?;
        within("spectral.oversampling", self.oversampling as u64, 0, MAX_WIDTH)?;
        listed("spectral.layers", &self.layers, model.layers)?;
        let dense = self.layers.iter().find(|layer| model.dense_layers.contains(layer));
        require(dense.is_none(), "spectral.layers", || {
            format!("expected layers with experts, got {}, which is dense", dense.copied().unwrap_or_default())
        })?;
        if !ExpertMatrix::ALL.into_iter().any(|m| self.covers(m)) {
            return Ok(());
        }
        let limit = model.d_model.min(model.moe.d_expert);
        require(self.rank <= limit, "spectral.rank", || {
            format!("expected at most min(d_model, d_expert) = {limit}, got {}", self.rank)
        })?;
        let sketched = limit > MAX_COLUMNS;
        require(!sketched || self.rank <= MAX_COLUMNS, "spectral.rank", || {
            format!("expected at most {MAX_COLUMNS} where min(d_model, d_expert) is more, got {}", self.rank)
        })?;
        require(!sketched || self.rank + self.oversampling <= MAX_COLUMNS, "spectral.oversampling", || {
            format!("expected at most {MAX_COLUMNS} with the rank, {}, got {}", self.rank, self.oversampling)
        })?;
        within("spectral.refresh_every", self.refresh_every, 1, MAX_STEPS)
    }
}
