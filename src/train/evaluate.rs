//! The loss of a model on batches; needs no optimizer.

use super::Evaluation;
use crate::autograd::Tape;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::loss::{mean, token_losses};
use crate::nn::language_model::LanguageModel;
use crate::nn::pass::{Mode, Pass};
use crate::tensor::Tensor;

/// Mean cross-entropy over all targets of the batches, whose sequences have `seq` tokens.
///
/// # Errors
/// [`Error::Data`] when there is no target; [`Error::Shape`] when a batch is not of whole sequences; [`Error::Device`].
pub async fn evaluate(
    gpu: &Gpu,
    model: &impl LanguageModel,
    seq: usize,
    batches: impl IntoIterator<Item = Batch>,
) -> Result<Evaluation> {
    evaluate_pass(gpu, model, &Pass::plain(model.params(), seq, Mode::Inference), batches).await
}

/// As [`evaluate`], by forward passes as `pass` has them: with experts switched off, or another number of them a token.
///
/// # Errors
/// As [`evaluate`].
pub async fn evaluate_pass(
    gpu: &Gpu,
    model: &impl LanguageModel,
    pass: &Pass<'_>,
    batches: impl IntoIterator<Item = Batch>,
) -> Result<Evaluation> {
    let (mut sum, mut targets) = (0.0, 0);
    for batch in batches {
        let tokens = Tensor::from_u32(gpu, [batch.tokens.len()], &batch.tokens)?;
        let wanted = Tensor::from_u32(gpu, [batch.targets.len()], &batch.targets)?;
        let mut tape = Tape::new(gpu);
        let output = model.forward(&mut tape, pass, &tokens)?;
        let losses = token_losses(tape.value(output.logits), &wanted)?;
        // Tokens without a target add nothing to the mean over all of them.
        sum += f64::from(mean(&losses)?.to_f32().await?[0]) * batch.targets.len() as f64;
        targets += batch.predicted() as u64;
    }
    if targets == 0 {
        return Err(Error::Data("expected at least one token to predict, got none".into()));
    }
    Ok(Evaluation { loss: (sum / targets as f64) as f32, targets })
}
