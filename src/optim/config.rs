//! The optimizer's settings: the update rule and its numbers, clipping and the learning rate's course.

use serde::{Deserialize, Serialize};

use super::schedule::LearningRate;
use crate::error::{Error, Result};
use crate::nn::config::MAX_STEPS;

/// How weights move by their gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rule {
    /// AdamW (see [`adamw`](super::adamw)).
    #[default]
    AdamW,
    /// Muon for the matrices of hidden layers, experts included, and AdamW for all else (see [`muon`](super::muon)).
    Muon,
}

impl Rule {
    fn is_usual(&self) -> bool {
        *self == Rule::default()
    }
}

/// The momentum of Muon that its authors recommend.
const MOMENTUM: f32 = 0.95;

fn is_usual_momentum(momentum: &f32) -> bool {
    *momentum == MOMENTUM
}

/// The `[optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// The update rule.
    #[serde(skip_serializing_if = "Rule::is_usual")]
    pub rule: Rule,
    /// Highest learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decay of Muon's momentum.
    #[serde(skip_serializing_if = "is_usual_momentum")]
    pub momentum: f32,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f32,
    /// Largest global gradient norm; 0 turns clipping off.
    pub clip: f32,
    /// Steps over which the learning rate rises linearly to `lr`. In the program a run shorter than its preset's shortens
    /// the preset's warm-up in proportion; any other number holds as it is ([`crate::train::config::RunConfig::fit_warmup`]).
    pub warmup_steps: u64,
    /// Loss scale that a run in f16 begins with.
    pub loss_scale: f32,
    /// Good steps after which the loss scale of a run in f16 doubles.
    pub loss_scale_every: u32,
    /// The last step's learning rate as a share of `lr`; the way there is half a cosine.
    pub min_lr_ratio: f32,
    /// Parameters that do not move, by names or patterns of names: `embed`, `experts`, `layers.*.attn` (see
    /// [`Frozen`](super::Frozen)). They take no part in the gradient's norm, and decoupled ones keep their parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        // beta2, weight decay, clip and the final tenth: the common choices for language models since GPT-3
        // (arXiv 2005.14165, appendix B).
        Self {
            rule: Rule::default(),
            lr: 3e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            momentum: MOMENTUM,
            weight_decay: 0.1,
            clip: 1.0,
            warmup_steps: 30,
            // As in PyTorch's GradScaler.
            loss_scale: 65_536.0,
            loss_scale_every: 2_000,
            min_lr_ratio: 0.1,
            freeze: Vec::new(),
        }
    }
}

impl OptimizerConfig {
    /// The learning rate's course over a run of `steps` steps.
    pub fn schedule(&self, steps: u64) -> LearningRate {
        LearningRate { peak: self.lr, min_ratio: self.min_lr_ratio, warmup_steps: self.warmup_steps, steps }
    }

    /// Checks each setting's range.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that is impossible.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, field: &str, expected: &str, got: f32| {
            if ok {
                return Ok(());
            }
            Err(Error::config(format!("optimizer.{field}"), format!("expected {expected}, got {got}")))
        };
        let positive = |x: f32, most: f32| x > 0.0 && x <= most;
        let share = |x: f32| (0.0..1.0).contains(&x);
        check(positive(self.lr, 1e30), "lr", "a number above 0 and at most 1e30", self.lr)?;
        check(share(self.beta1), "beta1", "a number in [0, 1)", self.beta1)?;
        check(share(self.beta2), "beta2", "a number in [0, 1)", self.beta2)?;
        check(share(self.momentum), "momentum", "a number in [0, 1)", self.momentum)?;
        // Far above the gradients it makes AdamW plain gradient descent, which the fixtures compare with.
        check(positive(self.eps, 1e9), "eps", "a number above 0 and at most 1e9", self.eps)?;
        let scale = self.loss_scale;
        check((1.0..=16_777_216.0).contains(&scale), "loss_scale", "a number in [1, 2^24]", scale)?;
        let every = self.loss_scale_every;
        check(every >= 1, "loss_scale_every", "at least 1", every as f32)?;
        let warmup = self.warmup_steps;
        check(warmup <= MAX_STEPS, "warmup_steps", "at most 10^12", warmup as f32)?;
        super::freeze::validate(&self.freeze)?;
        let (decay, clip) = (self.weight_decay, self.clip);
        check((0.0..=1e3).contains(&decay), "weight_decay", "a number of at least 0 and at most 1000", decay)?;
        check((0.0..=1e9).contains(&clip), "clip", "a number of at least 0 and at most 1e9", clip)?;
        check((0.0..=1.0).contains(&self.min_lr_ratio), "min_lr_ratio", "a number in [0, 1]", self.min_lr_ratio)
    }
}
