//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) over whole groups of parameters, one dispatch a group.
//!
//! With the clipped gradient `g` at step `t`, counted from 1:
//!
//! ```text
//! m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//! p = p - lr ( m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p )
//! ```
//!
//! The decay is decoupled from the moments and spares vectors ([`Group::NoDecay`]).

use std::ops::Range;

use super::config::OptimizerConfig;
use crate::error::Result;
use crate::gpu::Parts;
use crate::kernels::octs::octs;
use crate::kernels::software::loads;
use crate::kernels::spectral_update::AdamFactors;
use crate::kernels::{Variant, stretch};
use crate::nn::params::{Group, GroupBuffers};
use crate::tensor::{DType, Tensor};

octs! { "AdamW over flat buffers, eight elements at a time.", ADAMW, "adamw", "adamw", "adamw.wgsl", AdamwParams }

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    [ADAMW.variants(&[]), ADAMW.variants(&stretch::VARIANT)].concat()
}

impl OptimizerConfig {
    /// The factors of step `t` (from 1) of AdamW, computed in f64; `decays` says whether the weights decay.
    pub(crate) fn factors(&self, t: u64, lr: f32, decays: bool) -> AdamFactors {
        // 2^31 steps are more than anyone takes; beyond, the corrections are 1 anyway.
        let power = i32::try_from(t.max(1)).unwrap_or(i32::MAX);
        let (beta1, beta2) = (f64::from(self.beta1), f64::from(self.beta2));
        let (filled1, filled2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        AdamFactors {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            rest1: (1.0 - beta1) as f32,
            rest2: (1.0 - beta2) as f32,
            root: (filled1 / filled2.sqrt()) as f32,
            eps: (f64::from(self.eps) * filled1) as f32,
            decay: if decays { self.weight_decay } else { 0.0 },
        }
    }
}

crate::params! {
    struct AdamwParams {
        octs: u32,
        adam: AdamFactors,
    }
}

/// Weights and gradients of a group or a part of it (the model's own buffers) with AdamW's moments.
#[derive(Clone, Debug)]
pub struct AdamGroup {
    group: Group,
    /// The elements of the group's buffers.
    range: Range<usize>,
    values: Tensor,
    gradients: Tensor,
    /// First moment, `[n]`.
    pub m: Tensor,
    /// Second moment, `[n]`.
    pub v: Tensor,
}

impl AdamGroup {
    /// Zero moments for `buffers`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a model without gradients; [`crate::Error::Device`] when memory is short.
    pub fn new(buffers: &GroupBuffers) -> Result<Self> {
        Self::part(buffers, 0..buffers.values.numel())
    }

    /// Zero moments for the elements `range` of `buffers`, whole parameters with their padding.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when memory is short.
    pub(super) fn part(buffers: &GroupBuffers, range: Range<usize>) -> Result<Self> {
        let (gpu, n) = (buffers.values.gpu(), range.len());
        Ok(Self {
            group: buffers.group,
            values: buffers.values.slice(range.clone())?,
            gradients: buffers.gradients.slice(range.clone())?,
            m: Tensor::persistent(gpu, [n], DType::F32)?,
            v: Tensor::persistent(gpu, [n], DType::F32)?,
            range,
        })
    }

    /// The moments of the elements `range` of the group's buffers, first and second; none where they are not all its own.
    pub(super) fn moments(&self, range: Range<usize>) -> Result<Option<[Tensor; 2]>> {
        if range.start < self.range.start || range.end > self.range.end {
            return Ok(None);
        }
        let own = range.start - self.range.start..range.end - self.range.start;
        Ok(Some([self.m.slice(own.clone())?, self.v.slice(own)?]))
    }

    /// The group.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Its gradients, `[n]`.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// Records step `t` (from 1) with the gradients multiplied by the scale in `clip` (see
    /// [`super::clip::GradientNorm::finish`]); nothing changes where that says the norm is not finite.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn step(&self, adam: &OptimizerConfig, t: u64, lr: f32, clip: &Tensor) -> Result<()> {
        let factors = adam.factors(t, lr, self.group != Group::NoDecay);
        let gpu = self.values.gpu();
        // Groups are padded to the offset alignment, which is a multiple of 32 bytes, and so are all chunks.
        for range in Parts::new("adamw", self.values.numel()).sliced(gpu, &[1]).ranges()? {
            let octs = range.len() / 8;
            stretch::launch(gpu, &ADAMW.vec4, octs)
                .instead_where(loads::as_u64, &ADAMW.u64)
                .params(&AdamwParams { octs: octs as u32, adam: factors })
                .write("weight", &self.values.slice(range.clone())?)
                .read("gradient", &self.gradients.slice(range.clone())?)
                .write("mean", &self.m.slice(range.clone())?)
                .write("square", &self.v.slice(range)?)
                .read("clip", clip)
                .run(gpu)?;
        }
        Ok(())
    }
}
