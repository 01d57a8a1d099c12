//! YaRN (Peng et al. 2023, arXiv 2309.00071): frequencies for contexts longer than those a model was trained with.

use std::f64::consts::TAU;

use crate::error::{Error, Result};

/// The settings, with the names that `rope_scaling` of a `config.json` has; computed as transformers and DeepSeek do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Yarn {
    /// How much longer the context is, at least 1.
    pub factor: f64,
    /// Tokens of the context that the model was trained with.
    pub original_max_position_embeddings: usize,
    /// Turns over that context above which a frequency stays as it is.
    pub beta_fast: f64,
    /// Turns over that context below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// With `mscale_all_dim`, the weight of ln(factor) in the factor on cosines and sines.
    pub mscale: Option<f64>,
    /// The weight of ln(factor) in the factor on scores, which the factor on cosines and sines is divided by.
    pub mscale_all_dim: Option<f64>,
    /// The factor on cosines and sines, where it is given rather than computed.
    pub attention_factor: Option<f64>,
    /// Whether the range of pairs between both limits is widened to whole numbers.
    pub truncate: bool,
}

/// `0.1 weight ln(factor) + 1`.
fn magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

impl Yarn {
    /// These settings, and the others as they are where a `config.json` does not say.
    pub fn new(factor: f64, original_max_position_embeddings: usize) -> Self {
        Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            attention_factor: None,
            truncate: true,
        }
    }

    /// Radians a position of each pair of a head of `head_dim` elements, whose frequencies would else be
    /// `theta^(-2 i / head_dim)`: for [`RotaryTable::from_inverse_frequencies`](super::RotaryTable::from_inverse_frequencies).
    ///
    /// # Errors
    /// [`Error::Shape`] for settings that give no frequencies.
    pub fn inverse_frequencies(&self, head_dim: usize, theta: f64) -> Result<Vec<f64>> {
        let context = self.original_max_position_embeddings as f64;
        let finite = [self.factor, self.beta_fast, self.beta_slow, theta].iter().all(|x| x.is_finite());
        let positive = context > 0.0 && self.beta_fast > 0.0 && self.beta_slow > 0.0 && theta > 1.0;
        let sizes = head_dim > 0 && head_dim.is_multiple_of(2);
        if !sizes || !finite || !positive || self.factor < 1.0 {
            let expected = "an even head_dim, theta above 1, a factor of at least 1, a context and limits above 0";
            return Err(Error::shape("yarn", expected, format!("head_dim {head_dim}, theta {theta}, {self:?}")));
        }
        let width = head_dim as f64;
        // The pair, not rounded, that turns so often over the context.
        let pair = |turns: f64| width * (context / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequency = |i: usize| {
            let own = theta.powf(-2.0 * i as f64 / width);
            let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            own / self.factor * divided + own * (1.0 - divided)
        };
        Ok((0..head_dim / 2).map(frequency).collect())
    }

    /// The factor on cosines and sines: [`Rope::scaling`](super::Rope::scaling).
    pub fn rotary_scaling(&self) -> f64 {
        let nonzero = |weight: Option<f64>| weight.filter(|&w| w != 0.0);
        match (self.attention_factor, nonzero(self.mscale), nonzero(self.mscale_all_dim)) {
            (Some(factor), ..) => factor,
            (None, Some(mscale), Some(all)) => magnitude(self.factor, mscale) / magnitude(self.factor, all),
            _ => magnitude(self.factor, 1.0),
        }
    }

    /// The factor on the scale of scores that DeepSeek has beside it, 1 without `mscale_all_dim`:
    /// `head_dim^-1/2` times it is [`Attention::scale`](crate::ops::Attention).
    pub fn score_scaling(&self) -> f64 {
        self.mscale_all_dim.map_or(1.0, |all| magnitude(self.factor, all).powi(2))
    }
}
