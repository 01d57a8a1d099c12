//! The tokens of a layer and the experts that they went to, on the host: what load, routed PCA and activations start
//! from.

use crate::error::{Error, Result};

/// Tokens and their experts.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// The layer's input, `[tokens, d]` by rows.
    pub x: &'a [f32],
    /// Width d.
    pub d: usize,
    /// Chosen experts, `[tokens, K]`.
    pub index: &'a [u32],
    /// Combine weights, `[tokens, K]`.
    pub weight: &'a [f32],
    /// K.
    pub top_k: usize,
    /// E.
    pub experts: usize,
}

impl<'a> Routed<'a> {
    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not; [`Error::Data`] for an expert that does not exist.
    pub fn check(self) -> Result<Self> {
        let Routed { x, d, index, weight, top_k, experts } = self;
        if d == 0 || top_k == 0 || x.len() / d * top_k != index.len() || x.len() % d != 0 || weight.len() != index.len()
        {
            let got = format!("x {} at d {d}, index {}, weight {} at K {top_k}", x.len(), index.len(), weight.len());
            return Err(Error::shape("routed tokens", "x [T, d], index [T, K], weight [T, K]", got));
        }
        match index.iter().find(|&&e| e as usize >= experts) {
            Some(e) => Err(Error::Data(format!("routing: expected experts below {experts}, got {e}"))),
            None => Ok(self),
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.index.len() / self.top_k
    }

    /// The input of token `t`.
    pub fn row(&self, t: usize) -> &'a [f32] {
        &self.x[t * self.d..(t + 1) * self.d]
    }

    /// Tokens of each expert with their combine weights, in the tokens' order.
    pub fn groups(&self) -> Vec<Vec<(usize, f64)>> {
        let mut groups = vec![Vec::new(); self.experts];
        for (pair, (&e, &w)) in self.index.iter().zip(self.weight).enumerate() {
            groups[e as usize].push((pair / self.top_k, f64::from(w)));
        }
        groups
    }
}

/// A permutation of `0..n` from `seed`: what the controls shuffle tokens by.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    order
}

/// The choices and weights `[T, K]` of the same tokens in another order, from `seed`: random groups of the sizes that
/// routing makes.
pub fn permuted(index: &[u32], weight: &[f32], top_k: usize, seed: u64) -> (Vec<u32>, Vec<f32>) {
    let order = permutation(index.len() / top_k, seed);
    let place = |&t: &usize| t * top_k..(t + 1) * top_k;
    let index = order.iter().flat_map(|t| &index[place(t)]).copied().collect();
    (index, order.iter().flat_map(|t| &weight[place(t)]).copied().collect())
}
