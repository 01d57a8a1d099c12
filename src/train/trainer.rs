//! [`Trainer`]: model, optimizer and device, step by step. It touches no files and no clock.
//!
//! A step records everything, submits, and returns; its figures arrive some steps later ([`Trainer::reports`]), so that
//! the device never waits for the host.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::autograd::{Tape, Var};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::{Compiling, Gpu};
use crate::kernels::elementwise::{axpby, fill};
use crate::kernels::routing::sum_counts;
use crate::nn::language_model::{ExpertCount, LanguageModel, Output};
use crate::nn::model::Model;
use crate::nn::pass::{Mode, Pass};
use crate::ops::CrossEntropy;
use crate::optim::{Frozen, Optimizer, SpectralInit, SpectralSetup};
use crate::tensor::{DType, Tensor};
use crate::train::config::{Recompute, RunConfig};
use crate::train::evaluate::evaluate;
use crate::train::figures::{Figures, PendingFigures};
use crate::train::load::{ExpertCounts, Load};
use crate::train::memory::MemoryReport;
use crate::train::size;

/// Steps whose figures may be outstanding: enough that the host is ahead of the device, few enough that a failure is
/// noticed soon.
const IN_FLIGHT: usize = 2;

/// The figures of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Cross-entropy, nats per token.
    pub loss: f32,
    /// Auxiliary losses, weighted, summed over layers.
    pub aux_loss: f32,
    /// Learning rate.
    pub lr: f32,
    /// Global norm of what the parameters receive, before clipping; 0 for a step that the loss scale has skipped.
    pub grad_norm: f32,
    /// In mixed precision the loss scale of this step.
    pub loss_scale: Option<f32>,
    /// In mixed precision the steps of the run, this one included, that overflowed and were skipped.
    pub skipped_steps: Option<u32>,
}

/// A training run in memory, of the model that the settings describe or of any other [`LanguageModel`].
pub struct Trainer<M = Model> {
    gpu: Gpu,
    config: RunConfig,
    model: M,
    optimizer: Optimizer,
    step: u64,
    tokens: Tensor,
    targets: Tensor,
    /// The weight of a micro-batch in the step's mean, times the loss scale where there is one: what flows back into its
    /// losses.
    share: Tensor,
    figures: Figures,
    counts: ExpertCounts,
    /// The layers, counted among those with experts, whose balance bias does not move.
    unbalanced: Vec<usize>,
    /// The most bytes of activations that a forward pass has held for backward.
    activations: u64,
    /// Step and learning rate, with the figures that are on their way.
    pending: VecDeque<(u64, f32, PendingFigures)>,
}

impl Trainer {
    /// A fresh run: parameters drawn from `config.seed`.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings, [`Error::Device`] when the adapter cannot hold the model.
    pub fn new(gpu: &Gpu, config: &RunConfig) -> Result<Self> {
        config.validate()?;
        size::check(gpu, config)?;
        let model = Model::with_precision(gpu, &config.model, config.train.precision)?;
        model.init(config.seed)?;
        Self::with_model(gpu, config, model, SpectralInit::Fresh)
    }

    /// Changes the weight of the load-balance loss, `model.moe.balance_loss`, from the next step on.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is negative or not finite; it then stays as it was.
    pub fn set_balance_loss(&mut self, weight: f32) -> Result<()> {
        let mut config = self.config.clone();
        config.model.moe.balance_loss = weight;
        config.validate()?;
        self.model.set_balance_loss(weight);
        self.config = config;
        Ok(())
    }
}

impl<M: LanguageModel> Trainer<M> {
    /// A run around a model whose parameters are set, in the precision that the model was made for. For a model of one's own,
    /// `config.model` has no meaning.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible settings, [`Error::Device`] when memory is short.
    pub fn with_model(gpu: &Gpu, config: &RunConfig, model: M, init: SpectralInit) -> Result<Self> {
        config.validate()?;
        let train = &config.train;
        let rows = train.batch * train.seq;
        let ExpertCount { layers, experts, top_k } = model.experts();
        let routed = rows * train.accumulate as usize * top_k;
        let tokens_per_expert = routed as f64 / experts.max(1) as f64;
        let spectral = SpectralSetup { config: &config.spectral, init, seed: config.seed, tokens_per_expert };
        let optimizer = Optimizer::new(gpu, model.params(), &config.optimizer, spectral)?;
        let frozen = Frozen::new(&config.optimizer.freeze);
        let still = |layer: &usize| {
            let prefix = format!("layers.{}.", model.params().expert_layer(*layer));
            model.params().states().iter().any(|(name, _)| name.starts_with(&prefix) && frozen.contains(name))
        };
        let unbalanced = (0..layers).filter(still).collect();
        let share = Tensor::persistent(gpu, [1], DType::F32)?;
        fill(&share, 1.0 / train.accumulate as f32)?;
        Ok(Self {
            gpu: gpu.clone(),
            tokens: Tensor::persistent(gpu, [rows], DType::U32)?,
            targets: Tensor::persistent(gpu, [rows], DType::U32)?,
            share,
            figures: Figures::new(gpu, IN_FLIGHT)?,
            counts: ExpertCounts::new(gpu, layers, experts)?,
            unbalanced,
            config: config.clone(),
            model,
            optimizer,
            step: 0,
            activations: 0,
            pending: VecDeque::new(),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The settings.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The optimizer with its spectral state.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Steps done.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Goes on after `step`, from a checkpoint: `values` is called with name and shape of each tensor of [`Trainer::state`] and
    /// returns its elements, or none for one that stays as it is. The parameters must have been written before.
    ///
    /// # Errors
    /// As [`Optimizer::restore`].
    pub fn restore(
        &mut self,
        step: u64,
        mut values: impl FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>>,
    ) -> Result<()> {
        self.optimizer.restore(&mut values)?;
        for (name, tensor) in self.model.params().states() {
            if let Some(values) = values(name, tensor.dims())? {
                tensor.write_f32(&values)?;
            }
        }
        self.step = step;
        Ok(())
    }

    /// Counts a step that is not done.
    #[cfg(feature = "bench")]
    pub(crate) fn skip_step(&mut self) {
        self.step += 1;
    }

    /// Records and submits one optimizer step on `train.accumulate` micro-batches.
    ///
    /// # Errors
    /// [`Error::Shape`] when the micro-batches are not of the configured number and size; [`Error::Device`].
    pub fn step(&mut self, batches: &[Batch]) -> Result<()> {
        let wanted = self.config.train.accumulate as usize;
        if batches.len() != wanted {
            let got = format!("{}", batches.len());
            return Err(Error::shape("step", format!("{wanted} micro-batches"), got));
        }
        let mut batches = batches.iter();
        self.step_from(|_| match batches.next() {
            Some(batch) => Ok(Cow::Borrowed(batch)),
            None => Err(Error::shape("step", format!("{wanted} micro-batches"), "fewer")),
        })
    }

    /// As [`Trainer::step`], with micro-batch `i` made by `batch(i)` when its turn comes, so that one is in memory at a time.
    ///
    /// # Errors
    /// As [`Trainer::step`], and what `batch` returns.
    pub fn step_from<'a>(&mut self, mut batch: impl FnMut(u64) -> Result<Cow<'a, Batch>>) -> Result<()> {
        let wanted = self.config.train.accumulate;
        self.step += 1;
        let share = 1.0 / wanted as f32;
        if let Some(scaling) = self.optimizer.loss_scale() {
            axpby(share, &scaling.state.slice(0..1)?, 0.0, &self.share)?;
        }
        for i in 0..wanted {
            let batch = batch(i)?;
            self.tokens.write_u32(&batch.tokens)?;
            self.targets.write_u32(&batch.targets)?;
            let mode = if i == 0 { Mode::Train } else { Mode::Accumulate };
            let mut tape = Tape::new(&self.gpu).recomputing(self.config.train.recompute == Recompute::Experts);
            for (gradient, hook) in self.optimizer.gradient_hooks()? {
                tape.hook(&gradient, hook);
            }
            let (output, loss) = self.forward(&mut tape, mode)?;
            let auxiliary = output.losses.iter().map(|&aux| tape.value(aux));
            self.figures.add(share, tape.value(loss), auxiliary, i == 0)?;
            let seeds: Vec<_> = output.losses.iter().chain([&loss]).map(|&v| (v, self.share.clone())).collect();
            for (l, routing) in output.routings.iter().enumerate() {
                sum_counts(&routing.groups.counts, i > 0, &self.counts.layer(l)?)?;
            }
            drop(output);
            self.activations = self.activations.max(tape.held_bytes());
            drop(tape.backward(&seeds)?);
        }
        let lr = self.config.optimizer.schedule(self.config.train.steps).lr(self.step);
        for layer in (0..self.model.experts().layers).filter(|layer| !self.unbalanced.contains(layer)) {
            self.model.balance(layer, &self.counts.layer(layer)?)?;
        }
        // Nothing of the forward passes is held here: a step with a refresh finds the pool as any other step does.
        let output = self.optimizer.step(self.step, lr)?;
        let figures = self.figures.read(&output, self.optimizer.loss_scale())?;
        self.pending.push_back((self.step, lr, figures));
        Ok(())
    }

    /// As [`Trainer::step`], for a step that may meet new kernels: it waits for the end of the step without blocking, and calls
    /// `progress` whenever more of its new kernels are compiled (`12 of 31 kernels`). A program does so with its first two steps:
    /// later ones need no others.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn warm_up_step(&mut self, batches: &[Batch], progress: impl FnMut(Compiling)) -> Result<()> {
        let (before, _) = self.gpu.compilation()?;
        let hold = self.gpu.hold();
        self.step(batches)?;
        let gpu = self.gpu.clone();
        gpu.hand_over(before, progress).await?;
        drop(hold);
        Ok(())
    }

    fn forward(&self, tape: &mut Tape, mode: Mode) -> Result<(Output, Var)> {
        let pass = Pass::plain(self.model.params(), self.config.train.seq, mode);
        let output = self.model.forward(tape, &pass, &self.tokens)?;
        let targets = tape.constant(&self.targets);
        let loss = tape.apply(CrossEntropy, &[output.logits, targets])?;
        tape.release(&[output.logits]);
        Ok((output, loss))
    }

    /// The figures that have arrived, oldest first. Waits only where more than a few steps are outstanding, or for all of
    /// them if `all`.
    ///
    /// # Errors
    /// As [`Trainer::reports_into`]; what had arrived before is lost with it.
    pub async fn reports(&mut self, all: bool) -> Result<Vec<StepReport>> {
        let mut arrived = Vec::new();
        self.reports_into(all, &mut arrived).await?;
        Ok(arrived)
    }

    /// As [`Trainer::reports`], behind what `arrived` holds; on an error it holds the figures of the good steps before.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for the first step whose loss or gradient norm is not finite; [`Error::Device`].
    pub async fn reports_into(&mut self, all: bool, arrived: &mut Vec<StepReport>) -> Result<()> {
        while let Some((step, lr, mut pending)) = self.pending.pop_front() {
            let figures = match pending.try_take() {
                Some(figures) => figures?,
                None if all || self.pending.len() >= IN_FLIGHT => pending.arrive().await?,
                None => {
                    self.pending.push_front((step, lr, pending));
                    break;
                }
            };
            let report = StepReport {
                step,
                loss: figures.loss(),
                aux_loss: figures.aux_loss(),
                lr,
                grad_norm: figures.grad_norm(),
                loss_scale: figures.loss_scale(),
                skipped_steps: figures.skipped_steps(),
            };
            for (what, value) in [("loss", report.loss), ("aux_loss", report.aux_loss), ("grad_norm", report.grad_norm)]
            {
                if !value.is_finite() {
                    return Err(Error::NotFinite { step: report.step, what: what.into(), value });
                }
            }
            arrived.push(report);
        }
        Ok(())
    }

    /// How evenly the experts were used in the last step.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn load(&self) -> Result<Load> {
        self.counts.load().await
    }

    /// The tokens that each expert got in the last step, by layer, counted among those with experts.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn expert_counts(&self) -> Result<Vec<Vec<u32>>> {
        self.counts.read().await
    }

    /// Mean cross-entropy over batches of the training length, nats per token.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub async fn evaluate(&self, batches: impl IntoIterator<Item = Batch>) -> Result<f32> {
        Ok(evaluate(&self.gpu, &self.model, self.config.train.seq, batches).await?.loss)
    }

    /// Where the device's memory is; the activations are those of the steps so far.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn memory(&self) -> Result<MemoryReport> {
        MemoryReport::new(&self.gpu, self.model.params(), &self.optimizer, self.activations)
    }

    /// Everything that a checkpoint holds beside the parameters and the step: optimizer, spectral and balance state.
    /// [`Trainer::restore`] writes them; [`Trainer::snapshot`] reads them with all the rest.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.optimizer.state()?;
        state.extend_from_slice(self.model.params().states());
        Ok(state)
    }
}
