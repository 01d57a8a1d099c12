//! The state of decoupled experts that is kept from step to step (METHOD §3).
//!
//! The model's forward reads the merged `W_i`, its own parameter; beside it live `W_c`, common to the experts, the bases U
//! and V of the k leading singular directions of `W_c`, and what the update rule keeps of both parts. `W_u,i` of expert i is what is left,
//! `W_i - W_c`, and is nowhere stored ([`SpectralStack::unique`]).
//! All layers and experts of a kind lie in stacks, so that one launch treats them together. The kernels are
//! `kernels::spectral`.

use std::ops::Range;

use super::record::RefreshRecord;
use crate::autograd::GradientHook;
use crate::error::{Error, Result};
use crate::kernels::grouped::Groups;
use crate::kernels::spectral::{Basis, sizes};
use crate::kernels::spectral_shared::add_shared;
use crate::kernels::token_space::TokenSpace;
use crate::nn::config::{ExpertMatrix, GradientForm};
use crate::optim::rule::RuleState;
use crate::tensor::Tensor;

/// The name in errors.
pub(super) const OP: &str = "spectral decoupling";

/// The decoupled matrices of one kind in all layers.
#[derive(Debug)]
#[non_exhaustive]
pub struct SpectralBank {
    /// Gate, up or down.
    pub matrix: ExpertMatrix,
    /// All layers in one stack, or one stack a layer where the sizes would leave later layers misaligned.
    pub stacks: Vec<SpectralStack>,
    /// Direct or token-space, never auto.
    pub form: GradientForm,
}

/// Decoupled matrices of some layers.
#[derive(Debug)]
#[non_exhaustive]
pub struct SpectralStack {
    /// The layers.
    pub layers: Range<usize>,
    /// Whether they do not move, neither the merged weights nor what is kept here.
    pub frozen: bool,
    /// Their numbers in the model, where layers without experts count, too.
    pub numbers: Vec<usize>,
    /// The merged weights *W*, the model's own buffer, `[layers, E, m, n]`.
    pub w: Tensor,
    /// Their gradient, the model's own buffer, `[layers, E, m, n]`.
    pub gradient: Tensor,
    /// The common matrices *W_c*, `[layers, 1, m, n]`.
    pub w_c: Tensor,
    /// The bases *U*, *V*.
    pub basis: Basis,
    /// The state of the update rule for `w_c`, `[layers, 1, m, n]` each.
    pub common_state: RuleState,
    /// Its state for the unique matrices *W_u*, `[layers, E, m, n]` each.
    pub unique_state: RuleState,
    /// The common part of the gradient in the token-space form.
    pub token_sums: TokenSums,
    /// The measurements of the last refresh.
    pub record: RefreshRecord,
}

/// The sums that the backward passes of a step make in the token-space form, over all routed rows of all experts. A pass replaces
/// them or adds to them, as it does with the gradient.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenSums {
    /// `A = (X U)^T dY`, `[layers, 1, k, n]`.
    pub a: Tensor,
    /// `B = (I - P_U) X^T (dY V)`, `[layers, 1, m, k]`.
    pub b: Tensor,
}

impl GradientHook for TokenSpace {
    /// The gradient becomes the unique parts alone; the common part is in the sums, which are replaced or added to as the gradient is.
    fn factors(&self, x: &Tensor, dy: &Tensor, groups: &Groups, beta: f32) -> Result<(Tensor, Tensor)> {
        self.project(x, dy, groups, beta)
    }
}

impl SpectralBank {
    /// Returns what the backward pass of layer `layer` needs where this bank uses the token-space form.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn token_space(&self, layer: usize) -> Result<Option<TokenSpace>> {
        if self.form != GradientForm::TokenSpace {
            return Ok(None);
        }
        let Some(stack) = self.stacks.iter().find(|s| s.layers.contains(&layer)) else { return Ok(None) };
        let [_, _, m, n] = sizes(OP, &stack.w)?;
        let (k, i) = (stack.basis.rank(), layer - stack.layers.start);
        let of = |x: &Tensor, rows: usize, columns: usize| x.slice(i..i + 1)?.reshape([rows, columns]);
        Ok(Some(TokenSpace {
            u: of(&stack.basis.u, m, k)?,
            v: of(&stack.basis.v, n, k)?,
            a: of(&stack.token_sums.a, k, n)?,
            b: of(&stack.token_sums.b, m, k)?,
        }))
    }
}

impl SpectralStack {
    /// Records the unique matrices `W_u,i = W_i - W_c` into `target: [layers, E, m, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `target` has another shape; [`Error::Device`].
    pub(crate) fn unique_into(&self, target: &Tensor) -> Result<()> {
        if target.dims() != self.w.dims() {
            return Err(Error::shape(OP, format!("{:?}", self.w), format!("{target:?}")));
        }
        add_shared(Some(&self.w), 1.0, -1.0, &self.w_c, target)
    }

    /// The unique matrices `W_u,i = W_i - W_c`, `[layers, E, m, n]`, in a buffer of their own.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn unique(&self) -> Result<Tensor> {
        let unique = Tensor::empty_f32(self.w.gpu(), self.w.shape())?;
        self.unique_into(&unique)?;
        Ok(unique)
    }

    /// `w_c` as `[layers, m, n]`.
    pub(super) fn matrices_c(&self) -> Result<Tensor> {
        let [l, _, m, n] = sizes(OP, &self.w_c)?;
        self.w_c.reshape([l, m, n])
    }

    /// Whether the bases span a whole side, k = min(m, n): no unique part is left.
    pub(super) fn all_common(&self) -> Result<bool> {
        let [_, _, m, n] = sizes(OP, &self.w)?;
        Ok(self.basis.rank() == m.min(n))
    }

    /// The number of experts *E*.
    pub fn experts(&self) -> usize {
        self.w.dims()[1]
    }

    /// Brings what is derived in line with parts that were written from outside.
    pub(in crate::optim) fn restored(&self) -> Result<()> {
        self.basis.update_transpose()
    }

    /// Everything that a checkpoint needs besides the merged weights, layer by layer, so that names and shapes do not
    /// depend on the adapter: `{layer}.w_c`, `.u`, `.v`, the rule's `.w_c.m` ..., and the last refresh's record.
    pub(in crate::optim) fn state(&self, prefix: &str) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for (i, layer) in self.numbers.iter().enumerate() {
            let parts = [("w_c", &self.w_c), ("u", &self.basis.u), ("v", &self.basis.v)];
            let record = [("refresh.energy", &self.record.energy), ("refresh.singular", &self.record.singular)];
            let of_rule = [("w_c", &self.common_state), ("w_u", &self.unique_state)];
            let of_rule = of_rule
                .into_iter()
                .flat_map(|(part, kept)| kept.named().into_iter().map(move |(name, x)| (format!("{part}.{name}"), x)));
            let own = |(name, x): (&str, _)| (name.to_owned(), x);
            for (name, x) in parts.map(own).into_iter().chain(of_rule).chain(record.map(own)) {
                let part = x.slice(i..i + 1)?;
                let shape = if x.dims().len() > 1 { x.dims()[1..].to_vec() } else { vec![1] };
                let shape = if shape[0] == 1 && shape.len() > 1 { shape[1..].to_vec() } else { shape };
                state.push((format!("{prefix}.{layer}.{name}"), part.reshape(&shape)?));
            }
            for (name, rows) in [
                ("refresh.drift", self.record.drift.of_layer(i)?),
                ("refresh.share", self.record.share.of_layer(i)?),
                ("refresh.angles", self.record.angles.of_layer(i)?),
            ] {
                let named = |(j, row)| (format!("{prefix}.{layer}.{name}.{j}"), row);
                state.extend(rows.into_iter().enumerate().map(named));
            }
        }
        Ok(state)
    }
}
