//! The optimizer step of decoupled experts (METHOD §4, §5): gradient split, AdamW on both parts, projected update, merge;
//! and the refresh of the bases with the realignment of `W_u`.
//!
//! A step of one kind of matrices, all layers and experts at once:
//!
//! 1. [`SpectralStack::split`]: skinny products of G; the norm of what the parts receive needs no `G_u`, because
//!    `|common(G_i)|^2 = |A_i|^2 + |B_i - U M_i|^2` and the parts are orthogonal: `|G_u,i|^2 = |G_i|^2 - |common(G_i)|^2`.
//!    The difference is exact to a few eps of `|G_i|^2`, hence the norm's square to a few eps of what it would be unsplit.
//! 2. AdamW's direction D of `W_u` (weight decay included) replaces G, the common part being removed on the way;
//!    that of `W_c` comes from the factors alone.
//! 3. With `project_update` skinny products of D, and the step is `W_u -= lr (I - P_U) D (I - P_V)`,
//!    `W_c -= lr (P_U D + (I - P_U) D P_V)`; without it D itself. The same kernel writes `W = W_c + W_u`.

use crate::error::{Error, Result};
use crate::kernels::spectral::{Factors, Skinny, square_norms, sum_experts};
use crate::kernels::spectral_rows::{self, Recorded, Wanted};
use crate::kernels::spectral_update::{AdamFactors, Mix, Moments, accept, apply, direction};
use crate::linalg::subspace::angles;
use crate::linalg::svd::randomized_svd;
use crate::nn::config::{CommonGradient, GradientForm, Realign, SpectralConfig};
use crate::nn::spectral::{SpectralStack, svd_options};
use crate::optim::clip::GradientNorm;
use crate::tensor::Tensor;

/// The split gradient of a stack.
#[derive(Debug)]
pub(super) struct Split {
    /// The common part of each expert's gradient; none where the token-space form has removed it already.
    unique: Option<Factors>,
    /// The common part of the experts' sum, which `W_c` receives.
    common: Factors,
    /// Sums that add up to each expert's squared norm of the gradient, where the split has made them.
    squares: Option<Tensor>,
}

/// The settings that a step follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Update {
    /// `project_update`.
    pub(super) project: bool,
    /// `common_gradient`.
    pub(super) common: CommonGradient,
}

impl SpectralStack {
    /// What `W_c` receives over the sum of the common parts.
    fn common_factor(&self, common: CommonGradient) -> f32 {
        match common {
            CommonGradient::Sum => 1.0,
            CommonGradient::Mean => 1.0 / self.experts() as f32,
        }
    }

    /// Records the split of the gradient and adds the parts' squared norms to `norm`.
    pub(super) fn split(&self, form: GradientForm, common: CommonGradient, norm: &mut GradientNorm) -> Result<Split> {
        let k = self.basis.rank();
        let split = if form == GradientForm::TokenSpace {
            norm.add(1.0, &self.gradient);
            let sums = Skinny { a: self.sums.0.clone(), b: self.sums.1.clone() };
            Split { unique: None, common: self.basis.factors_of_complement(&sums)?, squares: None }
        } else {
            let products = self.basis.products(&self.gradient)?;
            match &products.squares {
                Some(squares) => norm.add_sums(squares),
                None => norm.add(1.0, &self.gradient),
            }
            let common = self.basis.factors(&products.skinny.sum()?)?;
            let unique = self.basis.factors_of(&products)?;
            norm.add(-1.0, &unique.right);
            norm.add_columns(-1.0, &unique.left, k);
            Split { unique: Some(unique), common, squares: products.squares }
        };
        let weight = self.common_factor(common).powi(2);
        norm.add(weight, &split.common.right);
        norm.add_columns(weight, &split.common.left, k);
        Ok(split)
    }

    /// Records AdamW's step from the split gradient, scaled by `clip`, with the factors for `W_c` and for `W_u`, whose
    /// learning rate is one. Overwrites the gradient.
    pub(super) fn step(&self, split: &Split, adam: [&AdamFactors; 2], update: Update, clip: &Tensor) -> Result<()> {
        let mix_c = Mix { full: 0.0, common: Some((self.common_factor(update.common), &split.common)) };
        let (gradient, mix) = if self.all_common()? {
            // What the split leaves of G is rounding, which AdamW would blow up to full steps.
            (None, Mix { full: 0.0, common: None })
        } else {
            (Some(&self.gradient), Mix { full: 1.0, common: split.unique.as_ref().map(|f| (-1.0, f)) })
        };
        if self.step_by_rows(gradient, [mix_c, mix], adam, update, clip)? {
            return Ok(());
        }
        let basis = &self.basis;
        let [adam_c, adam] = adam;
        let direction_c = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
        direction(&direction_c, self.state_c(), mix_c, basis, adam_c, clip)?;
        direction(&self.gradient, self.state_u(), mix, basis, adam, clip)?;
        let merge = Some((&self.w_c, &self.w));
        if update.project {
            let common = basis.factors_of(&basis.products(&direction_c)?)?;
            let unique = basis.factors_of(&basis.products(&self.gradient)?)?;
            let mix = Mix { full: 0.0, common: Some((-adam.lr, &common)) };
            apply(&self.w_c, None, mix, basis, None, clip)?;
            let mix = Mix { full: -adam.lr, common: Some((adam.lr, &unique)) };
            apply(&self.w_u, Some(&self.gradient), mix, basis, merge, clip)?;
        } else {
            let mix = Mix { full: -adam.lr, common: None };
            apply(&self.w_c, Some(&direction_c), mix, basis, None, clip)?;
            apply(&self.w_u, Some(&self.gradient), mix, basis, merge, clip)?;
        }
        Ok(())
    }

    fn state_c(&self) -> Moments<'_> {
        Moments { weight: &self.w_c, m: &self.moments_c.0, v: &self.moments_c.1 }
    }

    fn state_u(&self) -> Moments<'_> {
        Moments { weight: &self.w_u, m: &self.moments_u.0, v: &self.moments_u.1 }
    }

    /// [`SpectralStack::step`] by the kernels that keep the direction in registers: W_u moves by -lr D first, and gets the
    /// common part of lr D back from the products of D. False where those kernels do not take these stacks.
    fn step_by_rows(
        &self,
        gradient: Option<&Tensor>,
        [mix_c, mix]: [Mix<'_>; 2],
        [adam_c, adam]: [&AdamFactors; 2],
        update: Update,
        clip: &Tensor,
    ) -> Result<bool> {
        let basis = &self.basis;
        let wanted = Wanted::Products { moving: !update.project };
        let products_c = match spectral_rows::adam(None, self.state_c(), mix_c, basis, adam_c, wanted, clip)? {
            Recorded::Nothing => return Ok(false),
            Recorded::All(products) => products,
        };
        let wanted = if update.project {
            Wanted::Products { moving: true }
        } else {
            Wanted::Merged { w_c: &self.w_c, merged: &self.w }
        };
        let products = match spectral_rows::adam(gradient, self.state_u(), mix, basis, adam, wanted, clip)? {
            Recorded::Nothing => return Err(Error::shape("spectral step", "stacks of one size", format!("{self:?}"))),
            Recorded::All(products) => products,
        };
        if let (Some(common), Some(unique)) = (products_c, products) {
            let factors = basis.factors_of(&common)?;
            let mix = Mix { full: 0.0, common: Some((-adam.lr, &factors)) };
            apply(&self.w_c, None, mix, basis, None, clip)?;
            let factors = basis.factors_of(&unique)?;
            let mix = Mix { full: 0.0, common: Some((adam.lr, &factors)) };
            apply(&self.w_u, None, mix, basis, Some((&self.w_c, &self.w)), clip)?;
        }
        Ok(true)
    }

    /// Records the share of each expert's gradient that is common, for the record; to be called before the step.
    pub(super) fn record_share(&self, split: &Split, clip: &Tensor) -> Result<()> {
        let share = Tensor::zeros(clip.gpu(), self.record.share.shape())?;
        if let Some(factors) = &split.unique {
            share.slice(0..1)?.copy_from(&squares(&self.gradient, split.squares.as_ref())?)?;
            let common = square_norms(&factors.right, 0)?;
            crate::kernels::elementwise::add_into(&common, &square_norms(&factors.left, self.basis.rank())?)?;
            share.slice(1..2)?.copy_from(&common)?;
        }
        accept(&share, &self.record.share, clip)
    }

    /// Records the drift into `target: [3, layers, E]`: squared norms of `U^T W_u,i`, `W_u,i V` and `W_u,i`.
    pub(super) fn record_drift(&self, target: &Tensor) -> Result<()> {
        let products = self.basis.products(&self.w_u)?;
        for (i, x) in [&products.skinny.a, &products.skinny.b].into_iter().enumerate() {
            target.slice(i..i + 1)?.copy_from(&square_norms(x, 0)?)?;
        }
        target.slice(2..3)?.copy_from(&squares(&self.w_u, products.squares.as_ref())?)
    }

    /// Records a refresh: new bases from `W_c` by randomized SVD, with `warm_start` from the old V, then the realignment of
    /// `W_u` and of the merged weights that `config` asks for. `seed` and `step` choose the sketch. Nothing changes where
    /// `clip` says that the norm is not finite.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn refresh(&self, config: &SpectralConfig, seed: u64, step: u64, clip: &Tensor) -> Result<()> {
        let w_c = self.matrices_c()?;
        let drift = Tensor::empty_f32(clip.gpu(), self.record.drift.shape())?;
        self.record_drift(&drift)?;
        accept(&drift, &self.record.drift, clip)?;
        accept(&square_norms(&w_c, 0)?, &self.record.energy, clip)?;
        let (basis, k) = (&self.basis, self.basis.rank());
        let start = config.warm_start.then_some(&basis.v);
        let svd = randomized_svd(&w_c, k, svd_options(config, seed, step), start)?;
        accept(&svd.s_all, &self.record.singular, clip)?;
        let turned = Tensor::empty_f32(clip.gpu(), self.record.angles.shape())?;
        for (i, (old, new)) in [(&basis.u, &svd.u), (&basis.v, &svd.v)].into_iter().enumerate() {
            turned.slice(i..i + 1)?.copy_from(&angles(old, new)?)?;
            accept(new, old, clip)?;
        }
        accept(&turned, &self.record.angles, clip)?;
        basis.update_transpose()?;
        if config.realign == Realign::None {
            return Ok(());
        }
        let products = basis.products(&self.w_u)?;
        if config.realign == Realign::Absorb {
            let removed = basis.factors(&products.skinny.sum()?)?;
            let mix = Mix { full: 0.0, common: Some((1.0 / self.experts() as f32, &removed)) };
            apply(&self.w_c, None, mix, basis, None, clip)?;
        }
        let removed = basis.factors_of(&products)?;
        let mix = Mix { full: 0.0, common: Some((-1.0, &removed)) };
        apply(&self.w_u, None, mix, basis, Some((&self.w_c, &self.w)), clip)
    }
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
