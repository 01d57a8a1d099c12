//! The alignment of the router with the experts (METHOD §6): how much of an expert's router vector lies in the leading
//! input directions of its own gate matrix, and of the other experts'.
//!
//! `score(i, j) = |V_j^T r_i|^2 / |r_i|^2`, `V_j` the top r input-side singular vectors of expert j's `W_gate`, `r_i`
//! the router vector of expert i. A random vector scores r / d. Specificity is the mean of own scores over the mean of
//! the others, a ratio of means, whose chance is 1; the mean or median of the experts' own ratios has another, below 1,
//! which depends on r, d and E. A zero router vector and an expert whose gate matrix has less than r dimensions have no
//! score.
//!
//! The router's stable rank `|R|_F^2 / |R|_2^2` says in about how many directions of the input it tells tokens apart.

use faer::MatRef;

use super::dense;
use super::record::{Gates, Pairs};
use super::similarity::mean_offdiag;
use crate::error::{Error, Result};
use crate::linalg::random::normal;
use crate::linalg::statistics::{deviation, mean};

/// Random routers, of one vector for each expert, that the controls are means over.
const CONTROL_ROUTERS: usize = 16;
/// Routers, among those, whose stable rank is the control: one deviates from another by a few per cent.
const RANK_ROUTERS: usize = 2;
/// Their stream of random numbers, away from those of matrices.
const CONTROL_STREAM: u32 = 1 << 30;

/// Router vectors, one for each expert, on the host.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// The elements, row-major.
    pub elements: &'a [f32],
    /// Whether they are stored `[experts, d]`, as Hugging Face does; METHOD's R is `[d, experts]`.
    pub transposed: bool,
}

impl Router<'_> {
    fn vector(&self, expert: usize, experts: usize, d: usize) -> Vec<f64> {
        let at = |i: usize| if self.transposed { expert * d + i } else { i * experts + expert };
        (0..d).map(|i| f64::from(self.elements[at(i)])).collect()
    }
}

/// Share of the energy of each vector within each subspace, given by orthonormal bases `[d, r]`: vectors by subspaces.
/// None for a zero vector or an undefined subspace.
pub(crate) fn alignment(vectors: &[Vec<f64>], bases: &[Option<MatRef<'_, f64>>]) -> Pairs {
    let mut scores: Pairs = vectors.iter().map(|_| vec![None; bases.len()]).collect();
    let d = vectors.first().map_or(0, Vec::len);
    // All vectors beside each other: one product for each basis.
    let stack = vectors.concat();
    let stack = MatRef::from_column_major_slice(&stack, d, vectors.len());
    let energies: Vec<f64> = stack.col_iter().map(|x| x.squared_norm_l2()).collect();
    for (j, basis) in bases.iter().enumerate() {
        let Some(basis) = basis else { continue };
        let inside = dense::transposed_product(*basis, stack);
        for ((row, inside), energy) in scores.iter_mut().zip(inside.col_iter()).zip(&energies) {
            row[j] = (*energy > 0.0).then(|| (inside.squared_norm_l2() / energy).min(1.0));
        }
    }
    scores
}

/// The gate alignment of a layer whose experts have the input-side bases `bases: [d, r]`.
///
/// # Errors
/// [`Error::Shape`] when the router does not fit; [`Error::Data`] when it is not finite.
pub(super) fn gates(
    layer: usize,
    router: &Router<'_>,
    bases: &[Option<MatRef<'_, f64>>],
    [d, r]: [usize; 2],
    seed: u64,
) -> Result<Gates> {
    let experts = bases.len();
    if router.elements.len() != experts * d {
        let expected = format!("router vectors of {experts} experts and {d} dimensions");
        return Err(Error::shape("gate alignment", expected, format!("{} elements", router.elements.len())));
    }
    if router.elements.iter().any(|x| !x.is_finite()) {
        return Err(Error::Data(format!("the router of layer {layer} is not finite")));
    }
    let vectors: Vec<Vec<f64>> = (0..experts).map(|e| router.vector(e, experts, d)).collect();
    let cross = alignment(&vectors, bases);
    let own: Vec<Option<f64>> = (0..experts).map(|e| cross[e][e]).collect();
    let specificity = (0..experts).map(|e| {
        let others = mean(cross[e].iter().enumerate().filter(|&(j, _)| j != e).filter_map(|(_, &s)| s))?;
        (others > 0.0).then_some(own[e]? / others)
    });
    let specificity = specificity.collect();
    let random_vector = |router: usize, expert: usize| -> Vec<f64> {
        let stream = CONTROL_STREAM + (layer * CONTROL_ROUTERS + router) as u32;
        (0..d).map(|j| f64::from(normal(seed, stream, (expert * d + j) as u32))).collect()
    };
    let (mut alignments, mut specificities, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
    for router in 0..CONTROL_ROUTERS {
        let vectors: Vec<Vec<f64>> = (0..experts).map(|expert| random_vector(router, expert)).collect();
        let cross = alignment(&vectors, bases);
        alignments.extend(own_mean(&cross));
        specificities.extend(ratio_of_means(&cross));
        if router < RANK_ROUTERS {
            ranks.extend(stable_rank(&vectors)?);
        }
    }
    let (width, count) = (d as f64, experts as f64);
    Ok(Gates {
        layer,
        r,
        specificity,
        mean_specificity: ratio_of_means(&cross),
        specificity_control: mean(specificities.iter().copied()),
        specificity_control_spread: deviation(&specificities),
        data: None,
        null: r as f64 / d as f64,
        spread: deviation(&own.iter().flatten().copied().collect::<Vec<f64>>()),
        control: mean(alignments.iter().copied()),
        control_spread: deviation(&alignments),
        stable_rank: stable_rank(&vectors)?,
        stable_rank_null: Some(width * count / (width.sqrt() + count.sqrt()).powi(2)),
        stable_rank_control: mean(ranks.into_iter()),
        own,
        cross: cross.into(),
    })
}

/// The stable rank of the matrix of these vectors; none where all are zero.
fn stable_rank(vectors: &[Vec<f64>]) -> Result<Option<f64>> {
    let (d, all) = (vectors.first().map_or(0, Vec::len), vectors.concat());
    let matrix = MatRef::from_column_major_slice(&all, d, vectors.len());
    let narrow = if d < vectors.len() { matrix.transpose() } else { matrix };
    let (energies, _) = dense::gram_eigen(narrow, 0)?;
    let largest = energies.first().copied().filter(|largest| *largest > 0.0);
    Ok(largest.map(|largest| energies.iter().sum::<f64>() / largest))
}

/// Mean alignment of router vectors with their own experts.
fn own_mean(cross: &Pairs) -> Option<f64> {
    mean(cross.iter().enumerate().filter_map(|(i, row)| row[i]))
}

/// That over the mean alignment with other experts; none where the latter is 0.
fn ratio_of_means(cross: &Pairs) -> Option<f64> {
    let others = mean_offdiag(cross).filter(|x| *x > 0.0)?;
    Some(own_mean(cross)? / others)
}

/// The share of each expert's router vector within the leading directions of the layer's input, `basis: [d, r]` by
/// rows.
pub(super) fn with_data(router: &Router<'_>, experts: usize, d: usize, basis: &[f32]) -> Vec<Option<f64>> {
    let basis = dense::widened(d, basis.len() / d, basis);
    let vectors: Vec<Vec<f64>> = (0..experts).map(|e| router.vector(e, experts, d)).collect();
    alignment(&vectors, &[Some(basis.as_ref())]).into_iter().map(|scores| scores[0]).collect()
}

#[cfg(test)]
mod tests {
    use faer::Mat;

    use super::*;

    /// Orthonormal columns that are unit vectors: expert e has directions e r .. (e + 1) r.
    fn bases(experts: usize, d: usize, r: usize) -> Vec<Mat<f64>> {
        (0..experts).map(|e| Mat::from_fn(d, r, |i, j| f64::from(i == e * r + j))).collect()
    }

    fn of(vectors: &[f32], experts: usize, d: usize, r: usize) -> Gates {
        let bases = bases(experts, d, r);
        let bases: Vec<_> = bases.iter().map(|b| Some(b.as_ref())).collect();
        gates(0, &Router { elements: vectors, transposed: true }, &bases, [d, r], 3).unwrap()
    }

    #[test]
    fn a_router_that_knows_nothing_has_a_specificity_of_one_however_few_the_directions() {
        let (experts, d) = (8, 128);
        for r in [1, 2, 13] {
            let routers: Vec<Gates> = (0..200)
                .map(|router| {
                    let draw = |i| normal(99, router, i as u32);
                    of(&(0..experts * d).map(draw).collect::<Vec<f32>>(), experts, d, r)
                })
                .collect();
            let all: Vec<f64> = routers.iter().filter_map(|g| g.mean_specificity).collect();
            let (centre, spread) = (mean(all.iter().copied()).unwrap(), deviation(&all).unwrap());
            // A ratio of means of E and of E (E - 1) scores: unbiased but for the scatter of its denominator, about 2 /
            // (r E (E - 1)) where scores scatter by sqrt(2 / r) of their mean; four deviations of the 200 routers'
            // mean.
            let bias = 2.0 / (r * experts * (experts - 1)) as f64;
            assert!((centre - 1.0).abs() < bias + 4.0 * spread / 200f64.sqrt(), "r {r}: {centre} ± {spread}");
            // The controls say the same, of sixteen routers.
            let controls: Vec<f64> = routers.iter().filter_map(|g| g.specificity_control).collect();
            let spreads = mean(routers.iter().filter_map(|g| g.specificity_control_spread)).unwrap();
            assert!((controls[0] - 1.0).abs() < bias + spread, "r {r}: {}", controls[0]);
            assert!((spreads / spread - 1.0).abs() < 0.6, "r {r}: {spreads} for {spread}");
        }
    }

    #[test]
    fn a_router_vector_in_its_experts_directions_is_specific() {
        // Half of its energy in the own expert's only direction, a quarter in the next one's.
        let vectors: Vec<f32> = (0..4 * 16)
            .map(|i| match (i % 16 + 4 - i / 16) % 4 {
                _ if i % 16 == 5 => 1.0,
                _ if i % 16 >= 4 => 0.0,
                0 => 2f32.sqrt(),
                1 => 1.0,
                _ => 0.0,
            })
            .collect();
        let found = of(&vectors, 4, 16, 1);
        assert!(found.own.iter().all(|x| (x.unwrap() - 0.5).abs() < 1e-6), "{found:?}");
        assert!((found.mean_specificity.unwrap() - 0.5 / (0.25 / 3.0)).abs() < 1e-5, "{found:?}");
        assert!(found.spread.unwrap() < 1e-6);
        // The vectors' products are positive and circulant, so the leading direction is that of their sum.
        let square = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let sums: Vec<f32> = (0..16).map(|i| (0..4).map(|e| vectors[e * 16 + i]).sum::<f32>() / 2.0).collect();
        assert!((found.stable_rank.unwrap() - square(&vectors) / square(&sums)).abs() < 1e-6, "{found:?}");
    }
}
