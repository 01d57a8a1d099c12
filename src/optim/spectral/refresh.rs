//! The refresh of the bases from `W_c`, with the realignment of `W_u` (METHOD §5), and what is measured on the way.

use super::record::{AngleRow, DriftRow, Rows, ShareRow};
use super::split::Split;
use super::state::SpectralStack;
use crate::error::Result;
use crate::kernels::elementwise::add_into;
use crate::kernels::software::spectral_rows;
use crate::kernels::spectral::{Products, sizes, square_norms, sum_experts};
use crate::kernels::spectral_shared::accept;
use crate::kernels::spectral_update::{Move, apply};
use crate::linalg::subspace::angles;
use crate::linalg::svd::{Draw, SvdOptions, randomized_svd};
use crate::nn::config::{Realign, SpectralConfig};
use crate::tensor::Tensor;

impl SpectralStack {
    /// Records the share of each expert's gradient that is common, for the record; to be called before the step.
    pub(in crate::optim) fn record_share(&self, split: &Split, clip: &Tensor) -> Result<()> {
        let share = self.record.share.zeros_like()?;
        if let Some(factors) = &split.unique {
            share.set(ShareRow::Whole, &squares(&self.gradient, split.squares.as_ref())?)?;
            let common = square_norms(&factors.right, 0)?;
            add_into(&common, &square_norms(&factors.left, self.basis.rank())?)?;
            share.set(ShareRow::Common, &common)?;
        }
        accept(&share.all, &self.record.share.all, clip)
    }

    /// Records the products of `W_u`, which `stored` holds where no kernel subtracts on the way.
    fn unique_products(&self, stored: &Tensor) -> Result<Products> {
        match spectral_rows::products(&self.basis, &self.w, Some(&self.w_c))? {
            Some(products) => Ok(products),
            None => self.basis.products(stored),
        }
    }

    /// Records a refresh: new bases from `W_c` by randomized SVD, with `warm_start` from the old V, then the realignment of
    /// `W_u` that `config` asks for. `seed` and `step` choose the sketch. Nothing changes where `clip` says that the norm is
    /// not finite, but the gradient, which may be overwritten: `W_u` lies there meanwhile.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn refresh(&self, config: &SpectralConfig, seed: u64, step: u64, clip: &Tensor) -> Result<()> {
        let w_c = self.matrices_c()?;
        let drift = self.record.drift.empty_like()?;
        let unique = &self.gradient;
        if spectral_rows::parts(clip.gpu(), sizes("refresh", &self.w)?, self.basis.rank())?.is_none() {
            self.unique_into(unique)?;
        }
        record_drift(&self.unique_products(unique)?, unique, &drift)?;
        accept(&drift.all, &self.record.drift.all, clip)?;
        accept(&square_norms(&w_c, 0)?, &self.record.energy, clip)?;
        let (basis, k) = (&self.basis, self.basis.rank());
        let start = config.warm_start.then_some(&basis.v);
        let svd = randomized_svd(&w_c, k, svd_options(config, seed, step, config.warm_start), start)?;
        accept(&svd.s_all, &self.record.singular, clip)?;
        let turned = self.record.angles.empty_like()?;
        for (row, old, new) in [(AngleRow::Left, &basis.u, &svd.u), (AngleRow::Right, &basis.v, &svd.v)] {
            turned.set(row, &angles(old, new)?)?;
            accept(new, old, clip)?;
        }
        accept(&turned.all, &self.record.angles.all, clip)?;
        basis.update_transpose()?;
        if config.realign == Realign::None {
            return Ok(());
        }
        let mut removed = self.unique_products(unique)?;
        if config.realign == Realign::Absorb {
            // W_c takes the mean of what W_u loses, so that W changes by what the mean leaves.
            let mean = removed.mean()?;
            let factors = basis.factors_of(&mean)?;
            apply(&self.w_c, Move::common(1.0, &factors), basis, clip)?;
            removed = removed.minus(&mean)?;
        }
        let factors = basis.factors_of(&removed)?;
        apply(&self.w, Move::common(-1.0, &factors), basis, clip)
    }
}

/// The randomized SVD's settings at `step`, from an earlier V if `warm`; each step's sketch is new, and the same after a resume.
pub(super) fn svd_options(config: &SpectralConfig, seed: u64, step: u64, warm: bool) -> SvdOptions {
    SvdOptions {
        oversampling: config.oversampling,
        power_iterations: config.power_iterations.saturating_sub(usize::from(warm)),
        seed: seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        draw: Draw::Shared,
    }
}

/// Records the drift of `W_u` from its products into `target`. `unique` is `W_u` where the products have no sums of squares.
pub(super) fn record_drift(products: &Products, unique: &Tensor, target: &Rows<DriftRow>) -> Result<()> {
    target.set(DriftRow::Left, &square_norms(&products.skinny.a, 0)?)?;
    target.set(DriftRow::Right, &square_norms(&products.skinny.b, 0)?)?;
    target.set(DriftRow::Whole, &squares(unique, products.squares.as_ref())?)
}

/// The squared norm of each matrix of `x: [layers, experts, m, n]`, from sums that add up to it where there are some.
fn squares(x: &Tensor, sums: Option<&Tensor>) -> Result<Tensor> {
    match sums {
        Some(sums) => {
            let number = sums.rows();
            sum_experts(&sums.reshape([number, sums.cols(), 1, 1])?, 1.0)?.reshape([number])
        }
        None => square_norms(x, 0),
    }
}
