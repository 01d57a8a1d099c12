//! The language model's loss.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::loss::{losses_and_gradient, mean, scale_by};
use crate::tensor::{DType, Tensor};

/// `L = mean over t of (logsumexp(logits_t) - logits_t[target_t])`, in nats.
///
/// Inputs: `logits: [T, V]`, `targets: u32 [T]`. Output: `[1]`. A target that is not below V adds neither loss nor
/// gradient; the mean is still over T.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

/// A row's share in the mean.
fn share(logits: &Tensor) -> f32 {
    (1.0 / logits.rows().max(1) as f64) as f32
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    // dL/dlogits_t = (softmax(logits_t) - onehot(target_t)) / T is made here, where the logits are being read anyway;
    // in f16 without the factor, as 1 / T alone would make most of it vanish: it comes with the loss scale in backward.
    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [logits, targets] = inputs else {
            return Err(Error::shape("cross_entropy", "logits and targets", format!("{} inputs", inputs.len())));
        };
        let scale = if logits.dtype() == DType::F16 { 1.0 } else { share(logits) };
        let (losses, dlogits) = losses_and_gradient(logits, targets, scale)?;
        Ok(Forward { output: mean(&losses)?, saved: vec![dlogits] })
    }

    // The saved gradient belongs to this op alone, so it is scaled in place.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dlogits = pass.saved(0).clone();
        let scale = if dlogits.dtype() == DType::F16 { share(&dlogits) } else { 1.0 };
        scale_by(&dlogits, scale, &pass.dy())?;
        pass.add(0, dlogits)
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (logits, targets) = (&inputs[0], &inputs[1]);
        let losses = targets.data.iter().enumerate().map(|(t, &target)| {
            let row = logits.row(t);
            let maximum = row.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = row.iter().map(|x| (x - maximum).exp()).sum();
            row.get(target as usize).map_or(0.0, |x| sum.ln() + maximum - x)
        });
        Array::new(&[1], vec![losses.sum::<f64>() / targets.data.len() as f64])
    }
}
