//! A whole run: the loop around a [`Trainer`], with its metrics, validations and checkpoints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::metrics::{MetricsWriter, StepMetrics, Summary};
use super::progress::{Display, Progress};
use super::saved::{self, SavedModel, SavedRun};
use super::trainer::{StepReport, Trainer};
use super::{Evaluation, Generation, Outcome, Plan, generate};
use crate::checkpoint::{TensorFile, TensorToSave};
use crate::data::{Batches, Validation};
use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, Gpu, GpuOptions};
use crate::nn::model::Model;
use crate::optim::SpectralInit;
use crate::tensor::{DType, Tensor};
use crate::train::config::RunConfig;

/// Steps that `tokens_per_second` leaves out: the driver compiles its kernels in them.
const WARM_UP_STEPS: u64 = 3;
/// The sample at the end of a run.
const SAMPLE_TOKENS: usize = 200;

async fn open(adapter: Option<&str>) -> Result<Gpu> {
    let adapter = adapter.map_or(AdapterChoice::Auto, AdapterChoice::from);
    Gpu::open(&GpuOptions { adapter, ..GpuOptions::default() }).await
}

/// Fills `named` tensors from a file.
fn load(named: impl IntoIterator<Item = (String, Tensor)>, file: &TensorFile) -> Result<()> {
    for (name, tensor) in named {
        match tensor.dtype() {
            DType::F32 => tensor.write_f32(&file.expect_f32(&name, tensor.dims())?)?,
            DType::U32 => tensor.write_u32(&file.get_u32(&name)?.1)?,
        }
    }
    Ok(())
}

fn parameters(model: &Model) -> impl Iterator<Item = (String, Tensor)> {
    model.params().iter().map(|p| (p.name.clone(), p.value.clone()))
}

/// A model with the parameters of a checkpoint.
async fn restore_model(gpu: &Gpu, saved: &SavedModel) -> Result<Model> {
    let model = Model::new(gpu, &saved.config.model)?;
    load(parameters(&model), &saved.tensors)?;
    Ok(model)
}

/// A trainer that goes on where a checkpoint stands. Where the spectral decoupling is switched on on the way, the common
/// part comes from the experts' mean; where it is switched off, the merged experts train on. The moments of what then has
/// no counterpart in the checkpoint start at zero.
async fn restore(gpu: &Gpu, config: &RunConfig, saved: &SavedRun) -> Result<Trainer> {
    let model = Model::new(gpu, &config.model)?;
    load(parameters(&model), &saved.model.tensors)?;
    let mut trainer = Trainer::with_model(gpu, config, model, SpectralInit::FromWeights)?;
    let held = trainer.state()?.into_iter().filter(|(name, _)| saved.optimizer.contains(name));
    load(held, &saved.optimizer)?;
    trainer.resume_at(saved.model.step)?;
    Ok(trainer)
}

/// A tensor's name, shape and elements.
type HostTensor = (String, Vec<usize>, Vec<f32>);

fn to_save(host: &[HostTensor]) -> Vec<TensorToSave<'_>> {
    host.iter().map(|(name, shape, data)| TensorToSave::f32(name, shape, data)).collect()
}

/// Named tensors in host memory.
async fn download(named: impl IntoIterator<Item = (String, Tensor)>) -> Result<Vec<HostTensor>> {
    let mut host = Vec::new();
    for (name, tensor) in named {
        let data = tensor.to_f32().await?;
        host.push((name, tensor.dims().to_vec(), data));
    }
    Ok(host)
}

/// What a run writes to: everything of a [`Plan`] that changes while it goes on.
struct Run {
    plan: Plan,
    trainer: Trainer,
    metrics: MetricsWriter,
    progress: Progress,
    clock: Clock,
}

/// Tokens per second: since the last line, and over the run without its first steps.
struct Clock {
    tokens_per_step: f64,
    first: u64,
    warm: Option<(u64, Instant)>,
    line: (u64, Instant),
    rate: f64,
}

impl Clock {
    fn new(tokens_per_step: f64, first: u64) -> Self {
        Self { tokens_per_step, first, warm: None, line: (first, Instant::now()), rate: 0.0 }
    }

    /// Takes note that `step` has arrived.
    fn arrived(&mut self, step: u64) {
        if self.warm.is_none() && step >= self.first + WARM_UP_STEPS {
            self.warm = Some((step, Instant::now()));
        }
        let seconds = self.line.1.elapsed().as_secs_f64();
        if step > self.line.0 && seconds > 0.0 {
            self.rate = (step - self.line.0) as f64 * self.tokens_per_step / seconds;
        }
    }

    /// The rate since the last call.
    fn lap(&mut self, step: u64) -> f64 {
        self.line = (step, Instant::now());
        self.rate
    }

    /// Leaves out what was no training: shifts the marks by the time that `pause` took.
    fn pause(&mut self, began: Instant) {
        let pause = began.elapsed();
        self.line.1 += pause;
        if let Some((_, mark)) = &mut self.warm {
            *mark += pause;
        }
    }

    fn overall(&self, step: u64) -> f64 {
        match self.warm {
            Some((from, mark)) if step > from => {
                (step - from) as f64 * self.tokens_per_step / mark.elapsed().as_secs_f64().max(1e-9)
            }
            _ => self.rate,
        }
    }
}

/// Trains until the last step, or until `stop` is set; then writes a checkpoint.
///
/// # Errors
/// No device, a device that fails, a disk that fails, or [`Error::NotFinite`]; the last good checkpoint is then kept.
pub async fn run(mut plan: Plan, display: Display, stop: &AtomicBool) -> Result<Outcome> {
    let gpu = open(plan.config.adapter.as_deref()).await?;
    let resume = plan.resume.take();
    let trainer = match &resume {
        Some(saved) => restore(&gpu, &plan.config, saved).await?,
        None => Trainer::new(&gpu, &plan.config)?,
    };
    // The files' tensors are on the device now.
    drop(resume);
    let first = trainer.step_number();
    let metrics = plan.folder.begin(&plan.config, first)?;
    let train = &plan.config.train;
    let tokens_per_step = (train.batch * train.seq) as f64 * train.accumulate as f64;
    let progress = Progress::start(display, first, train.steps);
    let clock = Clock::new(tokens_per_step, first);
    let mut run = Run { plan, trainer, metrics, progress, clock };
    let outcome = run.until_done(stop).await;
    run.progress.finish();
    outcome
}

impl Run {
    async fn until_done(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let config = self.plan.config.clone();
        let train = &config.train;
        let corpus = self.plan.corpus.clone();
        let batches = Batches::new(corpus.train(), train.batch, train.seq, config.seed)?;
        let due = |every: u64, step: u64| every > 0 && step % every == 0;
        let first = self.trainer.step_number();
        let mut val_loss = None;
        for step in first + 1..=train.steps {
            let micro: Vec<_> = (0..train.accumulate).map(|i| batches.batch(step, i)).collect();
            self.trainer.step(&micro)?;
            let last = step == train.steps;
            let interrupted = stop.load(Ordering::Relaxed) && !last;
            let evaluates = due(train.eval_every, step) || last;
            let spectral = due(train.spectral_every, step) || last;
            let saves = due(train.checkpoint_every, step) || last || interrupted;
            let pauses = evaluates || spectral || saves;
            let mut reports = self.trainer.reports(pauses).await?;
            let newest = if pauses { reports.pop() } else { None };
            self.log(&reports)?;
            let Some(report) = newest else { continue };
            self.clock.arrived(report.step);
            let began = Instant::now();
            let mut line = self.line(&report);
            if evaluates {
                let windows = Validation::new(corpus.validation(), train.batch, train.seq, Some(train.eval_batches))?;
                let loss = self.trainer.evaluate(windows.iter()).await?;
                let load = self.trainer.load().await?;
                line.val_loss = Some(loss);
                line.load_max_violation = Some(load.max_violation);
                line.dead_experts = Some(load.dead_experts);
                val_loss = Some(loss);
                self.progress.line(&format!("step {step}: loss {:.4}, validation {loss:.4}", report.loss));
            }
            if spectral {
                line.spectral = Some(super::specialisation::spectral_block(&self.trainer).await?);
            }
            self.metrics.write(&line)?;
            self.progress.step(step, report.loss, line.tokens_per_second);
            if saves {
                self.save().await?;
            }
            self.clock.pause(began);
            if interrupted {
                return Ok(Outcome::Interrupted { step });
            }
        }
        self.finish(val_loss.unwrap_or(f32::NAN)).await
    }

    /// Writes and shows the figures of steps at which nothing else is due.
    fn log(&mut self, reports: &[StepReport]) -> Result<()> {
        for report in reports {
            self.clock.arrived(report.step);
            if report.step % self.plan.config.train.log_every.max(1) == 0 {
                let line = self.line(report);
                self.metrics.write(&line)?;
            }
            self.progress.step(report.step, report.loss, self.clock.rate);
        }
        Ok(())
    }

    fn line(&mut self, report: &StepReport) -> StepMetrics {
        StepMetrics {
            step: report.step,
            loss: report.loss,
            aux_loss: report.aux_loss,
            lr: report.lr,
            grad_norm: report.grad_norm,
            tokens_per_second: self.clock.lap(report.step),
            ..StepMetrics::default()
        }
    }

    async fn save(&self) -> Result<()> {
        let model = download(parameters(self.trainer.model())).await?;
        let state = download(self.trainer.state()?).await?;
        if let Some((name, ..)) = model.iter().chain(&state).find(|(_, _, d)| d.iter().any(|x| !x.is_finite())) {
            return Err(Error::Device(format!("`{name}` holds numbers that are not finite; no checkpoint written")));
        }
        saved::save(
            &self.plan.folder.checkpoint_path(),
            &self.plan.config,
            self.trainer.step_number(),
            &to_save(&model),
            &to_save(&state),
            self.plan.corpus.fingerprint(),
        )
    }

    async fn finish(&mut self, val_loss: f32) -> Result<Outcome> {
        let config = &self.plan.config;
        let gpu = self.trainer.gpu();
        let steps = self.trainer.step_number();
        let summary = Summary {
            val_loss,
            bits_per_byte: val_loss / std::f32::consts::LN_2,
            tokens_per_second: self.clock.overall(steps),
            steps,
            tokens: steps * self.clock.tokens_per_step as u64,
            parameters: self.trainer.model().params().numel() as u64,
            active_parameters: self.trainer.model().active_parameters() as u64,
            adapter: gpu.adapter().name.clone(),
            peak_gpu_bytes: gpu.counters().peak_bytes,
            similarity: super::specialisation::similarities(&self.trainer).await?,
        };
        summary.write(&self.plan.folder.summary_path())?;
        let mut sample = Vec::new();
        let prompt = self.plan.corpus.validation();
        let prompt = &prompt[..prompt.len().min(32)];
        let what = Generation {
            prompt: prompt.to_vec(),
            tokens: SAMPLE_TOKENS,
            temperature: 0.8,
            top_p: 0.95,
            seed: config.seed,
        };
        sample.extend(prompt.iter().map(|&b| u32::from(b)));
        generate::generate(gpu, self.trainer.model(), config.train.seq, &what, |byte| {
            sample.push(u32::from(byte));
            Ok(())
        })
        .await?;
        Ok(Outcome::Finished { summary, sample: crate::data::tokenizer::printable(&sample) })
    }
}

/// Goes on from a prompt with the model of a checkpoint, handing over each byte as it is drawn.
///
/// # Errors
/// No device, a device that fails, or what `each` returns.
pub async fn continue_text(
    saved: &SavedModel,
    adapter: Option<&str>,
    what: &Generation,
    each: impl FnMut(u8) -> Result<()>,
) -> Result<()> {
    let gpu = open(adapter).await?;
    let model = restore_model(&gpu, saved).await?;
    generate::generate(&gpu, &model, saved.config.train.seq, what, each).await
}

/// Evaluates a text with the model of a checkpoint, in windows of its training length.
///
/// # Errors
/// [`Error::Data`] when the text is too short, no device, or a device that fails.
pub async fn evaluate_text(saved: &SavedModel, adapter: Option<&str>, text: &[u8]) -> Result<Evaluation> {
    let train = &saved.config.train;
    let windows = Validation::new(text, train.batch, train.seq, None)?;
    let gpu = open(adapter).await?;
    let model = restore_model(&gpu, saved).await?;
    let plain = RunConfig {
        spectral: crate::nn::config::SpectralConfig { enabled: false, ..saved.config.spectral.clone() },
        ..saved.config.clone()
    };
    let trainer = Trainer::with_model(&gpu, &plain, model, SpectralInit::FromWeights)?;
    Ok(Evaluation { loss: trainer.evaluate(windows.iter()).await?, bytes: windows.predicted() as u64 })
}
