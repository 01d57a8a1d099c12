//! The way of texts through a model whose parts are there one after the other ([`ModelParts`]).

use std::mem;

use crate::autograd::Tape;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::mask::ExpertMask;
use crate::nn::part::{ModelParts, Part};
use crate::nn::pass::{Mode, Pass};
use crate::tensor::Tensor;

/// Bytes of hidden states that are on the host at once, where nobody says otherwise.
pub const STATES: u64 = 4 << 30;

/// Bytes of logits of one forward pass, at least one sequence's.
const LOGITS: usize = 128 << 20;
/// Tokens of one forward pass, at least one sequence.
const TOKENS: usize = 4096;

/// Sequences of `seq` tokens in a forward pass that looks at no logits, so that its activations stay small.
pub fn sequences_at_once(seq: usize) -> usize {
    (TOKENS / seq.max(1)).max(1)
}

/// As [`sequences_at_once`], for a pass that gives the logits of all tokens of a vocabulary of `vocab`.
pub fn sequences_with_logits(seq: usize, vocab: usize) -> usize {
    ((LOGITS / 4 / vocab.max(1)).min(TOKENS) / seq.max(1)).max(1)
}

/// Whole sequences behind each other, one forward pass, and how it goes.
#[derive(Clone, Copy, Debug)]
pub struct Passenger<'a> {
    /// Tokens of a sequence.
    pub seq: usize,
    /// The sequences.
    pub tokens: &'a [u32],
    /// Experts that a token visits, in place of the model's own number.
    pub top_k: Option<usize>,
    /// Experts that are switched off.
    pub mask: Option<&'a ExpertMask>,
}

/// Sends all of them through the model, in inference, and hands over the logits `[tokens, vocab]` of each with its number. A part is
/// there once for as many of them as have together at most `states` bytes of hidden states, and for one at the least.
///
/// # Errors
/// [`crate::Error::Shape`] for tokens that are not whole sequences; those of [`ModelParts::part`] and of the ops; those of `arrived`.
pub async fn pass_through(
    gpu: &Gpu,
    model: &dyn ModelParts,
    all: &[Passenger<'_>],
    states: u64,
    mut arrived: impl AsyncFnMut(usize, &Tensor) -> Result<()>,
) -> Result<()> {
    let d = model.config().d_model;
    let bytes = |p: &Passenger<'_>| 4 * (p.tokens.len() * d) as u64;
    let mut first = 0;
    while first < all.len() {
        let mut sum = 0;
        let fits = all[first..].iter().take_while(|p| {
            sum += bytes(p);
            sum <= states
        });
        let round = &all[first..first + fits.count().max(1)];
        let mut hidden = vec![Vec::new(); round.len()];
        for part in Part::all(model.config()) {
            let held = model.part(part, false)?;
            let part = held.view();
            for (i, (passenger, state)) in round.iter().zip(&mut hidden).enumerate() {
                let &Passenger { seq, tokens, top_k, mask } = passenger;
                let input = part_input(gpu, d, tokens, &mem::take(state))?;
                let mut tape = Tape::new(gpu);
                let pass = Pass { top_k, mask, ..Pass::plain(part.params(), seq, Mode::Inference) };
                let input = tape.constant(&input);
                let output = part.forward(&mut tape, &pass, input)?.value;
                match part.part() {
                    Part::Head => arrived(first + i, tape.value(output)).await?,
                    Part::Embedding | Part::Layer(_) => *state = tape.value(output).to_f32().await?,
                }
            }
            held.let_go(gpu).await?;
        }
        first += round.len();
    }
    Ok(())
}

/// The input of a part on the device: hidden states `[tokens, d]` from the host, or the tokens where there are none yet.
///
/// # Errors
/// [`crate::Error::Shape`] when the states are not those of the tokens; [`crate::Error::Device`].
pub fn part_input(gpu: &Gpu, d: usize, tokens: &[u32], state: &[f32]) -> Result<Tensor> {
    if state.is_empty() {
        return Tensor::from_u32(gpu, [tokens.len()], tokens);
    }
    Tensor::from_f32(gpu, [tokens.len(), d], state)
}

#[cfg(test)]
mod tests {
    use super::{sequences_at_once, sequences_with_logits};

    #[test]
    fn a_large_vocabulary_leaves_fewer_sequences_at_once_and_one_at_the_least() {
        assert_eq!((sequences_at_once(256), sequences_at_once(10_000)), (16, 1));
        assert_eq!((sequences_with_logits(256, 256), sequences_with_logits(256, 8192)), (16, 16));
        // 128 MiB of logits are 220 tokens.
        assert_eq!((sequences_with_logits(64, 151_936), sequences_with_logits(256, 151_936)), (3, 1));
    }
}
