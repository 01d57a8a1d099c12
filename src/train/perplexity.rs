//! Perplexity by a sliding window: each token is predicted once, with at least `context - stride` tokens before it where the
//! text has so many.
//!
//! Window w starts at token `w stride`, ends `context` tokens later or with the text, and is a forward pass of its own, whose
//! positions start at 0. The first counts all its targets, each other one those that the window before did not reach.

use crate::autograd::Tape;
use crate::data::NO_TARGET;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::loss::token_losses;
use crate::nn::config::ModelConfig;
use crate::nn::model::Model;
use crate::nn::pass::{Mode, Pass};
use crate::nn::passage::sequences_with_logits;
use crate::tensor::Tensor;

/// A sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens of a forward pass, at least 2.
    pub context: usize,
    /// Tokens from one window to the next, at least 1 and below `context`.
    pub stride: usize,
}

/// The sum of losses over a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// Nats, all targets together.
    pub sum: f64,
    /// Targets.
    pub targets: u64,
}

impl Perplexity {
    /// Nats a token.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }

    /// Adds the losses of a batch by its logits.
    pub(super) async fn add(&mut self, batch: &Batch, logits: &Tensor) -> Result<()> {
        let targets = Tensor::from_u32(logits.gpu(), [batch.targets.len()], &batch.targets)?;
        let losses = token_losses(logits, &targets)?.to_f32().await?;
        self.sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        self.targets += batch.counted;
        Ok(())
    }

    /// `exp` of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }
}

impl Window {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Config`] names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        if self.context < 2 {
            return Err(Error::config("context", format!("expected at least 2 tokens, got {}", self.context)));
        }
        if self.stride == 0 || self.stride >= self.context {
            let message = format!("expected at least 1 and below the context of {}, got {}", self.context, self.stride);
            return Err(Error::config("stride", message));
        }
        Ok(())
    }

    /// First token and end of each window over `tokens` tokens.
    fn places(self, tokens: usize) -> impl Iterator<Item = (usize, usize)> {
        let last = tokens.saturating_sub(self.context).div_ceil(self.stride);
        (0..=last).map(move |w| (w * self.stride, (w * self.stride + self.context).min(tokens)))
    }
}

/// The losses of all tokens but the first, summed, with `top_k` experts a token in place of the model's own number where given.
///
/// # Errors
/// [`Error::Config`] for a window that makes no sense, or more experts than there are; [`Error::Data`] for a text of fewer than
/// two tokens; [`Error::Device`].
pub async fn perplexity(
    gpu: &Gpu,
    model: &Model,
    tokens: &[u32],
    window: Window,
    top_k: Option<usize>,
) -> Result<Perplexity> {
    check(model.config(), tokens, window, top_k)?;
    let mut found = Perplexity::default();
    for batch in batches(model.config(), tokens, window) {
        let input = Tensor::from_u32(gpu, [batch.tokens.len()], &batch.tokens)?;
        let mut tape = Tape::new(gpu);
        let pass = Pass { top_k, ..Pass::plain(model.params(), batch.seq, Mode::Inference) };
        let output = model.forward(&mut tape, &pass, &input)?;
        found.add(&batch, tape.value(output.logits)).await?;
    }
    Ok(found)
}

/// Checks what is to be evaluated.
pub(super) fn check(config: &ModelConfig, tokens: &[u32], window: Window, top_k: Option<usize>) -> Result<()> {
    window.validate()?;
    if tokens.len() < 2 {
        return Err(Error::Data(format!("expected at least 2 tokens to evaluate on, got {}", tokens.len())));
    }
    let reach = config.moe.reach();
    if let Some(k) = top_k.filter(|k| !(1..=reach).contains(k)) {
        let message = format!("expected at least 1 and at most the {reach} experts that a token can visit, got {k}");
        return Err(Error::config("top-k", message));
    }
    Ok(())
}

/// Windows of one forward pass.
pub(super) struct Batch {
    /// Tokens of a window.
    pub seq: usize,
    /// The windows behind each other.
    pub tokens: Vec<u32>,
    /// The token that follows each, or [`NO_TARGET`] where another window counts it.
    targets: Vec<u32>,
    /// Targets that count.
    counted: u64,
}

/// The windows over a text, as many at a time as one forward pass has. Windows of the same length go together: all but the last.
pub(super) fn batches(config: &ModelConfig, tokens: &[u32], window: Window) -> impl Iterator<Item = Batch> {
    let places: Vec<(usize, usize)> = window.places(tokens.len()).collect();
    let at_once = sequences_with_logits(window.context, config.vocab);
    let same = places.chunk_by(|a, b| a.1 - a.0 == b.1 - b.0);
    let together: Vec<Vec<(usize, usize)>> = same.flat_map(|same| same.chunks(at_once)).map(<[_]>::to_vec).collect();
    let mut reached = 1;
    together.into_iter().map(move |windows| {
        let seq = windows[0].1 - windows[0].0;
        let (mut inputs, mut targets, mut counted) = (Vec::new(), Vec::new(), 0);
        for (first, end) in windows {
            inputs.extend_from_slice(&tokens[first..end]);
            targets.extend((first + 1..=end).map(|t| if t >= reached && t < end { tokens[t] } else { NO_TARGET }));
            counted += (end - reached) as u64;
            reached = end;
        }
        Batch { seq, tokens: inputs, targets, counted }
    })
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn windows_end_with_the_first_that_reaches_the_end() {
        let places = |tokens, context, stride| Window { context, stride }.places(tokens).collect::<Vec<_>>();
        assert_eq!(places(10, 4, 2), [(0, 4), (2, 6), (4, 8), (6, 10)]);
        assert_eq!(places(11, 4, 2), [(0, 4), (2, 6), (4, 8), (6, 10), (8, 11)]);
        assert_eq!(places(3, 4, 2), [(0, 3)]);
        assert_eq!(places(4, 4, 3), [(0, 4)]);
        assert_eq!(places(5, 4, 3), [(0, 4), (3, 5)]);
    }

    #[test]
    fn a_stride_as_wide_as_the_context_is_refused() {
        let refused = |context, stride| Window { context, stride }.validate().unwrap_err().to_string();
        assert!(refused(4, 4).contains("stride: expected at least 1 and below the context of 4, got 4"));
        assert!(refused(1, 1).contains("context: expected at least 2 tokens, got 1"));
    }
}
