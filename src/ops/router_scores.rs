//! Router scores from logits: softmax over all experts, or the sigmoid of each.

use serde::{Deserialize, Serialize};

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::tensor::Tensor;

/// Threads of a workgroup.
const THREADS: u32 = 64;

/// The scores.
pub static ROUTER_SCORES: Kernel =
    Kernel::new("router_scores", wgsl!["router_scores.wgsl"]).params::<RouterScoresParams>();
/// The gradient.
pub static ROUTER_SCORES_BACKWARD: Kernel =
    Kernel::new("router_scores_backward", wgsl!["router_scores.wgsl"]).params::<RouterScoresParams>();

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    vec![(&ROUTER_SCORES).into(), (&ROUTER_SCORES_BACKWARD).into()]
}

crate::params! {
    struct RouterScoresParams { tokens: u32, experts: u32, sigmoid: u32, factor: f32 }
}

/// How a token's expert scores come from its router logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Softmax over all experts (Qwen, Mixtral, DeepSeek-V2).
    Softmax,
    /// Sigmoid of each logit (DeepSeek-V3).
    Sigmoid,
}

/// `s = softmax(l)` over the experts, with the largest logit subtracted first, or `s = sigmoid(l)`.
/// Inputs: logits `[T, E]`. Output: `[T, E]`.
#[derive(Clone, Copy, Debug)]
pub struct RouterScores {
    /// Which.
    pub score: Score,
}

impl RouterScores {
    fn params(&self, tokens: usize, experts: usize, factor: f32) -> RouterScoresParams {
        let sigmoid = u32::from(self.score == Score::Sigmoid);
        RouterScoresParams { tokens: tokens as u32, experts: experts as u32, sigmoid, factor }
    }
}

impl Op for RouterScores {
    fn name(&self) -> &'static str {
        "router_scores"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [logits] = inputs else {
            return Err(Error::shape(self.name(), "logits", format!("{inputs:?}")));
        };
        let [tokens, experts] = *logits.dims() else {
            return Err(Error::shape(self.name(), "logits [T, E]", format!("{logits:?}")));
        };
        let gpu = logits.gpu();
        let scores = Tensor::empty_f32(gpu, [tokens, experts])?;
        if scores.numel() == 0 {
            return Ok(scores.into());
        }
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[experts]).ranges()? {
            Launch::new(&ROUTER_SCORES)
                .params(&self.params(range.len(), experts, 0.0))
                .read("logits", &logits.slice(range.clone())?)
                .write("scores", &scores.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(scores.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (scores, dy) = (pass.output().clone(), pass.dy());
        if !pass.needs(0) {
            return Ok(());
        }
        let (target, factor) = pass.target(0)?;
        if target.numel() == 0 {
            return Ok(());
        }
        let (gpu, experts) = (scores.gpu(), scores.cols());
        for range in Parts::new(self.name(), scores.rows()).sliced(gpu, &[experts]).ranges()? {
            Launch::new(&ROUTER_SCORES_BACKWARD)
                .params(&self.params(range.len(), experts, factor))
                .read("y", &scores.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dlogits", &target.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::OUTPUT
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let mut y = inputs[0].clone();
        for t in 0..y.rows() {
            let row = y.row_mut(t);
            if self.score == Score::Sigmoid {
                row.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp()));
            } else {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = row.iter().map(|v| (v - largest).exp()).sum();
                row.iter_mut().for_each(|v| *v = (*v - largest).exp() / sum);
            }
        }
        y
    }
}
