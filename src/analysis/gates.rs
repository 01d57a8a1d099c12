//! What the router follows (METHOD §6): how much of an expert's router vector lies in the leading input directions of its
//! own gate matrix, and of the other experts'.
//!
//! `score(i, j) = |V_j^T r_i|^2 / |r_i|^2`, `V_j` the top r input-side singular vectors of expert j's `W_gate`, `r_i` the
//! router vector of expert i. A random vector scores r / d. A zero router vector and an expert whose gate matrix has less
//! than r dimensions have no score.

use faer::MatRef;

use super::dense;
use super::record::{Gates, Pairs};
use crate::error::{Error, Result};
use crate::linalg::random::normal;
use crate::optim::spectral_metrics::mean;

/// Random router vectors for each expert, of which the control is the mean: with 60 experts and r = 15 it is then good to
/// 1 % of itself.
const CONTROL_VECTORS: usize = 16;
/// Their streams of random numbers, away from those of matrices.
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

/// Share of the energy of each vector within each subspace, given by orthonormal bases `[d, r]`: vectors by subspaces. None
/// for a zero vector or an undefined subspace.
pub fn alignment(vectors: &[Vec<f64>], bases: &[Option<MatRef<'_, f64>>]) -> Pairs {
    let score = |x: &Vec<f64>, basis: &Option<MatRef<'_, f64>>| {
        let x = MatRef::from_column_major_slice(x, x.len(), 1);
        let energy = x.squared_norm_l2();
        let inside = dense::transposed_product((*basis)?, x).squared_norm_l2();
        (energy > 0.0).then(|| (inside / energy).min(1.0))
    };
    vectors.iter().map(|x| bases.iter().map(|basis| score(x, basis)).collect()).collect()
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
    let random = |i: usize| -> Vec<f64> {
        (0..d)
            .map(|j| f64::from(normal(seed, CONTROL_STREAM + (layer * CONTROL_VECTORS + i) as u32, j as u32)))
            .collect()
    };
    let random: Vec<Vec<f64>> = (0..CONTROL_VECTORS).map(random).collect();
    let control = mean(alignment(&random, bases).into_iter().flatten().flatten());
    Ok(Gates { layer, r, own, cross: cross.into(), specificity, data: None, null: r as f64 / d as f64, control })
}

/// The share of each expert's router vector within the leading directions of the layer's input, `basis: [d, r]` by rows.
pub(super) fn with_data(router: &Router<'_>, experts: usize, d: usize, basis: &[f32]) -> Vec<Option<f64>> {
    let basis = dense::widened(d, basis.len() / d, basis);
    let vectors: Vec<Vec<f64>> = (0..experts).map(|e| router.vector(e, experts, d)).collect();
    alignment(&vectors, &[Some(basis.as_ref())]).into_iter().map(|scores| scores[0]).collect()
}
