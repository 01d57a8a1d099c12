//! The model's and the spectral decoupling's settings, with their presets and their checks.
//!
//! Symbols: `d` model width, `f` expert hidden width, `E` routed experts, `K` experts a token, `k` common rank.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::linalg::MAX_COLUMNS;
pub use crate::ops::Score;

/// Shape of a decoder-only Mixture-of-Experts language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Number of distinct tokens; 256 for bytes.
    pub vocab: usize,
    /// Model width *d*.
    pub d_model: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads` (grouped-query attention).
    pub kv_heads: usize,
    /// Width of one head; even, because RoPE turns pairs.
    pub head_dim: usize,
    /// RoPE base frequency.
    pub rope_theta: f32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Whether the output head is the embedding, transposed.
    pub tied_head: bool,
    /// The Mixture-of-Experts layer.
    pub moe: MoeConfig,
}

/// Which experts a token visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// The `top_k` experts of highest score; ties go to the lower index. No token is dropped.
    TopK,
    /// All experts, weighted by their scores.
    Soft,
}

/// The always-on expert beside the routed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedGate {
    /// Added as it is (DeepSeek).
    None,
    /// Multiplied by `sigmoid(x w)` (Qwen).
    Sigmoid,
}

/// Settings of the Mixture-of-Experts layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MoeConfig {
    /// Routed experts *E*.
    pub experts: usize,
    /// Experts a token visits, *K*; with soft routing it must equal `experts`.
    pub top_k: usize,
    /// Hidden width *f* of a routed expert.
    pub d_expert: usize,
    /// Hidden width of the shared expert; 0 for none.
    pub d_shared: usize,
    /// Gate of the shared expert.
    pub shared_gate: SharedGate,
    /// Scores from logits.
    pub score: Score,
    /// Top-K or soft.
    pub routing: Routing,
    /// Whether the K combine weights are renormalised to sum 1 (Mixtral).
    pub renormalize: bool,
    /// Factor on the combine weights (DeepSeek's `routed_scaling_factor`).
    pub scaling: f32,
    /// Weight of the load-balance loss `E * sum_e f_e P_e`; 0 turns it off.
    pub balance_loss: f32,
    /// Weight of the router z-loss `mean(logsumexp(logits)^2)`; 0 turns it off.
    pub z_loss: f32,
    /// Step of the loss-free bias balancing (DeepSeek-V3): each step adds it, with the sign of the missing load,
    /// to a bias that only the choice of experts sees; 0 turns it off.
    pub balance_bias: f32,
}

/// What a basis refresh does with the parts of `W_u` that the turned basis has uncovered (METHOD: the paper is silent).
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

/// What activations and the weights in products are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// f16 for activations, their gradients, and copies of the matrices; sums, master weights, weight gradients and
    /// optimizer in f32, with a loss scale. Needs an adapter with `SHADER_F16`.
    F16,
}

/// An expert's three matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertMatrix {
    /// `W_gate: d x f`.
    Gate,
    /// `W_up: d x f`.
    Up,
    /// `W_down: f x d`.
    Down,
}

impl ExpertMatrix {
    /// All three, in the order of their names in a checkpoint.
    pub const ALL: [ExpertMatrix; 3] = [ExpertMatrix::Gate, ExpertMatrix::Up, ExpertMatrix::Down];

    /// `gate`, `up` or `down`.
    pub fn name(self) -> &'static str {
        match self {
            ExpertMatrix::Gate => "gate",
            ExpertMatrix::Up => "up",
            ExpertMatrix::Down => "down",
        }
    }
}

/// What `W_c` receives of the experts' common parts.
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
/// What the paper leaves open and is no setting here: `W_c` decays like every matrix, as `W_u` does; AdamW's moments stay
/// as they are when a refresh turns the basis; at the start `W_c` has the energy that the projection takes from the
/// experts, its singular values graded evenly from 1.25 to 0.75 of their mean, so that runs with and without decoupling
/// start alike and the leading directions are distinct. With k = min(m, n) all of the gradient is common, and `W_u` moves
/// by its decay alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpectralConfig {
    /// Whether the routed experts are decoupled at all.
    pub enabled: bool,
    /// Rank *k* of the shared bases U and V; 8 in the paper. 0 leaves plain MoE.
    pub rank: usize,
    /// Steps between two refreshes of the bases; 16 in the paper.
    pub refresh_every: u64,
    /// What a refresh does with `W_u` (the paper does not say).
    pub realign: Realign,
    /// Whether the optimizer's update is projected like the gradient was (the paper does not say).
    pub project_update: bool,
    /// Which of the experts' matrices are decoupled; all three in the paper.
    pub matrices: Vec<ExpertMatrix>,
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
    /// Sum or mean of the experts' common parts for `W_c` (the paper does not say). AdamW takes out the factor but for
    /// clipping, where the sum weighs more.
    pub common_gradient: CommonGradient,
    /// The paper's choices in one word: overrides `realign` with `none` and `project_update` with `false`.
    pub as_published: bool,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Preset::Tiny.model()
    }
}

impl Default for MoeConfig {
    fn default() -> Self {
        Self {
            experts: 8,
            top_k: 2,
            d_expert: 128,
            d_shared: 128,
            shared_gate: SharedGate::None,
            score: Score::Softmax,
            routing: Routing::TopK,
            renormalize: true,
            scaling: 1.0,
            balance_loss: 0.01,
            z_loss: 0.001,
            balance_bias: 0.0,
        }
    }
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
            gradient_form: GradientForm::Auto,
            oversampling: 8,
            power_iterations: 2,
            warm_start: true,
            common_gradient: CommonGradient::Sum,
            as_published: false,
        }
    }
}

/// Named model sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// d = 128, 4 layers, 8 experts top-2 and a shared one: minutes on a software driver.
    Tiny,
    /// d = 256, 4 layers, 8.0M parameters: the shape that the benchmarks use.
    Small,
    /// d = 512, 8 layers, 16 experts: for a GPU.
    Base,
}

impl Preset {
    /// The preset's model.
    pub fn model(self) -> ModelConfig {
        let (d, layers, heads, kv_heads, experts, f) = match self {
            Preset::Tiny => (128, 4, 4, 2, 8, 128),
            Preset::Small => (256, 4, 8, 4, 8, 256),
            Preset::Base => (512, 8, 8, 4, 16, 512),
        };
        ModelConfig {
            vocab: 256,
            d_model: d,
            layers,
            heads,
            kv_heads,
            head_dim: d / heads,
            rope_theta: 10_000.0,
            norm_eps: 1e-6,
            tied_head: true,
            moe: MoeConfig { experts, d_expert: f, d_shared: f, ..MoeConfig::default() },
        }
    }
}

fn require(ok: bool, field: &str, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(field, message())) }
}

/// Checks that `value` lies within `least` and `most`. The upper bounds lie above what any published model has, and so low that
/// no product of sizes leaves 64 bits: 2^12 layers of 2^10 experts of 2^16 x 2^17 elements are 2^55.
fn within(field: &str, value: u64, least: u64, most: u64) -> Result<()> {
    require(value >= least, field, || format!("expected at least {least}, got {value}"))?;
    require(value <= most, field, || format!("expected at most {most}, got {value}"))
}

/// Checks that `value` is a number of at least 0 and at most `most`.
fn weight(field: &str, value: f32, most: f32) -> Result<()> {
    require((0.0..=most).contains(&value), field, || {
        format!("expected a number >= 0 and at most {}, got {value}", f64::from(most))
    })
}

/// The widest embedding, hidden layer and so on; see [`within`].
const MAX_WIDTH: u64 = 1 << 16;
/// The widest hidden layer of an expert.
const MAX_HIDDEN: u64 = 1 << 17;

impl ModelConfig {
    /// Checks that each size is within its bounds and that the sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that is impossible, what it needs and what it is.
    pub fn validate(&self) -> Result<()> {
        within("model.vocab", self.vocab as u64, 1, 1 << 20)?;
        within("model.d_model", self.d_model as u64, 1, MAX_WIDTH)?;
        within("model.layers", self.layers as u64, 1, 1 << 12)?;
        within("model.heads", self.heads as u64, 1, 1 << 12)?;
        within("model.kv_heads", self.kv_heads as u64, 1, 1 << 12)?;
        within("model.head_dim", self.head_dim as u64, 1, u64::MAX)?;
        require(self.heads.is_multiple_of(self.kv_heads), "model.kv_heads", || {
            format!("expected a divisor of model.heads = {}, got {}", self.heads, self.kv_heads)
        })?;
        require(self.head_dim <= 128, "model.head_dim", || {
            format!("expected at most 128 (RoPE has the frequencies of 64 pairs), got {}", self.head_dim)
        })?;
        require(self.head_dim.is_multiple_of(2), "model.head_dim", || {
            format!("expected an even number (RoPE turns pairs), got {}", self.head_dim)
        })?;
        require((1.0..=1e12).contains(&self.rope_theta), "model.rope_theta", || {
            format!("expected a number of at least 1 and at most 1e12, got {}", self.rope_theta)
        })?;
        require(self.norm_eps > 0.0 && self.norm_eps <= 1.0, "model.norm_eps", || {
            format!("expected a number above 0 and at most 1, got {}", self.norm_eps)
        })?;
        self.moe.validate()
    }
}

impl MoeConfig {
    fn validate(&self) -> Result<()> {
        within("model.moe.experts", self.experts as u64, 1, 1024)?;
        within("model.moe.top_k", self.top_k as u64, 1, u64::MAX)?;
        within("model.moe.d_expert", self.d_expert as u64, 1, MAX_HIDDEN)?;
        within("model.moe.d_shared", self.d_shared as u64, 0, MAX_HIDDEN)?;
        require(self.top_k <= self.experts, "model.moe.top_k", || {
            format!("expected at most model.moe.experts = {}, got {}", self.experts, self.top_k)
        })?;
        require(self.routing == Routing::TopK || self.top_k == self.experts, "model.moe.top_k", || {
            format!("model.moe.routing = \"soft\" visits every expert: expected {}, got {}", self.experts, self.top_k)
        })?;
        within("model.moe.top_k", self.top_k as u64, 1, 64)?;
        weight("model.moe.scaling", self.scaling, 1e4)?;
        weight("model.moe.balance_loss", self.balance_loss, 1e4)?;
        weight("model.moe.z_loss", self.z_loss, 1e4)?;
        weight("model.moe.balance_bias", self.balance_bias, 1e4)
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

    /// Checks the settings against a model.
    ///
    /// # Errors
    /// [`Error::Config`] when a number is beyond its bound, when the rank does not fit the expert matrices or an interval is
    /// zero. Where nothing is decoupled only the bounds count.
    pub fn validate(&self, model: &ModelConfig) -> Result<()> {
        within("spectral.refresh_every", self.refresh_every, 0, MAX_STEPS)?;
        // 16 iterations separate a ratio of 1.1 to three digits; each is two products with every expert matrix.
        within("spectral.power_iterations", self.power_iterations as u64, 0, 100)?;
        within("spectral.rank", self.rank as u64, 0, MAX_WIDTH)?;
        within("spectral.oversampling", self.oversampling as u64, 0, MAX_WIDTH)?;
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

/// The most steps of a run, and of everything that is counted in steps: at a thousand steps a second it takes 30 years.
pub(crate) const MAX_STEPS: u64 = 1_000_000_000_000;
