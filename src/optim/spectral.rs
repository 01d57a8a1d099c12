//! The optimizer step of decoupled experts (METHOD §4, §5): gradient split, AdamW on both parts, projected update, merge;
//! and the refresh of the bases with the realignment of `W_u`.
//!
//! A step of one kind of matrices, all layers and experts at once:
//!
//! 1. [`SpectralStack::split`]: skinny products of G; the norm of what the parts receive needs no `G_u`, because
//!    `|common(G_i)|^2 = |A_i|^2 + |B_i - U M_i|^2` and the parts are orthogonal: `|G_u,i|^2 = |G_i|^2 - |common(G_i)|^2`.
//!    The difference is exact to a few eps of `|G_i|^2`, hence the norm's square to a few eps of what it would be unsplit.
//! 2. AdamW's direction D of `W_u` replaces G, the common part being removed on the way; that of `W_c` comes from the factors
//!    alone.
//! 3. With `project_update` skinny products of D, and the step is `W_u -= lr (I - P_U) D (I - P_V)`,
//!    `W_c -= lr (P_U D + (I - P_U) D P_V)`; without it D itself. The decay is no part of D: a share of a matrix lies where it
//!    lies.
//!
//! `W_c` and `W = W_c + W_u` are stored, so `W` decays as any matrix does and takes both steps. With `project_update` that costs
//! nothing: with `D_c` and `D_i` the directions of the two, `W_i -= lr D_i - lr common(D_i - D_c)`, a common part like the other.
//! Without it `W` reads what `W_c` moves by where it takes its own step.
//!
//! Where `kernels::software::spectral_rows` run, 2 moves `W` by all of -lr D and gives D's products, so that D is never stored, and 3
//! gives the common part back.

use crate::error::Result;
use crate::kernels::software::spectral_rows::{self, Recorded, Stack, Wanted};
use crate::kernels::spectral::{Factors, Products, Skinny, sizes, square_norms, sum_experts};
use crate::kernels::spectral_shared::accept;
use crate::kernels::spectral_update::{AdamFactors, Mix, Moments, Move, apply, direction};
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
        let mix = Mix { full: 1.0, common: split.unique.as_ref().map(|f| (-1.0, f)) };
        if self.all_common()? {
            self.step_common(mix_c, adam, clip)
        } else if update.project {
            self.step_projected([mix_c, mix], adam, clip)
        } else {
            self.step_unprojected([mix_c, mix], adam, clip)
        }
    }

    fn common_stack(&self) -> Stack<'_> {
        Stack { weight: &self.w_c, moments: Moments { m: &self.moments_c.0, v: &self.moments_c.1 } }
    }

    fn unique_stack(&self) -> Stack<'_> {
        Stack { weight: &self.w, moments: Moments { m: &self.moments_u.0, v: &self.moments_u.1 } }
    }

    /// Both directions D lose what leaves the part's subspaces.
    fn step_projected(&self, mix: [Mix<'_>; 2], [adam_c, adam]: [&AdamFactors; 2], clip: &Tensor) -> Result<()> {
        let (basis, [mix_c, mix]) = (&self.basis, mix);
        let (g, stack, wanted) = (&self.gradient, self.unique_stack(), Wanted::Products { moving: true });
        let (unique, x) = match spectral_rows::adam(Some(g), stack, mix, basis, adam, wanted, clip)? {
            Recorded::All(Some(products)) => (*products, None),
            _ => {
                direction(g, stack.moments, mix, basis, adam, clip)?;
                (basis.products(g)?, Some(g))
            }
        };
        let (stack, wanted) = (self.common_stack(), Wanted::Products { moving: false });
        let common = match spectral_rows::adam(None, stack, mix_c, basis, adam_c, wanted, clip)? {
            Recorded::All(Some(products)) => *products,
            _ => {
                let x = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
                direction(&x, stack.moments, mix_c, basis, adam_c, clip)?;
                basis.products(&x)?
            }
        };
        let (lr, decay) = (adam.lr, adam.lr * adam.decay);
        let factors = basis.factors_of(&common)?;
        apply(&self.w_c, Move { decay, ..Move::common(-lr, &factors) }, basis, clip)?;
        let factors = basis.factors_of(&unique.minus(&common)?)?;
        let mix = Mix { full: -lr, common: Some((lr, &factors)) };
        // Without x, W has moved by D and has decayed already.
        let decay = if x.is_some() { decay } else { 0.0 };
        apply(&self.w, Move { x, mix, shared: None, decay }, basis, clip)
    }

    /// Both parts move by their direction as it is.
    fn step_unprojected(&self, mix: [Mix<'_>; 2], [adam_c, adam]: [&AdamFactors; 2], clip: &Tensor) -> Result<()> {
        let (basis, [mix_c, mix], g) = (&self.basis, mix, &self.gradient);
        let (common, unique) = (self.common_stack(), self.unique_stack());
        let step = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
        let lead = Wanted::Lead(&step);
        if let Recorded::All(_) = spectral_rows::adam(None, common, mix_c, basis, adam_c, lead, clip)? {
            spectral_rows::adam(Some(g), unique, mix, basis, adam, Wanted::Follow(&step), clip)?;
            return Ok(());
        }
        direction(&step, common.moments, mix_c, basis, adam_c, clip)?;
        direction(g, unique.moments, mix, basis, adam, clip)?;
        self.move_both(Some(g), &step, adam, clip)
    }

    /// Moves and decays `W_c` by its direction `common`, and W by that and, where there is one, its own.
    fn move_both(&self, unique: Option<&Tensor>, common: &Tensor, adam: &AdamFactors, clip: &Tensor) -> Result<()> {
        let own = Move::all(-adam.lr, adam.lr * adam.decay);
        apply(&self.w, Move { x: unique, shared: Some((-adam.lr, common)), ..own }, &self.basis, clip)?;
        apply(&self.w_c, Move { x: Some(common), ..own }, &self.basis, clip)
    }

    /// Where the bases span a whole side: what the split leaves of G is rounding, which AdamW would blow up to full steps, so
    /// `W_u` moves by its decay alone.
    fn step_common(&self, mix_c: Mix<'_>, [adam_c, adam]: [&AdamFactors; 2], clip: &Tensor) -> Result<()> {
        let step = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
        direction(&step, self.common_stack().moments, mix_c, &self.basis, adam_c, clip)?;
        self.move_both(None, &step, adam, clip)
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
        let drift = Tensor::empty_f32(clip.gpu(), self.record.drift.shape())?;
        let unique = &self.gradient;
        if spectral_rows::parts(clip.gpu(), sizes("refresh", &self.w)?, self.basis.rank())?.is_none() {
            self.unique_into(unique)?;
        }
        record_drift(&self.unique_products(unique)?, unique, &drift)?;
        accept(&drift, &self.record.drift, clip)?;
        accept(&square_norms(&w_c, 0)?, &self.record.energy, clip)?;
        let (basis, k) = (&self.basis, self.basis.rank());
        let start = config.warm_start.then_some(&basis.v);
        let svd = randomized_svd(&w_c, k, svd_options(config, seed, step, config.warm_start), start)?;
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

/// Records the drift of `W_u` from its products into `target: [3, layers, E]`: squared norms of `U^T W_u,i`, `W_u,i V` and
/// `W_u,i`. `unique` is `W_u` where the products have no sums of squares.
pub(super) fn record_drift(products: &Products, unique: &Tensor, target: &Tensor) -> Result<()> {
    for (i, x) in [&products.skinny.a, &products.skinny.b].into_iter().enumerate() {
        target.slice(i..i + 1)?.copy_from(&square_norms(x, 0)?)?;
    }
    target.slice(2..3)?.copy_from(&squares(unique, products.squares.as_ref())?)
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
