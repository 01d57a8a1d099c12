//! The optimizer: its update rule (AdamW, or Muon for the matrices of hidden layers), clipping by the global norm, the spectral step
//! of decoupled experts.
//!
//! [`Optimizer::step`] records a whole step; nothing is read back.

pub mod adamw;
pub mod clip;
mod config;
mod freeze;
pub mod muon;
mod rule;
mod schedule;
pub mod spectral;

pub use clip::LossScale;
pub use config::{OptimizerConfig, Rule};
pub use freeze::Frozen;
pub use rule::RuleState;
pub use schedule::LearningRate;
pub use spectral::{
    CommonPart, MatrixMetrics, MetricOptions, PendingMetrics, SideSimilarity, SpectralInit, SpectralSetup,
};

use std::ops::Range;
use std::rc::Rc;

use crate::autograd::GradientHook;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::{Precision, SpectralConfig};
use crate::nn::params::{Group, ParamSet, trained};
use crate::tensor::{DType, Tensor};
use adamw::AdamGroup;
use clip::GradientNorm;
use muon::MuonWeights;
use rule::{At, Moving};
use spectral::{SpectralBank, SpectralStack, Split, Update};

/// The name in [`Optimizer::state`] of the step after which the moments of `W_c` were zero: where the decoupling was switched on on
/// the way they start later than all others, and the bias correction counts from there.
pub(crate) const COMMON_SINCE: &str = "spectral.common_since";

/// The name in [`Optimizer::state`] of the loss scale's state.
pub(crate) const LOSS_SCALE: &str = "loss_scale";

/// An update rule with clipping for all parameters of a model, decoupled experts included.
#[derive(Debug)]
pub struct Optimizer {
    params: ParamSet,
    adam: OptimizerConfig,
    spectral: SpectralConfig,
    seed: u64,
    moving: Vec<Box<dyn Moving>>,
    banks: Vec<SpectralBank>,
    clip: Tensor,
    /// The scale of the loss whose gradients come in; in mixed precision only.
    scaling: Option<LossScale>,
    /// The step after which the moments of `W_c` were zero, and its copy for checkpoints.
    common_since: u64,
    since: Tensor,
    /// Steps that this optimizer has recorded.
    recorded: u64,
}

/// The results that a step leaves on the device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepOutput {
    /// `[norm, scale, failed, loss scale]`: the global norm of what the parameters received, the factor that clipped it
    /// and took out the loss scale, 1 where the norm is NaN or infinite (such a step has changed no parameter and no
    /// moment), and the loss scale of the step, 0 without one. The next step overwrites it: start reading before.
    pub norm: Tensor,
}

/// The parameters that move as they are: contiguous parts of the groups, without decoupled experts and what is frozen. Muon's are
/// together at the end.
fn moving(params: &ParamSet, banks: &[SpectralBank], frozen: &Frozen, rule: Rule) -> Result<Vec<Box<dyn Moving>>> {
    let mut moving: Vec<Box<dyn Moving>> = Vec::new();
    let mut muon = MuonWeights::default();
    for buffers in params.groups() {
        let decoupled = |i: usize| {
            let banks = banks.iter().filter(|b| Group::Experts(b.matrix) == buffers.group);
            banks.flat_map(|b| &b.stacks).any(|stack| stack.layers.contains(&i))
        };
        // Elements, and whether Muon moves them.
        let mut parts: Vec<(Range<usize>, bool)> = Vec::new();
        for (i, (param, range)) in params.members(buffers.group).into_iter().enumerate() {
            if decoupled(i) || frozen.contains(&param.name) {
                continue;
            }
            let by_muon = rule == Rule::Muon && param.hidden;
            if by_muon {
                muon.add_matrices(param)?;
            }
            match parts.last_mut() {
                Some((last, same)) if last.end == range.start && *same == by_muon => last.end = range.end,
                _ => parts.push((range, by_muon)),
            }
        }
        for (part, by_muon) in parts {
            if by_muon {
                muon.add_part(buffers, part)?;
            } else {
                moving.push(Box::new(AdamGroup::part(buffers, part)?));
            }
        }
    }
    if !muon.is_empty() {
        moving.push(Box::new(muon));
    }
    Ok(moving)
}

impl Optimizer {
    /// Zero moments for `params`, and for the expert matrices that `spectral` covers the parts that its `init` says. The
    /// weights must have been drawn or loaded before.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a setting is out of range, or a pattern of `freeze` has no parameter; [`crate::Error::Device`].
    pub fn new(gpu: &Gpu, params: &ParamSet, adam: &OptimizerConfig, spectral: SpectralSetup<'_>) -> Result<Self> {
        adam.validate()?;
        params.iter().try_for_each(|param| trained(&param.gradient).map(drop))?;
        let SpectralSetup { init, seed, .. } = spectral;
        let config = spectral.config.resolved();
        let frozen = Frozen::new(&adam.freeze);
        let states = params.states().iter().map(|(name, _)| name.as_str());
        frozen.require_matches(&params.iter().map(|p| p.name.as_str()).chain(states).collect::<Vec<_>>())?;
        let banks = SpectralBank::all(params, SpectralSetup { config: &config, ..spectral }, &frozen, adam.rule)?;
        let moving = moving(params, &banks, &frozen, adam.rule)?;
        let still = moving.is_empty() && banks.iter().flat_map(|bank| &bank.stacks).all(|stack| stack.frozen);
        if still && !adam.freeze.is_empty() {
            return Err(Error::config("optimizer.freeze", "expected something that moves, got patterns of everything"));
        }
        let clip = Tensor::persistent(gpu, [4], DType::F32)?;
        let params = params.clone();
        let since = Tensor::persistent(gpu, [1], DType::F32)?;
        let common_since = if let SpectralInit::FromWeights { step } = init { step } else { 0 };
        // Exact to 2^24 steps; beyond, the corrections are 1 anyway.
        since.write_f32(&[common_since as f32])?;
        let adam = adam.clone();
        let mixed = params.precision() == Precision::F16;
        let scaling = mixed.then(|| LossScale::new(gpu, adam.loss_scale, adam.loss_scale_every)).transpose()?;
        params.update_copies()?;
        Ok(Self {
            params,
            adam,
            spectral: config,
            seed,
            moving,
            banks,
            clip,
            scaling,
            common_since,
            since,
            recorded: 0,
        })
    }

    /// The hooks that a tape must have registered before a model's backward pass ([`crate::Tape::hook`]), each with the gradient that it is
    /// for: those of the decoupled matrices whose gradients are split in token space.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn gradient_hooks(&self) -> Result<Vec<(Tensor, Rc<dyn GradientHook>)>> {
        let mut hooks: Vec<(Tensor, Rc<dyn GradientHook>)> = Vec::new();
        for bank in &self.banks {
            for stack in &bank.stacks {
                for (i, layer) in stack.layers.clone().enumerate() {
                    if let Some(split) = bank.token_space(layer)? {
                        hooks.push((stack.gradient.slice(i..i + 1)?, Rc::new(split)));
                    }
                }
            }
        }
        Ok(hooks)
    }

    /// The decoupled matrices.
    pub fn banks(&self) -> &[SpectralBank] {
        &self.banks
    }

    /// The loss scale: in mixed precision the loss that is differentiated has to be multiplied by the first number of its
    /// state. None in f32.
    pub fn loss_scale(&self) -> Option<&LossScale> {
        self.scaling.as_ref()
    }

    /// Records step `step`, counted from 1, at learning rate `lr`, from the gradients in the parameter set; those of decoupled
    /// matrices and of what Muon moves are overwritten. Where `step` is a multiple of `refresh_every` the bases are refreshed after the update.
    ///
    /// Behind the second step that an optimizer records, if that has no refresh, one is rehearsed that changes nothing but these
    /// gradients, so that those of later steps create and compile nothing. (Drivers that take long to compile finish a step
    /// before they see the refresh's kernels.)
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn step(&mut self, step: u64, lr: f32) -> Result<StepOutput> {
        let mut norm = GradientNorm::new();
        for gradients in self.moving.iter().flat_map(|part| part.gradients()) {
            norm.add(1.0, &gradients);
        }
        let splits = self.split(&mut norm)?;
        norm.finish_scaled(self.adam.clip, self.scaling.as_ref(), &self.clip)?;
        let at = At { config: &self.adam, t: step, lr };
        self.moving.iter().try_for_each(|part| part.step(at, &self.clip))?;
        let refresh = step.is_multiple_of(self.spectral.refresh_every);
        let common = At { t: step.saturating_sub(self.common_since), ..at };
        let update = Update { project: self.spectral.project_update, common: self.spectral.common_gradient };
        for (stack, split) in &splits {
            if refresh {
                stack.record_share(split, &self.clip)?;
            }
            stack.step(split, [common, at], update, &self.clip)?;
        }
        drop(splits);
        if refresh {
            self.refresh(step)?;
        }
        self.params.update_copies()?;
        self.recorded += 1;
        if self.recorded == 2 && !refresh {
            self.rehearse()?;
        }
        Ok(StepOutput { norm: self.clip.clone() })
    }

    /// The split gradients of all stacks; their norm is added to `norm`.
    fn split(&self, norm: &mut GradientNorm) -> Result<Vec<(&SpectralStack, Split)>> {
        let stacks = self.banks.iter().flat_map(|bank| bank.stacks.iter().map(move |stack| (bank.form, stack)));
        let stacks = stacks.filter(|(_, stack)| !stack.frozen);
        stacks.map(|(form, stack)| Ok((stack, stack.split(form, self.spectral.common_gradient, norm)?))).collect()
    }

    /// Runs a refresh that changes nothing, so that those of later steps find their buffers, bind groups and pipelines:
    /// the pool hands out the lowest free buffer, hence the same ones whatever else was freed since. To be called between two
    /// steps: it overwrites gradients.
    fn rehearse(&self) -> Result<()> {
        if self.banks.is_empty() {
            return Ok(());
        }
        // Bind groups are kept by their buffers, so the rehearsal has the steps' own flag.
        let of_step = Tensor::persistent(self.clip.gpu(), self.clip.shape(), DType::F32)?;
        of_step.copy_from(&self.clip)?;
        // Nothing moves under the failed flag.
        self.clip.write_f32(&[0.0, 0.0, 1.0, 0.0])?;
        let splits = self.split(&mut GradientNorm::new())?;
        splits.iter().try_for_each(|(stack, split)| stack.record_share(split, &self.clip))?;
        drop(splits);
        self.refresh(0)?;
        self.clip.copy_from(&of_step)
    }

    fn refresh(&self, step: u64) -> Result<()> {
        let mut stacks = self.banks.iter().flat_map(|b| &b.stacks).filter(|stack| !stack.frozen);
        stacks.try_for_each(|stack| stack.refresh(&self.spectral, self.seed, step, &self.clip))
    }

    /// Everything that a checkpoint needs besides the parameters, with names that do not depend on the adapter:
    /// `adam.{parameter}.m` and `.v`, `muon.{parameter}.momentum`, `spectral.{matrix}.{layer}.w_c` and so on (see `SpectralStack::state`),
    /// `spectral.common_since` and `loss_scale`. [`Optimizer::restore`] writes them.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for group in self.params.groups() {
            for (param, range) in self.params.members(group.group) {
                let own = range.start..range.start + param.value.numel();
                for part in &self.moving {
                    for (name, kept) in part.state(&param.name, group.group, own.clone())? {
                        state.push((name, kept.reshape(param.value.shape())?));
                    }
                }
            }
        }
        for bank in &self.banks {
            for stack in &bank.stacks {
                state.extend(stack.state(&format!("spectral.{}", bank.matrix.name()))?);
            }
        }
        if !self.banks.is_empty() {
            state.push((COMMON_SINCE.into(), self.since.clone()));
        }
        if let Some(scaling) = &self.scaling {
            state.push((LOSS_SCALE.into(), scaling.state.clone()));
        }
        Ok(state)
    }

    /// Goes on from a checkpoint: `values` is called with name and shape of each tensor of [`Optimizer::state`] and returns its
    /// elements, or none for one that stays as it is. What depends on them, and on weights that were written before, follows.
    ///
    /// # Errors
    /// Those that `values` returns; [`crate::Error::Shape`] when it returns another number of elements; [`crate::Error::Device`].
    /// The state is then a mixture.
    pub fn restore(&mut self, mut values: impl FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>>) -> Result<()> {
        for (name, tensor) in self.state()? {
            if let Some(values) = values(&name, tensor.dims())? {
                tensor.write_f32(&values)?;
                if name == COMMON_SINCE {
                    self.common_since = values[0] as u64;
                }
            }
        }
        self.banks.iter().flat_map(|b| &b.stacks).try_for_each(|stack| stack.restored())?;
        self.params.update_copies()
    }

    /// Starts measuring the decoupled matrices; await [`PendingMetrics::read`] any time later.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn metrics(&self, options: MetricOptions) -> Result<PendingMetrics> {
        PendingMetrics::start(&self.banks, options)
    }
}
