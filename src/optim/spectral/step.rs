//! The optimizer step of decoupled experts (METHOD §4, §5), for one kind of matrices, all layers and experts at once:
//!
//! 1. [`SpectralStack::split`] makes the skinny products of G.
//! 2. The rule's direction D of `W_u` replaces G, the common part being removed on the way; that of `W_c` comes from the factors
//!    alone.
//! 3. With `project_update` skinny products of D, and the step is `W_u -= lr (I - P_U) D (I - P_V)`,
//!    `W_c -= lr (P_U D + (I - P_U) D P_V)`; without it D itself. The decay is no part of D: a share of a matrix lies where it
//!    lies.
//!
//! `W_c` and `W = W_c + W_u` are stored, so `W` decays as any matrix does and takes both steps. With `project_update` that costs
//! nothing: with `D_c` and `D_i` the directions of the two, `W_i -= lr D_i - lr common(D_i - D_c)`, a common part like the other.
//! Without it `W` reads what `W_c` moves by where it takes its own step.
//!
//! With AdamW, where `kernels::software::spectral_rows` or `kernels::spectral_blocks` run, 2 moves `W` by all of -lr D and gives D's products, so that D is never stored, and 3
//! gives the common part back.

use super::split::Split;
use super::state::SpectralStack;
use crate::error::Result;
use crate::kernels::decoupled::Stack;
use crate::kernels::software::spectral_rows::{self, Recorded, Wanted};
use crate::kernels::spectral_blocks;
use crate::kernels::spectral_update::{Mix, Move, apply};
use crate::nn::config::CommonGradient;
use crate::optim::rule::{At, RuleState};
use crate::tensor::Tensor;

/// The settings that a step follows.
#[derive(Clone, Copy, Debug)]
pub(in crate::optim) struct Update {
    /// `project_update`.
    pub(in crate::optim) project: bool,
    /// `common_gradient`.
    pub(in crate::optim) common: CommonGradient,
}

impl SpectralStack {
    /// Records the rule's step from the split gradient, scaled by `clip`; `at` has the steps of `W_c` and of `W_u`, whose
    /// learning rate is one. Overwrites the gradient.
    pub(in crate::optim) fn step(&self, split: &Split, at: [At<'_>; 2], update: Update, clip: &Tensor) -> Result<()> {
        let mix_c = Mix { full: 0.0, common: Some((self.common_factor(update.common), &split.common)) };
        let mix = Mix { full: 1.0, common: split.unique.as_ref().map(|f| (-1.0, f)) };
        if self.all_common()? {
            self.step_common(mix_c, at, clip)
        } else if update.project {
            self.step_projected([mix_c, mix], at, clip)
        } else {
            self.step_unprojected([mix_c, mix], at, clip)
        }
    }

    /// Records AdamW's step of a part in a pass that does what is `wanted` besides; nothing where no kernel does, or for another
    /// rule.
    fn in_one_pass(
        &self,
        gradient: Option<&Tensor>,
        (weight, state): (&Tensor, &RuleState),
        mix: Mix<'_>,
        at: At<'_>,
        wanted: Wanted<'_>,
        clip: &Tensor,
    ) -> Result<Recorded> {
        let Some(moments) = state.moments() else { return Ok(Recorded::Nothing) };
        let (stack, adam) = (Stack { weight, moments }, at.adam());
        let recorded = spectral_rows::adam(gradient, stack, mix, &self.basis, &adam, wanted, clip)?;
        if let (Recorded::Nothing, Wanted::Products { moving }) = (&recorded, wanted)
            && let Some(products) = spectral_blocks::adam(gradient, stack, mix, &self.basis, &adam, moving, clip)?
        {
            return Ok(Recorded::All(Some(Box::new(products))));
        }
        Ok(recorded)
    }

    fn common_part(&self) -> (&Tensor, &RuleState) {
        (&self.w_c, &self.common_state)
    }

    fn unique_part(&self) -> (&Tensor, &RuleState) {
        (&self.w, &self.unique_state)
    }

    /// Both directions D lose what leaves the part's subspaces.
    fn step_projected(&self, mix: [Mix<'_>; 2], [at_c, at]: [At<'_>; 2], clip: &Tensor) -> Result<()> {
        let (basis, [mix_c, mix]) = (&self.basis, mix);
        let (g, wanted) = (&self.gradient, Wanted::Products { moving: true });
        let (unique, x) = match self.in_one_pass(Some(g), self.unique_part(), mix, at, wanted, clip)? {
            Recorded::All(Some(products)) => (*products, None),
            _ => {
                self.unique_state.direction(g, mix, basis, at, clip)?;
                (basis.products(g)?, Some(g))
            }
        };
        let wanted = Wanted::Products { moving: false };
        let common = match self.in_one_pass(None, self.common_part(), mix_c, at_c, wanted, clip)? {
            Recorded::All(Some(products)) => *products,
            _ => {
                let x = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
                self.common_state.direction(&x, mix_c, basis, at_c, clip)?;
                basis.products(&x)?
            }
        };
        let (lr, decay) = (at.lr, at.decay());
        let factors = basis.factors_of(&common)?;
        apply(&self.w_c, Move { decay, ..Move::common(-lr, &factors) }, basis, clip)?;
        let factors = basis.factors_of(&unique.minus(&common)?)?;
        let mix = Mix { full: -lr, common: Some((lr, &factors)) };
        // Without x, W has moved by D and has decayed already.
        let decay = if x.is_some() { decay } else { 0.0 };
        apply(&self.w, Move { x, mix, shared: None, decay }, basis, clip)
    }

    /// Both parts move by their direction as it is.
    fn step_unprojected(&self, mix: [Mix<'_>; 2], [at_c, at]: [At<'_>; 2], clip: &Tensor) -> Result<()> {
        let (basis, [mix_c, mix], g) = (&self.basis, mix, &self.gradient);
        let step = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
        let lead = Wanted::Lead(&step);
        if let Recorded::All(_) = self.in_one_pass(None, self.common_part(), mix_c, at_c, lead, clip)? {
            self.in_one_pass(Some(g), self.unique_part(), mix, at, Wanted::Follow(&step), clip)?;
            return Ok(());
        }
        self.common_state.direction(&step, mix_c, basis, at_c, clip)?;
        self.unique_state.direction(g, mix, basis, at, clip)?;
        self.move_both(Some(g), &step, at, clip)
    }

    /// Moves and decays `W_c` by its direction `common`, and W by that and, where there is one, its own.
    fn move_both(&self, unique: Option<&Tensor>, common: &Tensor, at: At<'_>, clip: &Tensor) -> Result<()> {
        let own = Move::all(-at.lr, at.decay());
        apply(&self.w, Move { x: unique, shared: Some((-at.lr, common)), ..own }, &self.basis, clip)?;
        apply(&self.w_c, Move { x: Some(common), ..own }, &self.basis, clip)
    }

    /// Where the bases span a whole side: what the split leaves of G is rounding, which a rule would blow up to full steps, so
    /// `W_u` moves by its decay alone.
    fn step_common(&self, mix_c: Mix<'_>, [at_c, at]: [At<'_>; 2], clip: &Tensor) -> Result<()> {
        let step = Tensor::empty_f32(clip.gpu(), self.w_c.shape())?;
        self.common_state.direction(&step, mix_c, &self.basis, at_c, clip)?;
        self.move_both(None, &step, at, clip)
    }
}
