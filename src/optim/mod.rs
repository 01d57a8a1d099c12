//! The optimizer: AdamW over flat groups, clipping by the global norm, the spectral step of decoupled experts.
//!
//! [`Optimizer::step`] records a whole step; nothing is read back.

pub mod adamw;
pub mod clip;
pub mod config;
pub mod schedule;
pub mod spectral;

pub use config::OptimizerConfig;
pub use spectral::{MatrixMetrics, MetricOptions, PendingMetrics, SideSimilarity, SpectralInit};

use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::spectral::sizes;
use crate::kernels::token_space::TokenSpace;
use crate::nn::config::{ExpertMatrix, Precision, SpectralConfig};
use crate::nn::params::{Group, ParamSet};
use crate::tensor::{DType, Tensor};
use adamw::AdamGroup;
use clip::{GradientNorm, LossScale};
use spectral::{SpectralBank, SpectralStack, Split, Update, chosen_form};

/// The name in [`Optimizer::state`] of what [`Optimizer::common_since`] sets.
pub const COMMON_SINCE: &str = "spectral.common_since";

/// The name in [`Optimizer::state`] of the loss scale's state.
pub const LOSS_SCALE: &str = "loss_scale";

/// AdamW with clipping for all parameters of a model, decoupled experts included.
#[derive(Debug)]
pub struct Optimizer {
    params: ParamSet,
    adam: OptimizerConfig,
    spectral: SpectralConfig,
    seed: u64,
    groups: Vec<AdamGroup>,
    banks: Vec<SpectralBank>,
    clip: Tensor,
    /// Of the loss whose gradients come in; in mixed precision only.
    scaling: Option<LossScale>,
    /// The step at which the moments of `W_c` were zero, and its copy for checkpoints.
    common_since: u64,
    since: Tensor,
}

/// What a step leaves on the device.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// `[norm, scale, failed, loss scale]`: the global norm of what the parameters received, the factor that clipped it
    /// and took out the loss scale, 1 where the norm is NaN or infinite (such a step has changed no parameter and no
    /// moment), and the loss scale of the step, 0 without one. The next step overwrites it: start reading before.
    pub norm: Tensor,
}

impl Optimizer {
    /// Zero moments for `params`, and for the expert matrices that `spectral` covers the parts that `init` says. The
    /// weights must have been drawn or loaded before.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when a setting is out of range; [`crate::Error::Device`].
    pub fn new(
        gpu: &Gpu,
        params: &ParamSet,
        adam: &OptimizerConfig,
        spectral: &SpectralConfig,
        seed: u64,
        init: SpectralInit,
    ) -> Result<Self> {
        adam.validate()?;
        let spectral = spectral.resolved();
        let banks = SpectralBank::all(params, &spectral, seed, init)?;
        let plain = |group: Group| !banks.iter().any(|b| Group::Experts(b.matrix) == group);
        let groups = params.groups().iter().filter(|g| plain(g.group)).map(AdamGroup::new).collect::<Result<_>>()?;
        let clip = Tensor::persistent(gpu, [4], DType::F32)?;
        let params = params.clone();
        let since = Tensor::persistent(gpu, [1], DType::F32)?;
        let adam = adam.clone();
        let mixed = params.precision() == Precision::F16;
        let scaling = mixed.then(|| LossScale::new(gpu, adam.loss_scale, adam.loss_scale_every)).transpose()?;
        let optimizer = Self { params, adam, spectral, seed, groups, banks, clip, scaling, common_since: 0, since };
        optimizer.params.update_copies()?;
        Ok(optimizer)
    }

    /// Chooses the form of the gradient split for steps in which an expert sees `tokens` routed tokens on average
    /// (batches times sequence times K / E, accumulated batches included). Without this call it is the direct form,
    /// unless the settings fix the other. To be called before gradients are made.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn plan(&mut self, tokens: f64) -> Result<()> {
        for bank in &mut self.banks {
            if let Some(stack) = bank.stacks.first() {
                let shape = sizes("spectral decoupling", &stack.w)?;
                bank.form = chosen_form(stack.w.gpu(), &self.spectral, shape, tokens)?;
            }
        }
        Ok(())
    }

    /// What the backward pass of `matrix` in `layer` has to use where the token-space form runs.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn token_space(&self, layer: usize, matrix: ExpertMatrix) -> Result<Option<TokenSpace>> {
        self.banks.iter().find(|b| b.matrix == matrix).map_or(Ok(None), |bank| bank.token_space(layer))
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

    /// Records step `step`, counted from 1, at learning rate `lr`, from the gradients in the parameter set; the decoupled
    /// ones are overwritten. Where `step` is a multiple of `refresh_every` the bases are refreshed after the update.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn step(&mut self, step: u64, lr: f32) -> Result<StepOutput> {
        let mut norm = GradientNorm::new();
        for group in &self.groups {
            norm.add(1.0, group.gradients());
        }
        let splits = self.split(&mut norm)?;
        norm.finish_scaled(self.adam.clip, self.scaling.as_ref(), &self.clip)?;
        for group in &self.groups {
            group.step(&self.adam, step, lr, &self.clip)?;
        }
        let refresh = step.is_multiple_of(self.spectral.refresh_every);
        let unique = self.adam.factors(step, lr, true);
        let common = self.adam.factors(step.saturating_sub(self.common_since), lr, true);
        let update = Update { project: self.spectral.project_update, common: self.spectral.common_gradient };
        for (stack, split) in &splits {
            if refresh {
                stack.record_share(split, &self.clip)?;
            }
            stack.step(split, [&common, &unique], update, &self.clip)?;
        }
        drop(splits);
        if refresh {
            self.refresh(step)?;
        }
        self.params.update_copies()?;
        Ok(StepOutput { norm: self.clip.clone() })
    }

    /// The split gradients of all stacks; their norm is added to `norm`.
    fn split(&self, norm: &mut GradientNorm) -> Result<Vec<(&SpectralStack, Split)>> {
        let stacks = self.banks.iter().flat_map(|bank| bank.stacks.iter().map(move |stack| (bank.form, stack)));
        stacks.map(|(form, stack)| Ok((stack, stack.split(form, self.spectral.common_gradient, norm)?))).collect()
    }

    /// Runs a refresh that changes nothing, so that those of later steps find their buffers, bind groups and pipelines:
    /// the pool hands out the lowest free buffer, hence the same ones whatever else was freed since. To be called after
    /// [`Optimizer::plan`], between two steps: it overwrites gradients.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn rehearse(&self) -> Result<()> {
        if self.banks.is_empty() {
            return Ok(());
        }
        // Nothing moves under the failed flag.
        self.clip.write_f32(&[0.0, 0.0, 1.0, 0.0])?;
        let splits = self.split(&mut GradientNorm::new())?;
        splits.iter().try_for_each(|(stack, split)| stack.record_share(split, &self.clip))?;
        drop(splits);
        self.refresh(0)?;
        self.clip.clear()
    }

    fn refresh(&self, step: u64) -> Result<()> {
        let mut stacks = self.banks.iter().flat_map(|b| &b.stacks);
        stacks.try_for_each(|stack| stack.refresh(&self.spectral, self.seed, step, &self.clip))
    }

    /// Everything that a checkpoint needs besides the parameters, with names that do not depend on the adapter:
    /// `adam.{parameter}.m` and `.v`, `spectral.{matrix}.{layer}.w_c` and so on (see `SpectralStack::state`),
    /// [`COMMON_SINCE`] and [`LOSS_SCALE`].
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for group in &self.groups {
            // As `ParamBuilder` lays a group out.
            let align = self.params.align();
            let mut start = 0;
            for param in self.params.iter().filter(|p| p.group == group.group()) {
                let size = param.value.numel();
                for (name, moment) in [("m", &group.m), ("v", &group.v)] {
                    let part = moment.slice(start..start + size)?.reshape(param.value.shape())?;
                    state.push((format!("adam.{}.{name}", param.name), part));
                }
                start += size.next_multiple_of(align);
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

    /// Says that the moments of `W_c` were zero after step `step`: where the decoupling is switched on on the way they start
    /// later than all others, and the bias correction counts from there. The checkpoint keeps it ([`COMMON_SINCE`]).
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn common_since(&mut self, step: u64) -> Result<()> {
        self.common_since = step;
        // Exact to 2^24 steps; beyond, the corrections are 1 anyway.
        self.since.write_f32(&[step as f32])
    }

    /// Brings what is derived in line after the tensors of [`Optimizer::state`] were written.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn restored(&self) -> Result<()> {
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
