//! [`Trainer`]: model, optimizer and device, step by step. It touches no files and no clock.
//!
//! A step records everything, submits, and returns; its figures arrive some steps later ([`Trainer::reports`]), so that
//! the device never waits for the host.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::autograd::{Tape, Var};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback};
use crate::kernels::elementwise::{axpby, fill};
use crate::kernels::routing::sum_counts;
use crate::nn::model::{Model, Output};
use crate::nn::pass::{Mode, Pass};
use crate::ops::CrossEntropy;
use crate::optim::{Optimizer, SpectralInit, SpectralSetup};
use crate::tensor::{DType, Tensor};
use crate::train::config::{Recompute, RunConfig};
use crate::train::evaluate::evaluate;
use crate::train::memory::MemoryReport;
use crate::train::size;

/// Steps whose figures may be outstanding: enough that the host is ahead of the device, few enough that a failure is
/// noticed soon.
const IN_FLIGHT: usize = 2;
/// Figures of a step; each lies at the start of a row of its own, because a view must start aligned.
const FIGURES: usize = 5;
/// Elements of such a row: 256 bytes, the largest alignment that WebGPU allows.
const ROW: usize = 64;

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

/// How evenly the experts are used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// Largest load of an expert over the even load, less 1; the worst layer.
    pub max_violation: f32,
    /// Experts without a token, over all layers.
    pub dead_experts: u32,
    /// The entropy of the load over its largest, `ln E`, of the most uneven layer: 1 is even; 1 for a single expert.
    pub entropy: f32,
}

/// A training run in memory.
pub struct Trainer {
    gpu: Gpu,
    config: RunConfig,
    model: Model,
    optimizer: Optimizer,
    step: u64,
    tokens: Tensor,
    targets: Tensor,
    /// The weight of a micro-batch in the step's mean, times the loss scale where there is one: what flows back into its
    /// losses.
    share: Tensor,
    figures: Tensor,
    /// `u32 [layers, E]` in rows that start aligned: tokens of each expert in the last step, all its micro-batches.
    counts: Tensor,
    /// The most bytes of activations that a forward pass has held for backward.
    activations: u64,
    pending: VecDeque<(StepReport, Readback)>,
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

    /// A run around a model whose parameters are set, in the precision that the model was made for.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn with_model(gpu: &Gpu, config: &RunConfig, model: Model, init: SpectralInit) -> Result<Self> {
        config.validate()?;
        size::check(gpu, config)?;
        let train = &config.train;
        let rows = train.batch * train.seq;
        let routed = rows * train.accumulate as usize * config.model.moe.top_k;
        let tokens_per_expert = routed as f64 / config.model.moe.experts as f64;
        let spectral = SpectralSetup { config: &config.spectral, init, seed: config.seed, tokens_per_expert };
        let optimizer = Optimizer::new(gpu, model.params(), &config.optimizer, spectral)?;
        let share = Tensor::persistent(gpu, [1], DType::F32)?;
        fill(&share, 1.0 / train.accumulate as f32)?;
        let count_row = config.model.moe.experts.next_multiple_of(ROW);
        let figures = Tensor::persistent(gpu, [FIGURES, ROW], DType::F32)?;
        // Those outstanding, and the step's own.
        gpu.reserve_readbacks(figures.bytes(), IN_FLIGHT + 1)?;
        Ok(Self {
            gpu: gpu.clone(),
            tokens: Tensor::persistent(gpu, [rows], DType::U32)?,
            targets: Tensor::persistent(gpu, [rows], DType::U32)?,
            share,
            figures,
            counts: Tensor::persistent(gpu, [config.model.layers, count_row], DType::U32)?,
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
    pub fn model(&self) -> &Model {
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
        for (name, tensor) in self.model.state() {
            if let Some(values) = values(&name, tensor.dims())? {
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
            let (output, loss) = self.forward(&mut tape, mode)?;
            let keep = if i == 0 { 0.0 } else { 1.0 };
            axpby(share, tape.value(loss), keep, &self.figure(0)?)?;
            for (j, &aux) in output.losses.iter().enumerate() {
                axpby(share, tape.value(aux), if j == 0 { keep } else { 1.0 }, &self.figure(1)?)?;
            }
            let seeds: Vec<_> = output.losses.iter().chain([&loss]).map(|&v| (v, self.share.clone())).collect();
            for (l, routing) in output.routings.iter().enumerate() {
                sum_counts(&routing.groups.counts, i > 0, &self.layer_counts(l)?)?;
            }
            drop(output);
            self.activations = self.activations.max(tape.held_bytes());
            drop(tape.backward(&seeds)?);
        }
        let lr = self.config.optimizer.schedule(self.config.train.steps).lr(self.step);
        for layer in 0..self.config.model.layers {
            self.model.balance(layer, &self.layer_counts(layer)?)?;
        }
        // Nothing of the forward passes is held here: a step with a refresh finds the pool as any other step does.
        let norm = self.optimizer.step(self.step, lr)?.norm;
        self.figure(2)?.copy_from(&norm.slice(0..1)?)?;
        let mixed = self.optimizer.loss_scale();
        if let Some(scaling) = mixed {
            // Whole: no view begins at the numbers that are wanted.
            self.figures.slice(3..4)?.reshape([ROW])?.slice(0..4)?.copy_from(&norm)?;
            self.figures.slice(4..5)?.reshape([ROW])?.slice(0..4)?.copy_from(&scaling.state)?;
        }
        let (loss_scale, skipped_steps) = (mixed.map(|_| 0.0), mixed.map(|_| 0));
        let report =
            StepReport { step: self.step, loss: 0.0, aux_loss: 0.0, lr, grad_norm: 0.0, loss_scale, skipped_steps };
        self.pending.push_back((report, self.figures.read()?));
        Ok(())
    }

    /// Layer `l`'s part of the counts, `u32 [E]`.
    fn layer_counts(&self, l: usize) -> Result<Tensor> {
        let row = self.counts.slice(l..l + 1)?.reshape([self.counts.cols()])?;
        row.slice(0..self.config.model.moe.experts)
    }

    fn figure(&self, i: usize) -> Result<Tensor> {
        self.figures.slice(i..i + 1)?.reshape([ROW])?.slice(0..1)
    }

    fn forward(&self, tape: &mut Tape, mode: Mode) -> Result<(Output, Var)> {
        let token_space = |layer, matrix| self.optimizer.token_space(layer, matrix);
        let pass = Pass { params: self.model.params(), seq: self.config.train.seq, mode, token_space: &token_space };
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
        while let Some((mut report, mut readback)) = self.pending.pop_front() {
            let bytes = match readback.try_take() {
                Some(bytes) => bytes?,
                None if all || self.pending.len() >= IN_FLIGHT => readback.await?,
                None => {
                    self.pending.push_front((report, readback));
                    break;
                }
            };
            let figures: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            report.loss = figures[0];
            report.aux_loss = figures[ROW];
            report.grad_norm = figures[2 * ROW];
            if let (Some(scale), Some(skipped)) = (&mut report.loss_scale, &mut report.skipped_steps) {
                (*scale, *skipped) = (figures[3 * ROW + 3], figures[4 * ROW + 2] as u32);
                // At 1 there is nothing left to take back: the gradients themselves overflow.
                if figures[3 * ROW + 2] != 0.0 && *scale > 1.0 {
                    report.grad_norm = 0.0;
                }
            }
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
        let experts = self.config.model.moe.experts;
        let counts = self.counts.to_u32().await?;
        let mut load = Load { entropy: 1.0, ..Load::default() };
        for row in counts.chunks(self.counts.cols()) {
            let row = &row[..experts];
            let total: u64 = row.iter().map(|&c| u64::from(c)).sum();
            let most = row.iter().copied().max().unwrap_or(0);
            let violation = f64::from(most) * experts as f64 / total.max(1) as f64 - 1.0;
            load.max_violation = load.max_violation.max(violation as f32);
            load.entropy = load.entropy.min(entropy(row, total));
            load.dead_experts += row.iter().filter(|&&c| c == 0).count() as u32;
        }
        Ok(load)
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
    /// [`Trainer::restore`] writes them.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.optimizer.state()?;
        state.extend(self.model.state());
        Ok(state)
    }
}

/// The entropy of `counts`, which add up to `total`, over that of an even load; 1 where there is nothing to tell.
fn entropy(counts: &[u32], total: u64) -> f32 {
    if counts.len() < 2 || total == 0 {
        return 1.0;
    }
    let shares = counts.iter().filter(|&&c| c > 0).map(|&c| f64::from(c) / total as f64);
    // Of one expert alone it is 0, not -0.
    (-shares.map(|p| p * p.ln()).sum::<f64>() / (counts.len() as f64).ln() + 0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::entropy;

    #[test]
    fn the_load_has_an_entropy_of_1_where_it_is_even_and_of_0_where_one_expert_has_it_all() {
        assert!((entropy(&[3, 3, 3], 9) - 1.0).abs() < 1e-6);
        assert_eq!(entropy(&[0, 9, 0], 9).abs(), 0.0);
        assert!((entropy(&[4, 4, 0, 0], 8) - 0.5).abs() < 1e-6);
        assert_eq!((entropy(&[7], 7), entropy(&[0, 0], 0)), (1.0, 1.0));
    }
}
