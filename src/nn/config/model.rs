//! The model's settings, with their presets and their checks.

use serde::{Deserialize, Serialize};

use super::attention::{AttentionConfig, Sizes, listed};
use super::bounds::{MAX_HIDDEN, MAX_WIDTH, require, weight, within};
use crate::error::Result;
use crate::kernels::routing_groups::GroupScore;
use crate::ops::Score;

/// Shape of a decoder-only Mixture-of-Experts language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
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
    /// The layers whose feed-forward network is one SwiGLU for all tokens in place of experts, in ascending order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dense_layers: Vec<usize>,
    /// Hidden width of those networks; 0 where there are none.
    #[serde(skip_serializing_if = "is_default")]
    pub d_dense: usize,
    /// Attention beside the numbers above.
    #[serde(skip_serializing_if = "is_default")]
    pub attention: AttentionConfig,
    /// The Mixture-of-Experts layer.
    pub moe: MoeConfig,
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

/// The tokens over which the load-balance loss takes its means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceScope {
    /// Those of each layer by itself; the losses of the layers are added.
    #[default]
    Layer,
    /// Those of all layers together, as transformers has it, where `f_e` adds up to K and not to 1.
    /// [`Model`](crate::Model) adds this loss; a model of one's own that is made of these layers has none with it.
    Model,
}

/// Settings of the Mixture-of-Experts layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MoeConfig {
    /// Routed experts *E*.
    pub experts: usize,
    /// Experts a token visits, *K*: those of highest score, ties go to the lower index, and no token is dropped. As many as
    /// `experts` is soft routing: all of them, weighted by their scores.
    pub top_k: usize,
    /// Hidden width *f* of a routed expert.
    pub d_expert: usize,
    /// Hidden width of the shared expert; 0 for none.
    pub d_shared: usize,
    /// Gate of the shared expert.
    pub shared_gate: SharedGate,
    /// Scores from logits.
    pub score: Score,
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
    /// The tokens that `balance_loss` compares.
    #[serde(skip_serializing_if = "is_default")]
    pub balance_scope: BalanceScope,
    /// Whether the choice of experts has a bias although `balance_bias` is 0: a fixed one, from a checkpoint.
    #[serde(skip_serializing_if = "is_default")]
    pub choice_bias: bool,
    /// Groups of equally many successive experts, of which a token visits `groups_kept`; 1 for no groups.
    #[serde(skip_serializing_if = "is_one")]
    pub groups: usize,
    /// Groups in which a token's experts may lie.
    #[serde(skip_serializing_if = "is_one")]
    pub groups_kept: usize,
    /// The value of a group.
    #[serde(skip_serializing_if = "is_default")]
    pub group_score: GroupScore,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

/// The type in which activations and the weights in products are stored.
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
            renormalize: true,
            scaling: 1.0,
            balance_loss: 0.01,
            z_loss: 0.001,
            balance_bias: 0.0,
            balance_scope: BalanceScope::Layer,
            choice_bias: false,
            groups: 1,
            groups_kept: 1,
            group_score: GroupScore::Largest,
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
            dense_layers: Vec::new(),
            d_dense: 0,
            attention: AttentionConfig::default(),
            moe: MoeConfig { experts, d_expert: f, d_shared: f, ..MoeConfig::default() },
        }
    }
}

impl ModelConfig {
    /// Checks that each size is within its bounds and that the sizes fit each other.
    ///
    /// # Errors
    /// [`crate::Error::Config`] names the first setting that is impossible, what it needs and what it is.
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
        require(self.head_dim <= 256, "model.head_dim", || {
            format!("expected at most 256 (the widest head of attention), got {}", self.head_dim)
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
        listed("model.dense_layers", &self.dense_layers, self.layers)?;
        within("model.d_dense", self.d_dense as u64, u64::from(!self.dense_layers.is_empty()), MAX_HIDDEN)?;
        let &Self { layers, heads, kv_heads, head_dim, rope_theta, .. } = self;
        self.attention.validate(Sizes { layers, heads, kv_heads, head_dim, rope_theta })?;
        self.moe.validate()
    }

    /// Settings that all differ from the defaults, so that every one of them is written; no model that can be made.
    #[cfg(feature = "files")]
    pub(crate) fn with_every_setting() -> Self {
        let mut config = Preset::Tiny.model();
        (config.dense_layers, config.d_dense, config.attention) = (vec![0], 1, AttentionConfig::with_every_setting());
        let moe = &mut config.moe;
        (moe.balance_scope, moe.choice_bias) = (BalanceScope::Model, true);
        (moe.groups, moe.groups_kept, moe.group_score) = (2, 2, GroupScore::TwoLargest);
        config
    }

    /// The factor by which products that are added to the residual stream start smaller, `sqrt(2 layers)`.
    pub(crate) fn depth_scale(&self) -> f32 {
        (2.0 * self.layers as f32).sqrt()
    }

    /// The layers that have experts, in ascending order.
    pub fn moe_layers(&self) -> Vec<usize> {
        (0..self.layers).filter(|l| !self.dense_layers.contains(l)).collect()
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
        within("model.moe.top_k", self.top_k as u64, 1, 64)?;
        self.validate_groups()?;
        weight("model.moe.scaling", self.scaling, 1e4)?;
        weight("model.moe.balance_loss", self.balance_loss, 1e4)?;
        weight("model.moe.z_loss", self.z_loss, 1e4)?;
        weight("model.moe.balance_bias", self.balance_bias, 1e4)
    }

    fn validate_groups(&self) -> Result<()> {
        within("model.moe.groups", self.groups as u64, 1, 64)?;
        within("model.moe.groups_kept", self.groups_kept as u64, 1, self.groups as u64)?;
        require(self.experts.is_multiple_of(self.groups), "model.moe.groups", || {
            format!("expected a divisor of model.moe.experts = {}, got {}", self.experts, self.groups)
        })?;
        let least = if self.group_score == GroupScore::TwoLargest && self.groups > 1 { 2 } else { 1 };
        require(self.experts / self.groups >= least, "model.moe.groups", || {
            format!("expected groups of at least {least} experts, got {}", self.experts / self.groups)
        })?;
        require(self.top_k <= self.reach(), "model.moe.top_k", || {
            format!("expected at most the {} experts of model.moe.groups_kept groups, got {}", self.reach(), self.top_k)
        })
    }

    /// Whether the choice of experts has a bias: one that balancing moves, or a fixed one.
    pub fn biases_choice(&self) -> bool {
        self.balance_bias > 0.0 || self.choice_bias
    }

    /// The most experts that a token can visit: all, or those of the groups that are kept.
    pub fn reach(&self) -> usize {
        self.experts / self.groups.max(1) * self.groups_kept
    }
}
