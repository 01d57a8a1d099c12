//! The context of one forward pass of the model, beside its input.

use crate::autograd::{Tape, Var};
use crate::nn::cache::KvCache;
use crate::nn::mask::ExpertMask;
use crate::nn::params::{Param, ParamId, ParamSet};
use crate::tensor::Tensor;

/// Whether gradients are wanted, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No gradients: evaluation and generation.
    Inference,
    /// Gradients replace what the gradient buffers hold.
    Train,
    /// Gradients are added to what the gradient buffers hold: all micro-batches of a step but the first.
    Accumulate,
}

/// One forward pass.
pub struct Pass<'a> {
    /// The parameters.
    pub params: &'a ParamSet,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Whether gradients are wanted.
    pub mode: Mode,
    /// The keys and values of the tokens before, in inference on one sequence piece by piece.
    pub cache: Option<&'a KvCache>,
    /// Whether only the last token's logits are wanted.
    pub last_only: bool,
    /// Experts that a token visits, in place of the model's own number, in inference.
    pub top_k: Option<usize>,
    /// Experts that are switched off, in inference.
    pub mask: Option<&'a ExpertMask>,
}

impl<'a> Pass<'a> {
    /// A pass over sequences of `seq` tokens.
    pub fn plain(params: &'a ParamSet, seq: usize, mode: Mode) -> Self {
        let (cache, last_only, top_k, mask) = (None, false, None, None);
        Self { params, seq, mode, cache, last_only, top_k, mask }
    }

    /// An inference pass over the next `tokens` tokens of the sequence that `cache` holds, which gives the last one's logits.
    pub fn cached(params: &'a ParamSet, cache: &'a KvCache, tokens: usize) -> Self {
        Self { cache: Some(cache), last_only: true, ..Self::plain(params, tokens, Mode::Inference) }
    }

    /// Puts a parameter on the tape: in mixed precision a matrix's f16 copy.
    pub fn param(&self, tape: &mut Tape, id: ParamId) -> Var {
        let param = self.params.get(id);
        self.put(tape, param, param.half.as_ref().unwrap_or(&param.value))
    }

    /// Puts a parameter on the tape in f32, so that its product with f16 activations is in f32: the router's.
    pub fn master(&self, tape: &mut Tape, id: ParamId) -> Var {
        let param = self.params.get(id);
        self.put(tape, param, &param.value)
    }

    fn put(&self, tape: &mut Tape, param: &Param, value: &Tensor) -> Var {
        match &param.gradient {
            Some(gradient) if self.mode != Mode::Inference => {
                tape.parameter(value, gradient, self.mode == Mode::Accumulate)
            }
            _ => tape.constant(value),
        }
    }
}
