//! The optimizer: AdamW over flat groups, clipping by the global norm, the spectral step of decoupled experts.
//!
//! [`Optimizer::step`] records a whole step; nothing is read back.

pub mod adamw;
pub mod clip;
pub mod config;
pub mod schedule;
pub mod spectral;
pub mod spectral_metrics;

pub use crate::nn::spectral::SpectralInit;
pub use adamw::AdamConfig;
pub use spectral_metrics::{MatrixMetrics, MetricOptions, SpectralMetrics};

use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::token_space::TokenSpace;
use crate::nn::config::{ExpertMatrix, SpectralConfig};
use crate::nn::params::{Group, ParamSet};
use crate::nn::spectral::{SpectralBank, gradient_form, sizes};
use crate::tensor::{DType, Tensor};
use adamw::AdamGroup;
use clip::GradientNorm;

/// AdamW with clipping for all parameters of a model, decoupled experts included.
#[derive(Debug)]
pub struct Optimizer {
    gpu: Gpu,
    params: ParamSet,
    adam: AdamConfig,
    spectral: SpectralConfig,
    seed: u64,
    groups: Vec<AdamGroup>,
    banks: Vec<SpectralBank>,
    clip: Tensor,
    rehearsed: bool,
}

/// What a step leaves on the device.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// `[norm, scale, failed, 0]`: the global norm of what the parameters received, the factor that clipped it, and 1
    /// where the norm is NaN or infinite: such a step has changed no parameter and no moment. The next step overwrites
    /// it: start reading before.
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
        adam: AdamConfig,
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
        let (gpu, params) = (gpu.clone(), params.clone());
        Ok(Self { gpu, params, adam, spectral, seed, groups, banks, clip, rehearsed: false })
    }

    /// Chooses the form of the gradient split for steps in which an expert sees `tokens` routed tokens on average
    /// (batches times sequence times K / E, accumulated batches included). Without this call it is the direct form,
    /// unless the settings fix the other.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn plan(&mut self, tokens: f64) -> Result<()> {
        for bank in &mut self.banks {
            if let Some(stack) = bank.stacks.first() {
                let [_, _, m, n] = sizes(&stack.w)?;
                bank.form = gradient_form(self.spectral.gradient_form, m, n, tokens);
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

    /// Records step `step`, counted from 1, at learning rate `lr`, from the gradients in the parameter set; the decoupled
    /// ones are overwritten. Where `step` is a multiple of `refresh_every` the bases are refreshed after the update. The
    /// first call also rehearses a refresh, so that later ones create nothing.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn step(&mut self, step: u64, lr: f32) -> Result<StepOutput> {
        let mut norm = GradientNorm::new();
        for group in &self.groups {
            norm.add(1.0, group.gradients());
        }
        let mut splits = Vec::new();
        for bank in &self.banks {
            for stack in &bank.stacks {
                splits.push((stack, stack.split(bank.form, &mut norm)?));
            }
        }
        norm.finish(self.adam.clip as f32, &self.clip)?;
        for group in &self.groups {
            group.step(&self.adam, step, lr, &self.clip)?;
        }
        let rehearsal = !std::mem::replace(&mut self.rehearsed, true);
        let kept = if rehearsal {
            let keep = |x: &Tensor| {
                let copy = Tensor::persistent(&self.gpu, x.shape(), DType::F32)?;
                copy.copy_from(x)?;
                Ok(copy)
            };
            self.bases_and_records().map(keep).collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        let refresh = step.is_multiple_of(self.spectral.refresh_every);
        let factors = self.adam.factors(step, lr, true);
        for (stack, split) in &splits {
            if refresh || rehearsal {
                stack.record_share(split)?;
            }
            stack.step(split, &factors, self.spectral.project_update, &self.clip)?;
        }
        drop(splits);
        if refresh {
            self.refresh(step)?;
        } else if rehearsal {
            self.rehearse_refresh(step, &kept)?;
        }
        Ok(StepOutput { norm: self.clip.clone() })
    }

    /// What a refresh changes although its failed flag holds the weights.
    fn bases_and_records(&self) -> impl Iterator<Item = &Tensor> {
        self.banks.iter().flat_map(|b| &b.stacks).flat_map(|s| {
            let r = &s.record;
            [&s.basis.u, &s.basis.v, &r.drift, &r.share, &r.energy, &r.singular, &r.angles]
        })
    }

    /// Runs what a later refresh will run and takes it back, so that the buffers, bind groups and pipelines of all later
    /// steps exist after the first.
    fn rehearse_refresh(&self, step: u64, kept: &[Tensor]) -> Result<()> {
        let clip = Tensor::persistent(&self.gpu, [4], DType::F32)?;
        clip.copy_from(&self.clip)?;
        // Nothing moves under the failed flag.
        self.clip.write_f32(&[0.0, 0.0, 1.0, 0.0])?;
        self.refresh(step)?;
        self.clip.copy_from(&clip)?;
        for (x, copy) in self.bases_and_records().zip(kept) {
            x.copy_from(copy)?;
        }
        self.restored()
    }

    fn refresh(&self, step: u64) -> Result<()> {
        let mut stacks = self.banks.iter().flat_map(|b| &b.stacks);
        stacks.try_for_each(|stack| stack.refresh(&self.spectral, self.seed, step, &self.clip))
    }

    /// Everything that a checkpoint needs besides the parameters, with names that do not depend on the adapter:
    /// `adam.{parameter}.m` and `.v`, `spectral.{matrix}.{layer}.w_c` and so on (see `SpectralStack::state`).
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for group in &self.groups {
            // As `ParamBuilder` lays a group out.
            let align = (self.gpu.offset_alignment() / 4) as usize;
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
        Ok(state)
    }

    /// Brings what is derived in line after the tensors of [`Optimizer::state`] were written.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn restored(&self) -> Result<()> {
        self.banks.iter().flat_map(|b| &b.stacks).try_for_each(|stack| stack.restored())
    }

    /// Starts measuring the decoupled matrices; await [`SpectralMetrics::read`] any time later.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    pub fn metrics(&self, options: MetricOptions) -> Result<SpectralMetrics> {
        SpectralMetrics::start(&self.banks, options)
    }
}
