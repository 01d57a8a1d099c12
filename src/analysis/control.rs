//! Controls, what the same measurement gives where there is nothing to find: independent Gaussian matrices of the same
//! sizes.
//!
//! The singular subspaces of a Gaussian matrix are uniformly distributed whatever its spectrum, so what the control
//! shows beyond the analytic null `r / D` is the measurement's own doing: sketches, iteration, the cut between top and
//! tail. And its spectrum, the flattest of all, is the hardest to measure. Once for each size; a matrix and its
//! transpose share it.

use std::collections::HashMap;

use faer::MatRef;

use super::record::Part;
use super::similarity::{Overlaps, mean_offdiag, spread_offdiag, top_and_tail};
use super::spectra::{Elements, Measured, Plan, Stack, measure};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::linalg::random::fill_normal;
use crate::linalg::statistics::mean;
use crate::tensor::Tensor;

/// Matrices of a control where they are decomposed whole: 120 pairs.
const SMALL_MATRICES: usize = 16;
/// And where they are large: 28 pairs. With r = 15 their mean is good to 2 % of itself.
const LARGE_MATRICES: usize = 8;
/// The key of control matrices in [`measure`], away from the layers'.
const KEY: u64 = 1 << 40;
/// Their stream of random numbers.
const STREAM: u32 = 1 << 31;

/// The controls of one size of matrix.
#[derive(Clone, Debug)]
pub(super) struct Control {
    /// Share of the top part in the energy.
    pub energy_top: f64,
    /// `|W|_F^2 / s_1^2`.
    pub stable_rank: f64,
    /// `exp` of the spectrum's entropy, where all singular values are known.
    pub effective_rank: Option<f64>,
    /// Singular values over the largest, means.
    pub relative: Vec<f64>,
    /// Matrices drawn.
    pub draws: usize,
    /// Similarity of the shorter side: top, tail.
    short: [Alike; 2],
    /// The length of the longer side.
    long: [Alike; 2],
}

/// How alike the matrices of a control are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alike {
    /// Mean over pairs.
    pub mean: Option<f64>,
    /// Standard deviation over pairs.
    pub spread: Option<f64>,
}

impl Control {
    /// The similarity on the side of dimension `space`, of matrices whose sides are `sizes`.
    pub(super) fn similarity(&self, space: usize, sizes: [usize; 2], part: Part) -> Alike {
        let of = if space == sizes[0].min(sizes[1]) { &self.short } else { &self.long };
        of[usize::from(part == Part::Tail)]
    }
}

/// The controls that were measured.
#[derive(Clone, Debug, Default)]
pub struct Controls {
    known: HashMap<([usize; 2], Plan), Control>,
}

impl Controls {
    /// The control of matrices `rows x columns` under a plan, measured at the first call.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub(super) async fn get(&mut self, gpu: &Gpu, rows: usize, columns: usize, plan: Plan) -> Result<Control> {
        let (long, short) = (rows.max(columns), rows.min(columns));
        let key = ([long, short], plan);
        if let Some(control) = self.known.get(&key) {
            return Ok(control.clone());
        }
        let count = if plan.whole() { SMALL_MATRICES } else { LARGE_MATRICES };
        let w = Tensor::empty_f32(gpu, [count, long, short])?;
        fill_normal(&w, plan.seed, STREAM, 1.0)?;
        let stack = Stack { count, rows: long, columns: short, transposed: false, elements: Elements::Device(&w) };
        let found = measure(gpu, &stack, plan, KEY).await?;
        let [top_long, tail_long] = side(gpu, &found, 0, long, short).await?;
        let [top_short, tail_short] = side(gpu, &found, 1, long, short).await?;
        let alike = |o: &Option<Overlaps>| match o {
            Some(o) => Alike { mean: mean_offdiag(&o.squared), spread: spread_offdiag(&o.squared) },
            None => Alike::default(),
        };
        let average = |f: &dyn Fn(&Measured) -> f64| found.iter().map(f).sum::<f64>() / count as f64;
        let control = Control {
            energy_top: average(&|m| m.energy_share(plan.top)),
            stable_rank: average(&Measured::stable_rank),
            effective_rank: mean(found.iter().filter_map(Measured::effective_rank)),
            // A Gaussian matrix has no zero singular value.
            relative: (0..plan.keep).map(|j| average(&|m| m.s[j] / m.s[0])).collect(),
            draws: count,
            short: [alike(&top_short), alike(&tail_short)],
            long: [alike(&top_long), alike(&tail_long)],
        };
        self.known.insert(key, control.clone());
        Ok(control)
    }
}

/// Top and tail of the rows' (0) or columns' (1) side of matrices `rows x columns`.
pub(super) async fn side(
    gpu: &Gpu,
    found: &[Measured],
    side: usize,
    rows: usize,
    columns: usize,
) -> Result<[Option<Overlaps>; 2]> {
    let top: Vec<Option<MatRef<'_, f64>>> = found.iter().map(|m| m.top.as_ref().map(|t| t[side].as_ref())).collect();
    let space = [rows, columns][side];
    if space == rows.min(columns) {
        return top_and_tail(gpu, &top, None).await;
    }
    let tail: Vec<Option<MatRef<'_, f64>>> = found.iter().map(|m| m.tail.as_ref().map(|t| t.as_ref())).collect();
    top_and_tail(gpu, &top, Some(&tail)).await
}
