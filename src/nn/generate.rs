//! Text from a model, token by token, with a key/value cache.

use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::cache::KvCache;
use crate::nn::model::Model;
use crate::nn::pass::Pass;
use crate::nn::sample::Sampling;
use crate::tensor::Tensor;

/// The most tokens of one forward pass: a prompt is read in pieces of so many, so that its activations stay small.
const PIECE: usize = 256;

/// A text that a model goes on writing.
///
/// The first call of [`Generator::next`] reads the prompt, each further one a single token, whose cost is that of reading the
/// weights it meets, and the keys and values of the tokens before. Where the text outgrows the context, the model goes on from
/// its last half.
#[derive(Debug)]
pub struct Generator<'a> {
    gpu: Gpu,
    model: &'a Model,
    cache: KvCache,
    text: Vec<u32>,
    /// The tokens at the end of the text that the cache does not hold yet.
    unread: usize,
}

impl<'a> Generator<'a> {
    /// A text that goes on from `prompt` and of which the model sees at most the last `context` tokens.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty prompt or a token outside the vocabulary; [`Error::Device`] when memory is short.
    pub fn new(gpu: &Gpu, model: &'a Model, prompt: &[u32], context: usize) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Data("the prompt is empty; expected at least one token".into()));
        }
        let vocab = model.config().vocab;
        if let Some(token) = prompt.iter().find(|&&token| token as usize >= vocab) {
            return Err(Error::Data(format!("expected tokens below the vocabulary's {vocab}, got {token}")));
        }
        let context = context.max(1);
        let cache = KvCache::new(gpu, model.config(), model.params().precision(), context)?;
        Ok(Self { gpu: gpu.clone(), model, cache, text: prompt.to_vec(), unread: prompt.len().min(context) })
    }

    /// The prompt and what was generated.
    pub fn text(&self) -> &[u32] {
        &self.text
    }

    /// The logits of the next token, `[vocab]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn logits(&mut self) -> Result<Vec<f32>> {
        let context = self.cache.capacity();
        if self.unread == 0 {
            // What gave these logits is in the cache already: its last token is read again.
            self.cache.truncate(self.cache.len().saturating_sub(1));
            self.unread = 1;
        }
        if self.cache.len() + self.unread > context {
            self.cache.truncate(0);
            self.unread = if self.unread >= context { context } else { (context / 2).max(1) };
        }
        let unread = self.text[self.text.len() - self.unread..].to_vec();
        let mut logits = Vec::new();
        for piece in unread.chunks(PIECE) {
            let tokens = Tensor::from_u32(&self.gpu, [piece.len()], piece)?;
            let mut tape = Tape::new(&self.gpu);
            let pass = Pass::cached(self.model.params(), &self.cache, piece.len());
            let output = self.model.forward(&mut tape, &pass, &tokens)?;
            self.unread -= piece.len();
            if self.unread == 0 {
                logits = tape.value(output.logits).to_f32().await?;
            }
        }
        Ok(logits)
    }

    /// Draws the next token and adds it to the text; `uniform`, in [0, 1), decides.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn next(&mut self, sampling: &Sampling, uniform: f64) -> Result<u32> {
        let mut logits = self.logits().await?;
        let token = sampling.draw(&mut logits, &self.text, uniform);
        self.text.push(token);
        self.unread += 1;
        Ok(token)
    }
}
