//! Update rules: what an optimizer keeps of weights from step to step, its names in checkpoints, and how it moves them.
//!
//! A rule has two forms. [`Moving`] are weights that move as they are; [`RuleState`] belongs to one part of decoupled
//! matrices, whose step `spectral` puts together from the directions of both parts.

use std::fmt::Debug;
use std::ops::Range;

use super::adamw::AdamGroup;
use super::config::{OptimizerConfig, Rule};
use super::muon::{self, MuonWeights};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::spectral::Basis;
use crate::kernels::spectral_momentum::nesterov;
use crate::kernels::spectral_update::{AdamFactors, Mix, Moments, direction};
use crate::nn::params::Group;
use crate::tensor::{DType, Tensor};

/// The settings of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    /// The settings of the run.
    pub(super) config: &'a OptimizerConfig,
    /// The step, counted from 1.
    pub(super) t: u64,
    /// The learning rate.
    pub(super) lr: f32,
}

impl At<'_> {
    /// AdamW's factors for weights that decay.
    pub(super) fn adam(&self) -> AdamFactors {
        self.config.factors(self.t, self.lr, true)
    }

    /// The fraction of a decaying weight that the step takes away.
    pub(super) fn decay(&self) -> f32 {
        self.lr * self.config.weight_decay
    }
}

/// Weights that one rule moves as they are, with what it keeps of them.
pub(super) trait Moving: Debug + wgpu::WasmNotSendSync {
    /// Their gradients, whose norm counts.
    fn gradients(&self) -> Vec<Tensor>;

    /// Records a step with the gradients multiplied by the scale in `clip`; nothing but gradients changes where that says
    /// that the norm is not finite.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn step(&self, at: At<'_>, clip: &Tensor) -> Result<()>;

    /// The state of the parameter `name` that has the elements `range` of the buffers of `group`, with the names in
    /// checkpoints; nothing of a parameter that is not among these weights.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn state(&self, name: &str, group: Group, range: Range<usize>) -> Result<Vec<(String, Tensor)>>;
}

impl Moving for AdamGroup {
    fn gradients(&self) -> Vec<Tensor> {
        vec![AdamGroup::gradients(self).clone()]
    }

    fn step(&self, at: At<'_>, clip: &Tensor) -> Result<()> {
        AdamGroup::step(self, at.config, at.t, at.lr, clip)
    }

    fn state(&self, name: &str, group: Group, range: Range<usize>) -> Result<Vec<(String, Tensor)>> {
        if group != self.group() {
            return Ok(Vec::new());
        }
        let moments = self.moments(range)?.into_iter().flatten();
        Ok(["m", "v"].into_iter().zip(moments).map(|(moment, x)| (format!("adam.{name}.{moment}"), x)).collect())
    }
}

impl Moving for MuonWeights {
    fn gradients(&self) -> Vec<Tensor> {
        MuonWeights::gradients(self).cloned().collect()
    }

    fn step(&self, at: At<'_>, clip: &Tensor) -> Result<()> {
        MuonWeights::step(self, at.config, at.lr, clip)
    }

    fn state(&self, name: &str, group: Group, range: Range<usize>) -> Result<Vec<(String, Tensor)>> {
        let momentum = self.momentum(group, range)?;
        Ok(momentum.into_iter().map(|x| (format!("muon.{name}.momentum"), x)).collect())
    }
}

/// The state of a rule for one part of decoupled matrices, of the part's shape.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RuleState {
    /// AdamW's moments.
    AdamW {
        /// The first moment *m*, the running mean of the gradients.
        first: Tensor,
        /// The second moment *v*, the running mean of their squares.
        second: Tensor,
    },
    /// Muon's momentum *M*.
    Muon {
        /// The decaying sum of the gradients.
        momentum: Tensor,
    },
}

impl RuleState {
    /// The state before the first step of a part of `shape`.
    pub(super) fn zeroed(rule: Rule, gpu: &Gpu, shape: &[usize]) -> Result<Self> {
        let zeros = || Tensor::persistent(gpu, shape, DType::F32);
        Ok(match rule {
            Rule::AdamW => Self::AdamW { first: zeros()?, second: zeros()? },
            Rule::Muon => Self::Muon { momentum: zeros()? },
        })
    }

    /// The tensors with the last words of their names in checkpoints.
    pub(super) fn named(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::AdamW { first, second } => vec![("m", first), ("v", second)],
            Self::Muon { momentum } => vec![("momentum", momentum)],
        }
    }

    /// AdamW's moments, which some kernels move in a pass that does more; none of another rule.
    pub(super) fn moments(&self) -> Option<Moments<'_>> {
        match self {
            Self::AdamW { first, second } => Some(Moments { m: first, v: second }),
            Self::Muon { .. } => None,
        }
    }

    /// Records that the direction for the gradient `mix` of X = `gradient`, multiplied by the scale in `clip`, replaces
    /// `gradient`; the decay is no part of it. The state does not change where `clip` says that the norm is not finite, and the
    /// direction is then undefined.
    pub(super) fn direction(
        &self,
        gradient: &Tensor,
        mix: Mix<'_>,
        basis: &Basis,
        at: At<'_>,
        clip: &Tensor,
    ) -> Result<()> {
        match self {
            Self::AdamW { first, second } => {
                direction(gradient, Moments { m: first, v: second }, mix, basis, &at.adam(), clip)
            }
            Self::Muon { momentum } => {
                nesterov(gradient, momentum, mix, basis, at.config.momentum, clip)?;
                muon::direction(gradient)
            }
        }
    }
}
