//! Experts that are switched off: what a model loses without them.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::tensor::Tensor;

/// The number that is added to logit and score of an expert that is switched off: below whatever a score can be, also below the
/// scores of experts outside a token's groups, and of which the sum of two is finite. The exponential of such a logit
/// is 0.
const OFF: f32 = -1e38;

/// Experts that no token visits, in inference.
///
/// Their logits count as minus infinity: a softmax is taken over the others, as in a model that does not have them, and
/// where groups of experts are chosen, they count for no group. Where a token's groups have too few experts left, the
/// best of the other groups follow.
#[derive(Clone, Debug)]
pub struct ExpertMask {
    /// For each layer that has experts 0 or [`OFF`], `[E]`; none where all are on.
    layers: Vec<Option<Tensor>>,
}

impl ExpertMask {
    /// Switches off the experts `off` of each layer that has experts, of which a layer has `experts` and a token visits
    /// `top_k`.
    ///
    /// # Errors
    /// [`Error::Config`] for an expert that does not exist, or where fewer than `top_k` are left in a layer;
    /// [`Error::Device`].
    pub fn new(gpu: &Gpu, experts: usize, top_k: usize, off: &[Vec<usize>]) -> Result<Self> {
        let layer = |off: &Vec<usize>| {
            let mut added = vec![0.0; experts];
            for &expert in off {
                let Some(value) = added.get_mut(expert) else {
                    let message = format!("expected experts below {experts}, got {expert}");
                    return Err(Error::config("experts that are switched off", message));
                };
                *value = OFF;
            }
            let left = added.iter().filter(|x| **x == 0.0).count();
            if left < top_k {
                let message =
                    format!("expected to leave the {top_k} that a token visits, got {left} left of {experts}");
                return Err(Error::config("experts that are switched off", message));
            }
            if left == experts { Ok(None) } else { Tensor::from_f32(gpu, [experts], &added).map(Some) }
        };
        Ok(Self { layers: off.iter().map(layer).collect::<Result<_>>()? })
    }

    /// Returns the numbers that are added to logits and scores in the `layer`-th layer that has experts, `[E]`; none where all are on.
    pub(super) fn of(&self, layer: usize) -> Option<&Tensor> {
        self.layers.get(layer)?.as_ref()
    }
}
