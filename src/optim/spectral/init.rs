//! The state of decoupled experts at the start of a run, or where the decoupling is switched on.

use std::ops::Range;

use super::chosen_form;
use super::common::CommonPart;
use super::record::RefreshRecord;
use super::state::{OP, SpectralBank, SpectralStack, TokenSums};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::spectral::{Basis, initial_common, sizes, square_norms, sum_experts};
use crate::kernels::spectral_shared::add_shared;
use crate::kernels::spectral_update::{Move, apply};
use crate::linalg::qr::orthonormalize;
use crate::linalg::random::fill_normal;
use crate::nn::config::{ExpertMatrix, SpectralConfig};
use crate::nn::params::{Group, ParamSet};
use crate::optim::config::Rule;
use crate::optim::freeze::Frozen;
use crate::optim::rule::RuleState;
use crate::tensor::{DType, Tensor};

/// Where the parts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpectralInit {
    /// From freshly drawn weights Z: `W_u,i = (I - P_U) Z_i (I - P_V)` for random bases and `W_c = U S V^T` with the mean of
    /// the energies that the projection takes, S graded from 1.25 to 0.75. Rewrites the weights.
    Fresh,
    /// From a plain model: `W_c` = the experts' mean, cut to rank k, and `W_u,i = W_i - W_c`. Leaves the weights as they
    /// are.
    FromWeights {
        /// Steps that the model has done. The moments of `W_c` begin behind them, and their bias correction counts from there.
        step: u64,
    },
    /// Left zero, to be filled from a checkpoint with `Optimizer::restore`.
    Restored,
}

/// How an optimizer decouples the experts.
#[derive(Clone, Copy, Debug)]
pub struct SpectralSetup<'a> {
    /// The settings.
    pub config: &'a SpectralConfig,
    /// Where the parts come from.
    pub init: SpectralInit,
    /// Seed of the first bases and of the sketches of all refreshes.
    pub seed: u64,
    /// Routed tokens that an expert sees in a step on average (batches times sequence times K / E, accumulated batches
    /// included): what decides between the forms of the gradient split where the settings leave it open. An infinite number gives
    /// the direct form.
    pub tokens_per_expert: f64,
}

impl SpectralBank {
    /// The banks that the resolved settings ask for, in the order gate, up, down; none when they are off or of rank 0.
    ///
    /// # Errors
    /// [`Error::Config`] when the rank exceeds a matrix's sizes; [`Error::Device`].
    pub(in crate::optim) fn all(
        params: &ParamSet,
        setup: SpectralSetup<'_>,
        frozen: &Frozen,
        rule: Rule,
    ) -> Result<Vec<Self>> {
        let SpectralSetup { config, init, seed, tokens_per_expert } = setup;
        let mut banks = Vec::new();
        for matrix in ExpertMatrix::ALL.into_iter().filter(|&m| config.covers(m)) {
            let Some(group) = params.group(Group::Experts(matrix)) else { continue };
            // Of each layer whether it is decoupled, and then whether it does not move.
            let members = params.members(group.group).into_iter().enumerate();
            let treated: Vec<Option<bool>> = members
                .map(|(i, (param, _))| {
                    config.covers_layer(params.expert_layer(i)).then(|| frozen.contains(&param.name))
                })
                .collect();
            let mut stacks: Vec<SpectralStack> = Vec::new();
            let mut layer = 0;
            for (w, gradient) in &group.stacks {
                let [count, _, m, n] = sizes(OP, w)?;
                let k = config.rank;
                if k > m.min(n) {
                    let message = format!("expected at most min(m, n) = {}, got {k}", m.min(n));
                    return Err(Error::config("spectral.rank", message));
                }
                let align = (w.gpu().offset_alignment() / 4) as usize;
                let together = [m * n, m * k, n * k, k * k].iter().all(|size| size.is_multiple_of(align));
                for part in alike(&treated[layer..layer + count], if together { count } else { 1 }) {
                    let Some(frozen) = treated[layer + part.start] else { continue };
                    let view = |x: &Tensor| x.slice(part.clone());
                    let layers = layer + part.start..layer + part.end;
                    let numbers = layers.clone().map(|i| params.expert_layer(i)).collect();
                    let mut stack = SpectralStack::zeroed(layers, numbers, view(w)?, view(gradient)?, config, rule)?;
                    stack.frozen = frozen;
                    // Distinct streams for U and V of each kind; the layers are further streams.
                    stack.fill(config, seed ^ ((matrix as u64 + 1) << 56), init)?;
                    stacks.push(stack);
                }
                layer += count;
            }
            let Some(stack) = stacks.first() else { continue };
            let form = chosen_form(stack.w.gpu(), config, sizes(OP, &stack.w)?, tokens_per_expert)?;
            banks.push(Self { matrix, stacks, form });
        }
        Ok(banks)
    }
}

/// Contiguous ranges of equal elements, of at most `most` each.
fn alike<T: PartialEq>(list: &[T], most: usize) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (i, x) in list.iter().enumerate() {
        match ranges.last_mut() {
            Some(last) if last.len() < most && list[last.start] == *x => last.end = i + 1,
            _ => ranges.push(i..i + 1),
        }
    }
    ranges
}

/// A `clip` tensor that lets everything through, for moves that are no optimizer step.
fn no_clip(gpu: &Gpu) -> Result<Tensor> {
    Tensor::from_f32(gpu, [4], &[0.0, 1.0, 0.0, 0.0])
}

impl SpectralStack {
    fn zeroed(
        layers: Range<usize>,
        numbers: Vec<usize>,
        w: Tensor,
        gradient: Tensor,
        config: &SpectralConfig,
        rule: Rule,
    ) -> Result<Self> {
        let [l, e, m, n] = sizes(OP, &w)?;
        let (k, gpu) = (config.rank, w.gpu().clone());
        let new = |shape: &[usize]| Tensor::persistent(&gpu, shape, DType::F32);
        Ok(Self {
            layers,
            frozen: false,
            numbers,
            w_c: new(&[l, 1, m, n])?,
            basis: Basis { u: new(&[l, m, k])?, v: new(&[l, n, k])?, vt: new(&[l, k, n])? },
            common_state: RuleState::zeroed(rule, &gpu, &[l, 1, m, n])?,
            unique_state: RuleState::zeroed(rule, &gpu, &[l, e, m, n])?,
            token_sums: TokenSums { a: new(&[l, 1, k, n])?, b: new(&[l, 1, m, k])? },
            record: RefreshRecord::zeroed(&gpu, l, e, singular_values(m, n, config), k)?,
            w,
            gradient,
        })
    }

    fn fill(&self, config: &SpectralConfig, seed: u64, init: SpectralInit) -> Result<()> {
        match init {
            SpectralInit::Fresh => self.fresh(seed),
            SpectralInit::FromWeights { .. } => self.take_weights(config, seed),
            SpectralInit::Restored => Ok(()),
        }
    }

    fn fresh(&self, seed: u64) -> Result<()> {
        let (k, gpu) = (self.basis.rank(), self.w.gpu());
        for (side, basis) in [(0, &self.basis.u), (1, &self.basis.v)] {
            for (i, layer) in self.layers.clone().enumerate() {
                let normal = Tensor::empty_f32(gpu, [1, basis.dims()[1], k])?;
                fill_normal(&normal, seed, 2 * layer as u32 + side, 1.0)?;
                basis.slice(i..i + 1)?.copy_from(&orthonormalize(&normal)?)?;
            }
        }
        self.basis.update_transpose()?;
        // W holds Z, then W_u, then both parts.
        let factors = self.basis.factors(&self.basis.skinny(&self.w)?)?;
        let full = square_norms(&self.w, 0)?;
        apply(&self.w, Move::common(-1.0, &factors), &self.basis, &no_clip(gpu)?)?;
        initial_common(&self.basis, &full, &square_norms(&self.w, 0)?, &self.matrices_c()?)?;
        if self.all_common()? {
            // All but the rounding.
            self.w.clear()?;
        }
        add_shared(None, 1.0, 1.0, &self.w_c, &self.w)
    }

    fn take_weights(&self, config: &SpectralConfig, seed: u64) -> Result<()> {
        let [l, experts, m, n] = sizes(OP, &self.w)?;
        let mean = sum_experts(&self.w, 1.0 / experts as f32)?.reshape([l, m, n])?;
        let part = CommonPart::of(&mean, config, seed)?;
        self.basis.u.copy_from(&part.u)?;
        self.basis.v.copy_from(&part.v)?;
        self.basis.update_transpose()?;
        self.matrices_c()?.copy_from(&part.w_c)
    }
}

/// How many singular values a refresh finds, as `linalg::svd` decides it.
fn singular_values(m: usize, n: usize, config: &SpectralConfig) -> usize {
    let limit = crate::linalg::MAX_COLUMNS;
    if m.min(n) <= limit { m.min(n) } else { (config.rank + config.oversampling).min(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_are_treated_alike_are_together() {
        assert_eq!(alike(&[1, 1, 2, 1, 1, 1], 6), [0..2, 2..3, 3..6]);
        assert_eq!(alike(&[1, 1, 2], 1), [0..1, 1..2, 2..3]);
        assert!(alike::<u8>(&[], 1).is_empty());
    }
}
