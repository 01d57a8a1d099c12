//! Muon for the matrices of hidden layers (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), scaled
//! to AdamW's steps (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982), so that both share a learning rate and a
//! weight decay.
//!
//! With the clipped gradient G of a matrix `m x n`:
//!
//! ```text
//! M = u M + G         D = 0.2 sqrt(max(m, n)) newton_schulz(u M + G)         W = W - lr (D + decay W)
//! ```
//!
//! The singular values of what [`newton_schulz`] gives are near 1, so its elements have the root mean square
//! `1 / sqrt(max(m, n))`, and those of D 0.2, about as AdamW's. Each expert is a matrix by itself. What is no matrix of a hidden
//! layer ([`crate::nn::params::Param::hidden`]) moves by AdamW.

use std::ops::Range;

use super::config::OptimizerConfig;
use crate::error::Result;
use crate::gpu::Parts;
use crate::kernels::octs::octs;
use crate::kernels::software::loads;
use crate::kernels::{Variant, stretch};
use crate::linalg::newton_schulz::newton_schulz;
use crate::nn::params::{Group, GroupBuffers, Param, trained};
use crate::tensor::{DType, Tensor};

octs! { "Muon's momentum over flat buffers.", MUON_MOMENTUM, "muon_momentum", "muon_momentum", "muon.wgsl", MuonParams }
octs! { "Muon's step over flat buffers.", MUON_STEP, "muon_step", "muon_step", "muon.wgsl", MuonParams }

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let both = [&MUON_MOMENTUM, &MUON_STEP];
    both.into_iter().flat_map(|kernel| [kernel.variants(&[]), kernel.variants(&stretch::VARIANT)].concat()).collect()
}

crate::params! {
    struct MuonParams { octs: u32, lr: f32, momentum: f32, decay: f32 }
}

/// The root mean square of AdamW's directions, which those of Muon get (arXiv 2502.16982, section 2.2).
const ROOT_MEAN_SQUARE: f32 = 0.2;
/// Elements of single matrices that are gathered at a time (64 MiB).
const GATHERED: usize = 16 << 20;

/// Records that matrices `x: [.., m, n]` become Muon's direction: orthogonalised and scaled to AdamW's size.
///
/// # Errors
/// [`crate::Error::Shape`] when `x` has no matrices; [`crate::Error::Device`].
pub(super) fn direction(x: &Tensor) -> Result<()> {
    let longest = x.dims().iter().rev().take(2).copied().max().unwrap_or(1);
    newton_schulz(x, ROOT_MEAN_SQUARE * (longest as f32).sqrt())
}

/// Matrices of a model that move by Muon as they are, with their momentum.
#[derive(Clone, Debug, Default)]
pub struct MuonWeights {
    parts: Vec<FlatPart>,
    /// The gradients of single matrices of one shape, `[m, n]` each.
    gathered: Vec<Vec<Tensor>>,
    /// The gradients of several matrices each, `[.., m, n]`.
    stacks: Vec<Tensor>,
}

/// Contiguous elements of a group's buffers.
#[derive(Clone, Debug)]
struct FlatPart {
    group: Group,
    range: Range<usize>,
    values: Tensor,
    gradients: Tensor,
    /// M, `[n]`.
    momentum: Tensor,
}

impl MuonWeights {
    /// Adds `range` of `buffers`: whole parameters with their padding, with zero momentum.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a model without gradients; [`crate::Error::Device`] when memory is short.
    pub fn add_part(&mut self, buffers: &GroupBuffers, range: Range<usize>) -> Result<()> {
        self.parts.push(FlatPart {
            group: buffers.group,
            values: buffers.values.slice(range.clone())?,
            gradients: buffers.gradients.slice(range.clone())?,
            momentum: Tensor::persistent(buffers.values.gpu(), [range.len()], DType::F32)?,
            range,
        });
        Ok(())
    }

    /// Adds a parameter that lies in such a part: a matrix, or several `[.., m, n]`.
    ///
    /// # Errors
    /// As [`MuonWeights::add_part`].
    pub fn add_matrices(&mut self, param: &Param) -> Result<()> {
        let gradient = trained(&param.gradient)?;
        if gradient.dims().len() > 2 {
            self.stacks.push(gradient.clone());
            return Ok(());
        }
        let fits = |list: &&mut Vec<Tensor>| {
            list.first().is_some_and(|x: &Tensor| x.shape() == gradient.shape())
                && (list.len() + 1) * gradient.numel() <= GATHERED
        };
        match self.gathered.iter_mut().find(fits) {
            Some(list) => list.push(gradient.clone()),
            None => self.gathered.push(vec![gradient.clone()]),
        }
        Ok(())
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The gradients, a flat tensor a part. A step overwrites them.
    pub fn gradients(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().map(|part| &part.gradients)
    }

    /// The momentum of the elements `range` of the buffers of `group`; none where they are not all among these weights.
    pub(super) fn momentum(&self, group: Group, range: Range<usize>) -> Result<Option<Tensor>> {
        let inside =
            |part: &&FlatPart| part.group == group && part.range.start <= range.start && range.end <= part.range.end;
        let part = self.parts.iter().find(inside);
        part.map(|part| part.momentum.slice(range.start - part.range.start..range.end - part.range.start)).transpose()
    }

    /// Records a step at the learning rate `lr` with the gradients multiplied by the scale in `clip` (see
    /// [`super::clip::GradientNorm::finish`]); nothing but gradients changes where that says that the norm is not finite.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn step(&self, config: &OptimizerConfig, lr: f32, clip: &Tensor) -> Result<()> {
        let params = MuonParams { octs: 0, lr, momentum: config.momentum, decay: config.weight_decay };
        for part in &self.parts {
            part.launch(&params, clip, true)?;
        }
        for list in &self.gathered {
            orthogonalize(list)?;
        }
        self.stacks.iter().try_for_each(direction)?;
        self.parts.iter().try_for_each(|part| part.launch(&params, clip, false))
    }
}

/// Records Muon's direction for matrices of one shape.
fn orthogonalize(list: &[Tensor]) -> Result<()> {
    let [first, _, ..] = list else { return list.iter().try_for_each(direction) };
    let (rows, columns) = (first.rows(), first.cols());
    let all = Tensor::empty_f32(first.gpu(), [list.len(), rows, columns])?;
    for (i, x) in list.iter().enumerate() {
        all.slice(i..i + 1)?.copy_from(x)?;
    }
    direction(&all)?;
    list.iter().enumerate().try_for_each(|(i, x)| x.copy_from(&all.slice(i..i + 1)?))
}

impl FlatPart {
    /// Records the momentum, or the step by the direction that lies where the gradients were.
    fn launch(&self, params: &MuonParams, clip: &Tensor, momentum: bool) -> Result<()> {
        let gpu = self.values.gpu();
        // Groups are padded to the offset alignment, which is a multiple of 32 bytes, and so are all parts.
        for range in Parts::new("muon", self.values.numel()).sliced(gpu, &[1]).ranges()? {
            let octs = range.len() / 8;
            let kernel = if momentum { &MUON_MOMENTUM } else { &MUON_STEP };
            let params = MuonParams { octs: octs as u32, ..*params };
            let gradients = self.gradients.slice(range.clone())?;
            let launch = stretch::launch(gpu, &kernel.vec4, octs)
                .instead_where(loads::as_u64, &kernel.u64)
                .params(&params)
                .read("clip", clip);
            if momentum {
                launch.write("gradient", &gradients).write("mean", &self.momentum.slice(range)?).run(gpu)?;
            } else {
                launch.read("direction", &gradients).write("weight", &self.values.slice(range)?).run(gpu)?;
            }
        }
        Ok(())
    }
}
