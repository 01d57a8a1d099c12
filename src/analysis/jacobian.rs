//! Experts as functions: their Jacobians (METHOD §7).
//!
//! For `g = x W_gate`, `u = x W_up` an expert's Jacobian is, in row-vector layout (`J[i, j] = d y_j / d x_i`),
//!
//! ```text
//! J(x) = (W_gate diag(silu'(g) * u) + W_up diag(silu(g))) W_down                      d x d
//! v J(x) = ((v W_gate) * silu'(g) * u + (v W_up) * silu(g)) W_down                    for probes v: P x d
//! ```
//!
//! so the exact Jacobian is what the rows of the identity give as probes. Experts a, b are compared at the same tokens:
//! the mean over tokens of `<J_a, J_b>_F / (|J_a|_F |J_b|_F)`, and that cosine of the mean Jacobians. With Gaussian
//! probes `E <v J_a, v J_b> = <J_a, J_b>_F`; of P probes the cosine deviates by about `sqrt(2 / P)` in the worst case
//! (rank one), and by that over the square root of the effective rank in general; means over tokens deviate less.
//!
//! Independent Jacobians have the expected cosine 0: the null. The control measures experts whose matrices are Gaussian
//! with the norms of the real ones, at the same tokens; of spectra, those of the first two such experts.

use rayon::prelude::*;

use super::dense::{effective_rank, singular_values, widened};
use super::record::{Jacobians, Pairs, mean_relative};
use super::similarity::{mean_offdiag, spread_offdiag};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, wgsl};
use crate::kernels::Variant;
use crate::kernels::elementwise::axpby;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::random::{fill_normal, words};
use crate::linalg::statistics::mean;
use crate::tensor::Tensor;

/// Rows of the Jacobian before the down projection.
pub static JACOBIAN_ROWS: Kernel = Kernel::new("jacobian_rows", wgsl!["jacobian_rows.wgsl"]).params::<JacobianParams>();
const THREADS: u32 = 64;
/// Experts with Gaussian matrices whose spectra are the control: one looks much like another.
const FEW: usize = 2;

/// This module's kernels.
pub(crate) fn kernels() -> Vec<Variant> {
    vec![(&JACOBIAN_ROWS).into()]
}

crate::params! {
    struct JacobianParams { count: u32, rows: u32, hidden: u32, tokens: u32, token: u32 }
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// `[E, d, f]`.
    pub gate: &'a Tensor,
    /// `[E, d, f]`.
    pub up: &'a Tensor,
    /// `[E, f, d]`.
    pub down: &'a Tensor,
}

/// How Jacobians are taken.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct JacobianOptions {
    /// Number of Gaussian probes; none for exact Jacobians.
    pub probes: Option<usize>,
    /// Whether the singular values of the exact Jacobians are taken, at all tokens given.
    pub spectra: bool,
    /// Seed of probes and control.
    pub seed: u64,
}

setters!(JacobianOptions { probes: impl Into<Option<usize>>, spectra: bool, seed: u64 });

impl<'a> Experts<'a> {
    /// E, d and f.
    pub(super) fn sizes(&self) -> Result<[usize; 3]> {
        let [e, d, f] = *self.gate.dims() else {
            return Err(Error::shape("Jacobians", "gate [E, d, f]", format!("{:?}", self.gate)));
        };
        if self.up.dims() != [e, d, f] || self.down.dims() != [e, f, d] {
            let got = format!("{:?}, {:?}, {:?}", self.gate, self.up, self.down);
            return Err(Error::shape("Jacobians", "gate, up [E, d, f], down [E, f, d]", got));
        }
        Ok([e, d, f])
    }
}

/// Everything that does not depend on the token: probes through gate and up, and each expert's `g` and `u` of all
/// tokens.
#[derive(Debug)]
pub struct Prepared<'a> {
    experts: Experts<'a>,
    gate: Tensor,
    up: Tensor,
    g: Tensor,
    u: Tensor,
}

impl<'a> Prepared<'a> {
    /// For the tokens `x: [T, d]` and the probes `v: [P, d]`; none for exact Jacobians.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
    pub fn new(experts: Experts<'a>, x: &Tensor, probes: Option<&Tensor>) -> Result<Self> {
        let [e, _, f] = experts.sizes()?;
        let gpu = x.gpu();
        let through = |rows: &Tensor, w: &Tensor| -> Result<Tensor> {
            let y = Tensor::empty_f32(gpu, [e, rows.rows(), f])?;
            gemm(Trans::N, Trans::N, 1.0, rows, w, 0.0, &y)?;
            Ok(y)
        };
        let (gate, up) = match probes {
            Some(v) => (through(v, experts.gate)?, through(v, experts.up)?),
            None => (experts.gate.clone(), experts.up.clone()),
        };
        Ok(Self { gate, up, g: through(x, experts.gate)?, u: through(x, experts.up)?, experts })
    }

    /// Records `v J_e(x_t)` of token `t` for all experts: `[E, P, d]`; for exact Jacobians `[E, d, d]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn at(&self, t: usize) -> Result<Tensor> {
        let [e, d, f] = self.experts.sizes()?;
        let (gpu, rows) = (self.g.gpu(), self.gate.dims()[1]);
        let inner = Tensor::empty_f32(gpu, [e, rows, f])?;
        let params = JacobianParams {
            count: inner.numel() as u32,
            rows: rows as u32,
            hidden: f as u32,
            tokens: self.g.dims()[1] as u32,
            token: t as u32,
        };
        Launch::new(&JACOBIAN_ROWS)
            .constant("WG", THREADS)
            .params(&params)
            .read("gate", &self.gate)
            .read("up", &self.up)
            .read("g", &self.g)
            .read("u", &self.u)
            .write("y", &inner)
            .threads(inner.numel(), THREADS)
            .run(gpu)?;
        let y = Tensor::empty_f32(gpu, [e, rows, d])?;
        gemm(Trans::N, Trans::N, 1.0, &inner, self.experts.down, 0.0, &y)?;
        Ok(y)
    }
}

/// Inner products of all pairs of `j: [E, ..]`, `[E, E]`.
fn pair_products(j: &Tensor) -> Result<Tensor> {
    let e = j.dims()[0];
    let flat = j.reshape([e, j.numel() / e])?;
    let products = Tensor::empty_f32(j.gpu(), [e, e])?;
    gemm(Trans::N, Trans::T, 1.0, &flat, &flat, 0.0, &products)?;
    Ok(products)
}

/// `p_ab / sqrt(p_aa p_bb)` of the inner products `[E, E]`; none where p_aa or p_bb is zero.
pub(super) fn cosines(products: &[f32], e: usize) -> Pairs {
    let at = |a: usize, b: usize| f64::from(products[a * e + b]);
    let cosine = |a, b| {
        let norm = (at(a, a) * at(b, b)).sqrt();
        (norm > 0.0).then(|| (at(a, b) / norm).clamp(-1.0, 1.0))
    };
    (0..e).map(|a| (0..e).map(|b| cosine(a, b)).collect()).collect()
}

/// The two alignments of experts over the tokens `x: [T, d]`.
async fn alignment(experts: Experts<'_>, x: &Tensor, probes: Option<&Tensor>) -> Result<(Pairs, Pairs)> {
    let [e, ..] = experts.sizes()?;
    let prepared = Prepared::new(experts, x, probes)?;
    let mut sums = vec![vec![(0.0, 0usize); e]; e];
    let mut mean: Option<Tensor> = None;
    for t in 0..x.rows() {
        let j = prepared.at(t)?;
        for (row, cosines) in sums.iter_mut().zip(cosines(&pair_products(&j)?.to_f32().await?, e)) {
            for (cell, cosine) in row.iter_mut().zip(cosines) {
                if let Some(cosine) = cosine {
                    *cell = (cell.0 + cosine, cell.1 + 1);
                }
            }
        }
        match &mean {
            Some(sum) => axpby(1.0, &j, 1.0, sum)?,
            None => mean = Some(j),
        }
    }
    let means = match mean {
        Some(sum) => cosines(&pair_products(&sum)?.to_f32().await?, e),
        None => vec![vec![None; e]; e],
    };
    let over = |(sum, count): &(f64, usize)| (*count > 0).then(|| sum / *count as f64);
    Ok((sums.iter().map(|row| row.iter().map(over).collect()).collect(), means))
}

/// The Jacobians of layer `layer` at the tokens `x: [T, d]`; where those stand in a text is for the caller to add.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit; [`Error::Data`] for weights that are not finite; [`Error::Device`].
pub async fn jacobians(
    gpu: &Gpu,
    layer: usize,
    experts: Experts<'_>,
    x: &Tensor,
    options: JacobianOptions,
) -> Result<Jacobians> {
    let [e, d, _] = experts.sizes()?;
    let probes = match options.probes {
        Some(p) => {
            let v = Tensor::empty_f32(gpu, [p, d])?;
            fill_normal(&v, options.seed, stream(layer, 0), 1.0)?;
            Some(v)
        }
        None => None,
    };
    let (mean_of_cosines, cosine_of_means) = alignment(experts, x, probes.as_ref()).await?;

    let mut random = Vec::new();
    for (i, w) in [experts.gate, experts.up, experts.down].into_iter().enumerate() {
        random.push(matched(w, options.seed, stream(layer, i as u32 + 1)).await?);
    }
    let random = Experts { gate: &random[0], up: &random[1], down: &random[2] };
    let (control, _) = alignment(random, x, probes.as_ref()).await?;

    let [few_gate, few_up, few_down] = [&random.gate, &random.up, &random.down].map(|w| w.slice(0..FEW.min(e)));
    let few = Experts { gate: &few_gate?, up: &few_up?, down: &few_down? };
    let ((singular_values, effective_rank), (control_values, control_ranks)) = match options.spectra {
        true => (spectra(experts, x).await?, spectra(few, x).await?),
        false => ((vec![Vec::new(); e], vec![None; e]), (Vec::new(), Vec::new())),
    };
    Ok(Jacobians {
        layer,
        tokens: x.rows(),
        positions: Vec::new(),
        window: 0,
        sources: 0,
        probes: options.probes,
        mean_offdiag: mean_offdiag(&mean_of_cosines),
        spread: spread_offdiag(&mean_of_cosines),
        means_offdiag: mean_offdiag(&cosine_of_means),
        mean_of_cosines: mean_of_cosines.into(),
        cosine_of_means: cosine_of_means.into(),
        singular_values,
        mean_spectrum: Vec::new(),
        effective_rank,
        spectrum_control: mean_relative(&control_values),
        effective_rank_control: mean(control_ranks.into_iter().flatten()),
        null: 0.0,
        control: mean_offdiag(&control),
        control_spread: spread_offdiag(&control),
    })
}

/// Returns the singular values and the effective rank of each expert's exact Jacobian, means over the tokens of x;
/// without tokens no rank.
async fn spectra(experts: Experts<'_>, x: &Tensor) -> Result<(Vec<Vec<f64>>, Vec<Option<f64>>)> {
    let [e, d, _] = experts.sizes()?;
    let exact = Prepared::new(experts, x, None)?;
    let (mut values, mut ranks) = (vec![vec![0.0; d]; e], vec![Vec::new(); e]);
    for t in 0..x.rows() {
        let j = exact.at(t)?.to_f32().await?;
        let of_expert = |j: &[f32]| singular_values(widened(d, d, j).as_ref());
        let found: Vec<Vec<f64>> = j.par_chunks(d * d).map(of_expert).collect::<Result<_>>()?;
        for (expert, s) in found.iter().enumerate() {
            ranks[expert].extend(effective_rank(s.iter().map(|s| s * s)));
            values[expert].iter_mut().zip(s).for_each(|(sum, s)| *sum += s / x.rows() as f64);
        }
    }
    Ok((values, ranks.into_iter().map(|r| mean(r.into_iter())).collect()))
}

/// A random stream of its own for each layer and use.
pub(super) fn stream(layer: usize, part: u32) -> u32 {
    words(0, layer as u32, part)[0]
}

/// Gaussian matrices of the size of `w: [E, m, n]`, each with the norm of its model.
pub(super) async fn matched(w: &Tensor, seed: u64, stream: u32) -> Result<Tensor> {
    let [e, m, n] = *w.dims() else { return Err(Error::shape("Jacobians", "[E, m, n]", format!("{w:?}"))) };
    let norms = crate::kernels::spectral::square_norms(w, 0)?.to_f32().await?;
    let random = Tensor::empty_f32(w.gpu(), [e, m, n])?;
    for (expert, norm) in norms.into_iter().enumerate() {
        // Drawn on its own and copied: a slice may not start where a binding can.
        let one = Tensor::empty_f32(w.gpu(), [1, m, n])?;
        fill_normal(&one, seed, stream.wrapping_add(expert as u32), (norm / (m * n) as f32).sqrt())?;
        random.slice(expert..expert + 1)?.copy_from(&one)?;
    }
    Ok(random)
}
