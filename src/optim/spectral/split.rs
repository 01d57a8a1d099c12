//! The split of the gradient into the part that is common to the experts and the unique ones (METHOD §4).
//!
//! The norm of what the parts receive needs no `G_u`, because `|common(G_i)|^2 = |A_i|^2 + |B_i - U M_i|^2` and the parts are
//! orthogonal: `|G_u,i|^2 = |G_i|^2 - |common(G_i)|^2`. The difference is exact to a few eps of `|G_i|^2`, hence the norm's square
//! to a few eps of what it would be unsplit.

use super::state::SpectralStack;
use crate::error::Result;
use crate::kernels::spectral::{Factors, Skinny};
use crate::nn::config::{CommonGradient, GradientForm};
use crate::optim::clip::GradientNorm;
use crate::tensor::Tensor;

/// The split gradient of a stack.
#[derive(Debug)]
pub(in crate::optim) struct Split {
    /// The common part of each expert's gradient; none where the token-space form has removed it already.
    pub(super) unique: Option<Factors>,
    /// The common part of the experts' sum, which `W_c` receives.
    pub(super) common: Factors,
    /// Sums that add up to each expert's squared norm of the gradient, where the split has made them.
    pub(super) squares: Option<Tensor>,
}

impl SpectralStack {
    /// The factor of the sum of the common parts in what `W_c` receives.
    pub(super) fn common_factor(&self, common: CommonGradient) -> f32 {
        match common {
            CommonGradient::Sum => 1.0,
            CommonGradient::Mean => 1.0 / self.experts() as f32,
        }
    }

    /// Records the split of the gradient and adds the parts' squared norms to `norm`.
    pub(in crate::optim) fn split(
        &self,
        form: GradientForm,
        common: CommonGradient,
        norm: &mut GradientNorm,
    ) -> Result<Split> {
        let k = self.basis.rank();
        let split = if form == GradientForm::TokenSpace {
            norm.add(1.0, &self.gradient);
            let sums = Skinny { a: self.token_sums.a.clone(), b: self.token_sums.b.clone() };
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
}
