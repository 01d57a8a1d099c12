//! Text from a model, byte by byte.

use crate::autograd::Tape;
use crate::data::offsets::uniform;
use crate::data::tokenizer::encode;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::model::Model;
use crate::nn::pass::{Mode, Pass};
use crate::nn::sample::sample;
use crate::tensor::Tensor;
use crate::train::Generation;

/// Windows grow in steps of this many tokens, so that few shapes occur.
const WINDOW_STEP: usize = 32;

/// Goes on from `what.prompt`, handing over each byte as it is drawn. The model sees the last `context` bytes.
///
/// The window is filled up at its end; attention is causal, so what stands there changes nothing before it.
///
/// # Errors
/// [`Error::Data`] for an empty prompt, [`Error::Device`], or what `each` returns.
pub async fn generate(
    gpu: &Gpu,
    model: &Model,
    context: usize,
    what: &Generation,
    mut each: impl FnMut(u8) -> Result<()>,
) -> Result<()> {
    if what.prompt.is_empty() {
        return Err(Error::Data("the prompt is empty; expected at least one byte".into()));
    }
    let mut text = encode(&what.prompt);
    for position in 0..what.tokens {
        let seen = &text[text.len().saturating_sub(context.max(1))..];
        let seq = seen.len().next_multiple_of(WINDOW_STEP);
        let mut window = seen.to_vec();
        window.resize(seq, 0);
        let tokens = Tensor::from_u32(gpu, [seq], &window)?;
        let mut tape = Tape::new(gpu);
        let pass = Pass::plain(model.params(), seq, Mode::Inference);
        let output = model.forward(&mut tape, &pass, &tokens)?;
        let last = tape.value(output.logits).slice(seen.len() - 1..seen.len())?.to_f32().await?;
        let next = sample(&last, what.temperature, what.top_p, uniform(what.seed, &[position as u64]));
        text.push(next);
        each(next as u8)?;
    }
    Ok(())
}
