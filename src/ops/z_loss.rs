//! The z-loss of the router (ST-MoE, arXiv 2202.08906): keeps the logits small.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::column_sum::column_sum;
use crate::tensor::Tensor;

/// Threads of a workgroup.
const THREADS: u32 = 64;

/// Each token's logsumexp and its term of the loss.
pub static Z_LOSS: Kernel = Kernel::new("z_loss", wgsl!["z_loss.wgsl"]).params::<ZLossParams>();
/// The gradient of the logits.
pub static Z_LOSS_BACKWARD: Kernel = Kernel::new("z_loss_backward", wgsl!["z_loss.wgsl"]).params::<ZLossParams>();

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    vec![(&Z_LOSS).into(), (&Z_LOSS_BACKWARD).into()]
}

crate::params! {
    struct ZLossParams { tokens: u32, experts: u32, scale: f32, factor: f32 }
}

/// `coefficient * mean_t z_t^2`, `z_t = logsumexp(l_t)`. Inputs: logits `[T, E]`. Output: `[1]`.
#[derive(Clone, Copy, Debug)]
pub struct ZLoss {
    /// Weight in the loss.
    pub coefficient: f32,
}

impl ZLoss {
    fn params(&self, tokens: usize, all_tokens: usize, experts: usize, factor: f32) -> ZLossParams {
        let scale = (f64::from(self.coefficient) / all_tokens as f64) as f32;
        ZLossParams { tokens: tokens as u32, experts: experts as u32, scale, factor }
    }
}

impl Op for ZLoss {
    fn name(&self) -> &'static str {
        "z_loss"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("z_loss", "logits [T, E]", format!("{inputs:?}"));
        let [logits] = inputs else { return Err(fail()) };
        let [tokens, experts] = *logits.dims() else { return Err(fail()) };
        if logits.numel() == 0 {
            return Err(fail());
        }
        let gpu = logits.gpu();
        let normalizer = Tensor::empty_f32(gpu, [tokens, 1])?;
        let term = Tensor::empty_f32(gpu, [tokens, 1])?;
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[experts, 1]).ranges()? {
            Launch::new(&Z_LOSS)
                .params(&self.params(range.len(), tokens, experts, 0.0))
                .read("logits", &logits.slice(range.clone())?)
                .write("normalizer", &normalizer.slice(range.clone())?)
                .write("term", &term.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(Forward { output: column_sum(&term)?, saved: vec![normalizer] })
    }

    // d z^2 / d l_e = 2 z softmax_e = 2 z exp(l_e - z)
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if !pass.needs(0) {
            return Ok(());
        }
        let (logits, normalizer, dy) = (pass.input(0), pass.saved(0).clone(), pass.dy());
        let (target, factor) = pass.target(0)?;
        let (gpu, tokens, experts) = (target.gpu(), target.rows(), target.cols());
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[experts, 1]).ranges()? {
            Launch::new(&Z_LOSS_BACKWARD)
                .params(&self.params(range.len(), tokens, experts, factor))
                .read("logits", &logits.slice(range.clone())?)
                .read("saved_normalizer", &normalizer.slice(range.clone())?)
                .read("dy", &dy)
                .write("dlogits", &target.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let logits = &inputs[0];
        let square = |t: usize| {
            let row = logits.row(t);
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (largest + row.iter().map(|l| (l - largest).exp()).sum::<f64>().ln()).powi(2)
        };
        let sum: f64 = (0..logits.rows()).map(square).sum();
        Array::new(&[1], vec![f64::from(self.coefficient) * sum / logits.rows() as f64])
    }
}
