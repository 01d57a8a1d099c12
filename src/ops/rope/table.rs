//! The frequencies of rotary positions, as the shader reads them.

use std::f64::consts::TAU;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::tensor::{DType, Tensor};

/// The frequency of each pair of a head's elements: made once for a model, on the host, and shared by all its layers.
///
/// A frequency is a 64-bit fraction of a turn a position, so that `position * frequency` is exact to `position * 2^-64`
/// turns at any position. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    fractions: Tensor,
    inverse: Arc<[f64]>,
}

/// 1 / (2 pi) as a 64-bit fraction.
const PER_TURN: u64 = 0x28be_60db_9391_054a;

impl RotaryTable {
    /// The table for heads of `head_dim` elements, where pair i turns by `theta^(-2 i / head_dim)` radians a position.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `head_dim` is even and above 0, and theta is finite and at least 1; [`Error::Device`].
    pub fn new(gpu: &Gpu, head_dim: usize, theta: f64) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(2) || theta < 1.0 || !theta.is_finite() {
            let got = format!("head_dim {head_dim}, theta {theta}");
            return Err(Error::shape("rope", "an even head_dim above 0, a finite theta of at least 1", got));
        }
        let power = |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64);
        // A frequency is the product, over the bits of i, of the powers of theta for these bits: exact to a few units in
        // the last place of 64 bits, where theta^(-2 i / head_dim) itself would have the 53 of an f64.
        let bits = usize::BITS - (head_dim / 2 - 1).leading_zeros();
        let powers: Vec<u64> = (0..bits).map(|bit| (power(1 << bit) * 2f64.powi(64)) as u64).collect();
        let fraction = |pair: usize| {
            let set = powers.iter().enumerate().filter(|(bit, _)| pair >> bit & 1 == 1);
            set.fold(PER_TURN, |product, (_, &power)| multiply_fractions(product, power))
        };
        Self::of(gpu, (0..head_dim / 2).map(fraction).collect(), (0..head_dim / 2).map(power).collect())
    }

    /// The table for heads of `2 * inverse_frequencies.len()` elements, where pair i turns by `inverse_frequencies[i]`
    /// radians a position: what [`Yarn::inverse_frequencies`](super::Yarn::inverse_frequencies) gives.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is none, or one that is negative or not finite; [`Error::Device`].
    pub fn from_inverse_frequencies(gpu: &Gpu, inverse_frequencies: &[f64]) -> Result<Self> {
        if inverse_frequencies.is_empty() || inverse_frequencies.iter().any(|f| !(0.0..f64::INFINITY).contains(f)) {
            let got = format!("{inverse_frequencies:?}");
            return Err(Error::shape("rope", "frequencies that are finite and not negative", got));
        }
        // Whole turns change nothing.
        let fraction = |&f: &f64| ((f / TAU).fract() * 2f64.powi(64)) as u64;
        Self::of(gpu, inverse_frequencies.iter().map(fraction).collect(), inverse_frequencies.to_vec())
    }

    fn of(gpu: &Gpu, fractions: Vec<u64>, inverse: Vec<f64>) -> Result<Self> {
        let tensor = Tensor::persistent(gpu, [fractions.len(), 2], DType::U32)?;
        let words: Vec<u32> = fractions.iter().flat_map(|&f| [(f >> 32) as u32, f as u32]).collect();
        tensor.write_u32(&words)?;
        Ok(Self { fractions: tensor, inverse: inverse.into() })
    }

    /// Elements of a head, twice the number of pairs.
    pub fn head_dim(&self) -> usize {
        2 * self.inverse.len()
    }

    /// Radians a position by pair, in f64.
    pub fn inverse_frequencies(&self) -> &[f64] {
        &self.inverse
    }

    /// Turns a position by pair, `u32 [head_dim / 2, 2]`: the high and the low word of a 64-bit fraction.
    pub fn fractions(&self) -> &Tensor {
        &self.fractions
    }
}

/// The product of two 64-bit fractions, to a few units in the last place.
fn multiply_fractions(a: u64, b: u64) -> u64 {
    let ([a_high, a_low], [b_high, b_low]) = ([a >> 32, a & 0xffff_ffff], [b >> 32, b & 0xffff_ffff]);
    a_high * b_high + ((a_high * b_low) >> 32) + ((a_low * b_high) >> 32)
}
