//! Singular values and subspaces of stacks of matrices (METHOD §6), and what a spectrum says.
//!
//! Matrices come a few at a time, [`Stack`]; at most one binding's worth of them is in memory and on the device, or one
//! for each thread of the host. Small ones (a side of at most [`SpectrumOptions::whole_up_to`]) are decomposed whole,
//! in f64 on the host, which takes milliseconds; of larger ones the leading tenth comes from `lanczos`.

use faer::Mat;
use rayon::prelude::*;

use super::dense;
use super::lanczos::{self, Draw, Extent, Leading};
use super::record::{Of, Spectrum};
pub use super::stack::{Elements, ReadMatrices, Stack};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ExpertMatrix;
use crate::tensor::Tensor;

/// Singular values below this share of the largest are rounding: inputs are f32, and products sum hundreds of them.
const NEGLIGIBLE: f64 = 1e-6;

/// Which singular values, and what a top subspace is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct SpectrumOptions {
    /// Share of min(m, n) in the top part, rounded up: 0.01.
    pub top: f64,
    /// Dimensions of compared subspaces; 0 for those of the top part.
    pub subspace: usize,
    /// Share of the singular values that is computed, 0.1; from 1 on all, whatever it takes.
    pub values: f64,
    /// Matrices with a side of at most this are decomposed whole.
    pub whole_up_to: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Where large matrices are multiplied with.
    pub products: Products,
    /// Whether [`Directions`] of the experts' weights are kept.
    pub directions: bool,
}

setters!(SpectrumOptions {
    top: f64,
    subspace: usize,
    values: f64,
    whole_up_to: usize,
    seed: u64,
    products: Products,
    directions: bool,
});

/// Where the products of large matrices with Krylov spaces are computed. Both ways give the same to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Products {
    /// On the device, unless that is software: then on the host, whose cores are the same and faster without it.
    #[default]
    Fastest,
    /// On the device.
    Device,
    /// On the host, a matrix a thread.
    Host,
}

impl Products {
    fn on_host(self, gpu: &Gpu) -> bool {
        match self {
            Products::Fastest => gpu.adapter().is_software(),
            Products::Device => false,
            Products::Host => true,
        }
    }
}

impl Default for SpectrumOptions {
    fn default() -> Self {
        Self {
            top: 0.01,
            subspace: 0,
            values: 0.1,
            whole_up_to: 256,
            seed: 0,
            products: Products::Fastest,
            directions: false,
        }
    }
}

/// `share` of `size`, rounded up, at least 1 and at most `size`.
pub(crate) fn part(share: f64, size: usize) -> usize {
    // A product like 0.01 * 700 is 7.000000000000001.
    ((share * size as f64 - 1e-9).ceil() as usize).clamp(1, size.max(1))
}

/// The parts of the spectrum that are computed of matrices of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    /// Values in the top part.
    pub top: usize,
    /// Dimensions of compared subspaces.
    pub r: usize,
    /// Singular values reported.
    pub keep: usize,
    /// Dimensions of the Krylov space; none to decompose the matrix whole.
    krylov: Option<usize>,
    /// The seed of everything random.
    pub seed: u64,
    /// Where the products with the Krylov space are computed.
    products: Products,
    /// Whether [`Directions`] are kept.
    directions: bool,
}

impl SpectrumOptions {
    /// Returns what these options mean for matrices `rows x columns`.
    pub(super) fn plan(&self, rows: usize, columns: usize) -> Plan {
        let short = rows.min(columns);
        let top = part(self.top, short);
        let r = if self.subspace == 0 { top } else { self.subspace.min(short) };
        let wanted = part(self.values, short).max(top).max(r);
        let krylov = lanczos::dimensions(wanted);
        // Near the whole space there is nothing to save.
        let whole = short <= self.whole_up_to || 2 * krylov > short + krylov / 2;
        let keep = if whole { short } else { wanted };
        let krylov = (!whole).then_some(krylov);
        Plan { top, r, keep, krylov, seed: self.seed, products: self.products, directions: false }
    }
}

impl Plan {
    /// Returns the same plan with subspaces of r dimensions.
    pub(super) fn with_subspace(self, r: usize) -> Self {
        Plan { r, keep: self.keep.max(r), krylov: self.krylov.map(|k| k.max(lanczos::dimensions(r))), ..self }
    }

    /// Returns the same plan with or without [`Directions`].
    pub(super) fn with_directions(self, directions: bool) -> Self {
        Plan { directions, ..self }
    }

    /// Whether all singular values and vectors are computed.
    pub(super) fn whole(&self) -> bool {
        self.krylov.is_none()
    }
}

/// The left singular vectors of a matrix `[in, out]`, of one that is stored transposed the right ones, as far as they are computed:
/// the directions of its input that it scales by `s`.
#[derive(Clone, Debug, PartialEq)]
pub struct Directions {
    /// Singular values, falling.
    pub s: Vec<f64>,
    /// The vectors, `[in, s.len()]`, row-major.
    pub u: Vec<f32>,
}

/// The findings on one matrix.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Falling; the leading ones, or all.
    pub s: Vec<f64>,
    /// Whether those are all.
    pub all: bool,
    /// `|W|_F^2`.
    pub energy: f64,
    /// Bases of the leading r left and right singular vectors; none where the rank is below r.
    pub top: Option<[Mat<f64>; 2]>,
    /// The other singular vectors of the longer side, where all are known and the rank is full.
    pub tail: Option<Mat<f64>>,
    /// Where the plan has them.
    pub directions: Option<Directions>,
}

impl Measured {
    fn new(found: Leading, energy: f64, plan: Plan, transposed: bool) -> Self {
        let Leading { s, u, v } = found;
        let (all, r) = (plan.whole(), plan.r);
        let beyond = |i: usize| s.get(i).is_some_and(|&x| x > NEGLIGIBLE * s[0]);
        let top = beyond(r - 1).then(|| [&u, &v].map(|x| dense::columns(x.as_ref(), 0..r)));
        let tail = (all && u.nrows() != v.nrows() && s.len() > r && beyond(s.len() - 1)).then(|| {
            let long = if u.nrows() > v.nrows() { &u } else { &v };
            dense::columns(long.as_ref(), r..s.len())
        });
        let inputs = if transposed { &v } else { &u };
        let directions =
            plan.directions.then(|| Directions { s: s.clone(), u: dense::rows(inputs.as_ref()).collect() });
        Self { s, all, energy, top, tail, directions }
    }

    /// Share of the leading `count` in the energy; 0 for a zero matrix.
    pub(super) fn energy_share(&self, count: usize) -> f64 {
        if self.energy == 0.0 {
            return 0.0;
        }
        (self.s.iter().take(count).map(|s| s * s).sum::<f64>() / self.energy).min(1.0)
    }

    /// `|W|_F^2 / s_1^2`; 0 for a zero matrix, whose rank is 0.
    pub(super) fn stable_rank(&self) -> f64 {
        self.s.first().filter(|&&s| s > 0.0).map_or(0.0, |s| self.energy / (s * s))
    }

    /// `exp(-sum p ln p)`, `p = s^2 / sum s^2`; none for a zero matrix or where not all are known.
    pub(super) fn effective_rank(&self) -> Option<f64> {
        dense::effective_rank(self.s.iter().map(|s| s * s)).filter(|_| self.all)
    }

    /// The row of the record.
    pub(super) fn spectrum(
        &self,
        layer: usize,
        matrix: ExpertMatrix,
        expert: Option<usize>,
        of: Of,
        top: usize,
    ) -> Spectrum {
        Spectrum {
            layer,
            matrix,
            expert,
            of,
            energy_top: self.energy_share(top),
            energy_top_control: None,
            stable_rank: self.stable_rank(),
            stable_rank_control: None,
            effective_rank: self.effective_rank(),
            effective_rank_control: None,
            frobenius: self.energy.sqrt(),
            singular_values: self.s.clone(),
        }
    }
}

/// Decomposes the matrices of a stack. `key` names the stack: with the seed it decides all random directions, so that
/// stacks differ, and a matrix gives the same whatever is in memory beside it.
///
/// # Errors
/// [`Error::Shape`] when the elements do not fit; [`Error::Data`] for a matrix that is not finite or empty;
/// [`Error::Device`]; the reader's own.
pub(super) async fn measure(gpu: &Gpu, stack: &Stack<'_>, plan: Plan, key: u64) -> Result<Vec<Measured>> {
    let (rows, columns) = (stack.rows, stack.columns);
    if rows * columns == 0 {
        return Err(Error::shape("spectra", "matrices with elements", format!("{rows} x {columns}")));
    }
    // Keys are small numbers; the golden ratio spreads them over the seeds.
    let seed = plan.seed ^ key.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let energy = |i: usize, w: &[f32]| {
        let energy: f64 = w.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let message = || Error::Data(format!("matrix {i} ({rows} x {columns}) is not finite"));
        if energy.is_finite() { Ok(energy) } else { Err(message()) }
    };
    let draw = |i: usize| Draw { seed, stream: i as u32 };
    let extent = |size| Extent { keep: plan.keep, vectors: if plan.directions { plan.keep } else { plan.r }, size };
    let Some(size) = plan.krylov.filter(|_| !plan.products.on_host(gpu)) else {
        let transposed = stack.transposed;
        let one = |i: usize, w: &[f32]| {
            let energy = energy(i, w)?;
            let found = match plan.krylov {
                None => whole(rows, columns, w),
                Some(size) => lanczos::leading_on_host(w, [rows, columns], draw(i), extent(size), energy.sqrt()),
            };
            Ok(Measured::new(found?, energy, plan, transposed))
        };
        return stack.on_host(one).await;
    };
    let mut all = Vec::with_capacity(stack.count);
    let on_device = async |first: usize, x: &[f32]| {
        let matrices: Vec<(usize, &[f32])> = x.chunks_exact(rows * columns).enumerate().collect();
        let energies = matrices.par_iter().map(|(i, w)| energy(first + i, w)).collect::<Result<Vec<f64>>>()?;
        let draws: Vec<Draw> = (first..first + matrices.len()).map(draw).collect();
        let norm = energies.iter().copied().fold(0.0, f64::max).sqrt();
        let w = Tensor::from_f32(gpu, [matrices.len(), rows, columns], x)?;
        let found = lanczos::leading(gpu, &w, &draws, extent(size), norm).await?;
        all.extend(
            found.into_iter().zip(energies).map(|(found, energy)| Measured::new(found, energy, plan, stack.transposed)),
        );
        Ok(())
    };
    stack.for_parts(gpu, on_device).await?;
    Ok(all)
}

fn whole(rows: usize, columns: usize, w: &[f32]) -> Result<Leading> {
    let (s, u, v) = dense::svd(dense::widened(rows, columns, w).as_ref())?;
    Ok(Leading { s, u, v })
}
