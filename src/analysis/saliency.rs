//! Measures of what an expert adds to the output of its layer for the tokens that chose it (METHOD §7).
//!
//! The saliency of REAP (arXiv 2510.13999) is `S_j = mean over the tokens t that chose expert j of w_tj |f_j(x_t)|_2`,
//! w the combine weight by which the model multiplies the expert's output f_j. If it did not matter which expert is
//! chosen, each would have the mean over all choices, and the saliencies of experts with n_j tokens would deviate by `s
//! sqrt(mean_j 1 / n_j)`, s the deviation of the products over all choices.

use super::observe::LayerView;
use super::record::Outputs;
use super::routed::Routed;
use crate::linalg::statistics::{deviation, mean};

/// Sums over the tokens of one expert.
#[derive(Clone, Copy, Default)]
struct Sums {
    tokens: usize,
    weight: f64,
    norm: f64,
    product: f64,
}

/// The saliencies and energies of layer `layer`, without the cosines of outputs; its shared expert has the share
/// `shared` of the hidden units that a token meets.
pub fn saliency(layer: usize, view: &LayerView, routed: Routed<'_>, shared: f64) -> Outputs {
    let mut sums = vec![Sums::default(); routed.experts];
    let mut products = Vec::with_capacity(routed.index.len());
    for ((&expert, &weight), &norm) in routed.index.iter().zip(routed.weight).zip(&view.norms) {
        let (weight, norm) = (f64::from(weight), f64::from(norm));
        let sum = &mut sums[expert as usize];
        sum.tokens += 1;
        sum.weight += weight;
        sum.norm += norm;
        sum.product += weight * norm;
        products.push(weight * norm);
    }
    let each = |of: fn(&Sums) -> f64| -> Vec<Option<f64>> {
        sums.iter().map(|s| (s.tokens > 0).then(|| of(s) / s.tokens as f64)).collect()
    };
    let saliency = each(|s| s.product);
    let defined: Vec<f64> = saliency.iter().flatten().copied().collect();
    let inverse = mean(sums.iter().filter(|s| s.tokens > 0).map(|s| 1.0 / s.tokens as f64));
    let energy = |squares: &[f32]| mean(squares.iter().map(|&x| f64::from(x)));
    let (routed_energy, shared_energy) = (energy(&view.routed_energy), energy(&view.shared_energy));
    let both = routed_energy.zip(shared_energy).map(|(routed, shared)| (shared, routed + shared));
    Outputs {
        layer,
        tokens: sums.iter().map(|s| s.tokens).collect(),
        null_saliency: mean(products.iter().copied()),
        saliency_spread: deviation(&defined),
        null_saliency_spread: deviation(&products).zip(inverse).map(|(s, inverse)| s * inverse.sqrt()),
        saliency,
        weight: each(|s| s.weight),
        norm: each(|s| s.norm),
        routed_energy,
        shared_energy,
        shared_share: both.filter(|(_, sum)| *sum > 0.0).map(|(shared, sum)| shared / sum),
        null_shared_share: shared_energy.map(|_| shared),
        ..Outputs::default()
    }
}
