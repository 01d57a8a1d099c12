//! A whole run: the loop around a [`Trainer`], with its metrics, validations and checkpoints.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::begin::begin_from;
use super::clock::Clock;
use super::compiling::CompileNotice;
use super::evaluate::evaluate;
use super::metrics::StepMetrics;
use super::metrics_file::MetricsWriter;
use super::on_disk::{require_finite, to_save};
use super::progress::{Display, Progress, say};
use super::resume::{parameters, restore, restore_for_inference};
use super::saved::{self, Position, SavedModel};
use super::snapshot::download;
use super::summary::Summary;
use super::trainer::{StepReport, Trainer};
use super::warnings::{self, Watcher};
use super::{Evaluation, Outcome, Plan, size};
use crate::checkpoint::HubFiles;
use crate::data::offsets::uniform;
use crate::data::text_tokenizer::TextTokenizer;
use crate::data::{Batches, Corpus, Tokens, Validation};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions};
use crate::nn::generate::Generator;
use crate::nn::sample::Sampling;
use crate::train::config::RunConfig;
use crate::train::run_folder::RunFolder;

/// Tokens of the sample at the end of a run.
const SAMPLE_TOKENS: usize = 200;

/// Tokens of the held-out part that it goes on from.
const SAMPLE_PROMPT: usize = 32;

/// A run under way.
struct Run<'a> {
    config: RunConfig,
    corpus: Corpus,
    tokenizer: TextTokenizer,
    /// The fingerprint of the corpus.
    fingerprint: u64,
    folder: RunFolder,
    /// Steps and tokens before this session.
    begun: (u64, u64),
    trainer: Trainer,
    metrics: MetricsWriter,
    progress: &'a Progress,
    clock: Clock,
    watcher: Watcher,
    /// The newest one; the last step has one.
    val_loss: f32,
}

/// Trains on the plan's device until the last step, or until `stop` is set; then writes a checkpoint. Nothing is written
/// before the device is open and holds the model.
///
/// # Errors
/// No device, and as [`run_on`].
pub async fn run(plan: Plan, display: Display, stop: &AtomicBool) -> Result<Outcome> {
    let gpu = Gpu::open(&GpuOptions::default().adapter(plan.config.adapter.as_deref())).await?;
    run_on(&gpu, plan, display, stop).await
}

/// As [`run`], on a device that is open.
///
/// # Errors
/// A device that fails, a disk that fails, or [`Error::NotFinite`]; the last good checkpoint is then kept, and
/// `metrics.jsonl` holds whole lines.
pub async fn run_on(gpu: &Gpu, plan: Plan, display: Display, stop: &AtomicBool) -> Result<Outcome> {
    let first = plan.resume.as_ref().map_or(0, |saved| saved.model.step);
    let progress = Progress::start(display, first, plan.config.train.steps);
    let notice = CompileNotice::start(gpu, progress.liner());
    let outcome = run_with(gpu, plan, &progress, stop).await;
    drop(notice);
    progress.finish();
    outcome
}

async fn run_with(gpu: &Gpu, plan: Plan, progress: &Progress, stop: &AtomicBool) -> Result<Outcome> {
    let Plan { config, corpus, tokenizer, folder, resume, from } = plan;
    size::check(gpu, &config)?;
    let hub = match (&resume, &from, tokenizer.path()) {
        (Some(_), ..) | (None, None, None) => HubFiles::default(),
        (None, Some(source), _) => source.hub_files()?,
        (None, None, Some(tokenizer)) => HubFiles::of_tokenizer(tokenizer)?,
    };
    let trainer = match (&resume, &from) {
        (Some(saved), _) => restore(gpu, &config, saved),
        (None, Some(source)) => begin_from(gpu, &config, source),
        (None, None) => Trainer::new(gpu, &config),
    };
    // A device that could not hold the model says so when it is asked, not before.
    let trainer = trainer.and_then(|t| gpu.check().map(|()| t)).map_err(|e| size::explain(&config, e))?;
    let begun = resume.as_ref().map_or((0, 0), |saved| (saved.model.step, saved.model.tokens));
    // The files' tensors are on the device now.
    drop((resume, from));
    let (first, last) = (trainer.step_number(), config.train.steps);
    folder.require_work(first, last)?;
    let files = || hub.write(&folder.hub_path()).and_then(|()| corpus.save_tokens(&folder.tokens_path()));
    let metrics = folder.begin_with(&config, first, files)?;
    let watcher = warnings::of_metrics(&config, &folder.metrics_path())?;
    let tokens_per_step = (config.train.batch * config.train.seq) as u64 * config.train.accumulate;
    let clock = Clock::new(tokens_per_step, first);
    let fingerprint = corpus.fingerprint();
    let mut run = Run {
        config,
        corpus,
        tokenizer,
        fingerprint,
        folder,
        begun,
        trainer,
        metrics,
        progress,
        clock,
        watcher,
        val_loss: f32::NAN,
    };
    if first < last { run.until_done(stop).await } else { run.close().await }
}

impl Run<'_> {
    async fn until_done(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let train = self.config.train.clone();
        let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
        loop {
            let step = self.trainer.step_number() + 1;
            self.train(step)?;
            let last = step == train.steps;
            let interrupted = stop.load(Ordering::Relaxed) && !last;
            let evaluates = due(train.eval_every, step) || last;
            let spectral = due(train.spectral_every, step) || last;
            let saves = due(train.checkpoint_every, step) || last || interrupted;
            // Behind the first step come kernels that it does not need; it is shown before they are compiled.
            let pauses = evaluates || spectral || saves || step == self.begun.0 + 1;
            let Some(report) = self.collect(pauses).await? else { continue };
            let began = Instant::now();
            let mut line = self.line(&report);
            if evaluates {
                self.evaluate(&mut line).await?;
            }
            if spectral {
                line.spectral = Some(super::specialisation::spectral_block(&self.trainer).await?);
            }
            self.write(&line)?;
            self.progress.step(step, report.loss, line.tokens_per_second);
            if let Some(loss) = line.val_loss {
                self.progress.line(&format!("step {step}: validation loss {loss:.4}"));
            }
            for warning in self.watcher.hear(&line) {
                self.progress.line(&format!("warning: {}", warning.message));
            }
            if saves {
                self.save().await?;
            }
            self.clock.pause(began);
            if interrupted {
                return Ok(Outcome::Interrupted { step });
            }
            if last {
                return self.finish().await;
            }
        }
    }

    fn train(&mut self, step: u64) -> Result<()> {
        let train = &self.config.train;
        let batches = Batches::new(self.corpus.train(), train.batch, train.seq, self.config.seed)?;
        let pipelines = |trainer: &Trainer| trainer.gpu().counters().pipelines_created;
        let before = pipelines(&self.trainer);
        self.trainer.step_from(|i| Ok(Cow::Owned(batches.batch(step, i))))?;
        if pipelines(&self.trainer) != before {
            self.clock.compiled(step);
        }
        Ok(())
    }

    /// Writes a line of metrics.
    fn write(&mut self, line: &StepMetrics) -> Result<()> {
        self.folder.require_here()?;
        self.metrics.write(line)
    }

    /// Completes a run that was killed behind its last checkpoint: no step is left to do.
    async fn close(&mut self) -> Result<Outcome> {
        let mut line = StepMetrics { step: self.trainer.step_number(), ..StepMetrics::default() };
        self.evaluate(&mut line).await?;
        self.finish().await
    }

    /// Adds what is measured on the held-out part, and the experts' load, to the line of the step just done.
    async fn evaluate(&mut self, line: &mut StepMetrics) -> Result<()> {
        let train = &self.config.train;
        let windows = Validation::new(self.corpus.validation(), train.batch, train.seq, train.eval_batches)?;
        let loss = self.trainer.evaluate(windows.iter()).await?;
        if !loss.is_finite() {
            return Err(Error::NotFinite { step: line.step, what: "val_loss".into(), value: loss });
        }
        let load = self.trainer.load().await?;
        self.val_loss = loss;
        line.val_loss = Some(loss);
        line.load_max_violation = Some(load.max_violation);
        line.dead_experts = Some(load.dead_experts);
        line.load_entropy = Some(load.entropy);
        Ok(())
    }

    /// Takes the figures that have arrived, writes and shows them. With `all` it waits for all of them and hands out those
    /// of the newest step instead, for its line to be completed.
    async fn collect(&mut self, all: bool) -> Result<Option<StepReport>> {
        let mut reports = Vec::new();
        let outcome = self.trainer.reports_into(all, &mut reports).await;
        if let Some(last) = reports.last() {
            self.clock.arrived(last.step);
        }
        let newest = if all && outcome.is_ok() { reports.pop() } else { None };
        for report in &reports {
            let line = self.line(report);
            if report.step.is_multiple_of(self.config.train.log_every) {
                self.write(&line)?;
            }
            self.progress.step(report.step, report.loss, line.tokens_per_second);
        }
        outcome.map(|()| newest)
    }

    fn line(&self, report: &StepReport) -> StepMetrics {
        StepMetrics {
            step: report.step,
            loss: report.loss,
            aux_loss: report.aux_loss,
            lr: report.lr,
            grad_norm: report.grad_norm,
            loss_scale: report.loss_scale,
            skipped_steps: report.skipped_steps,
            tokens_per_second: self.clock.rate(),
            ..StepMetrics::default()
        }
    }

    /// Tokens trained on.
    fn tokens(&self) -> u64 {
        let (step, tokens) = self.begun;
        tokens + (self.trainer.step_number() - step) * self.clock.tokens_per_step()
    }

    async fn save(&self) -> Result<()> {
        let model = download(parameters(self.trainer.model())).await?;
        let state = download(self.trainer.state()?).await?;
        let step = self.trainer.step_number();
        require_finite(step, &model)?;
        require_finite(step, &state)?;
        self.folder.require_here()?;
        saved::save(
            &self.folder.checkpoint_path(),
            &self.config,
            Position { step, tokens: self.tokens(), data: self.fingerprint },
            &to_save(&model),
            &to_save(&state),
        )
    }

    async fn finish(&self) -> Result<Outcome> {
        let val_loss = self.val_loss;
        let gpu = self.trainer.gpu();
        let steps = self.trainer.step_number();
        // A session that only closed the run has the rate of the one that trained.
        let rate = self.clock.overall().or_else(|| self.metrics.last()?.tokens_per_second);
        self.folder.require_here()?;
        let summary = Summary {
            val_loss,
            bits_per_byte: val_loss / std::f32::consts::LN_2 / self.corpus.bytes_per_token() as f32,
            tokens_per_second: rate.unwrap_or_default(),
            steps,
            tokens: self.tokens(),
            parameters: self.trainer.model().params().numel() as u64,
            active_parameters: self.trainer.model().active_parameters() as u64,
            adapter: gpu.adapter().name.clone(),
            peak_gpu_bytes: gpu.counters().peak_bytes,
            similarity: super::specialisation::similarities(&self.trainer).await?,
            warnings: self.watcher.warnings().to_vec(),
        };
        summary.write(&self.folder.summary_path())?;
        Ok(Outcome::Finished { summary, sample: self.sample().await? })
    }

    /// The beginning of the held-out part, and what the model makes of it.
    async fn sample(&self) -> Result<String> {
        let held_out = self.corpus.validation();
        let prompt: Vec<u32> = (0..SAMPLE_PROMPT).map_while(|i| held_out.get(i)).collect();
        let sampling = Sampling::default().temperature(0.8).top_p(0.95);
        let trainer = &self.trainer;
        let mut generator = Generator::new(trainer.gpu(), trainer.model(), &prompt, self.config.train.seq)?;
        let mut printer = self.tokenizer.stream();
        let mut text = String::new();
        for &token in &prompt {
            text += &printer.push(token)?;
        }
        for position in 0..SAMPLE_TOKENS {
            let token = generator.next(&sampling, uniform(self.config.seed, &[position as u64])).await?;
            text += &printer.push(token)?;
        }
        Ok(text + &printer.finish()?)
    }
}

/// Evaluates tokens with the model of a checkpoint, in windows of its training length.
///
/// # Errors
/// [`Error::Data`] when they are too few, no device, or a device that fails.
pub async fn evaluate_text(saved: &SavedModel, device: &GpuOptions, tokens: Tokens<'_>) -> Result<Evaluation> {
    let train = &saved.config.train;
    let windows = Validation::all(tokens, train.batch, train.seq)?;
    saved.complete()?;
    let gpu = Gpu::open(device).await?;
    let _notice = CompileNotice::start(&gpu, say);
    size::check_activations(&gpu, &saved.config.windows(tokens.len().div_ceil(train.seq), train.seq))?;
    let model = restore_for_inference(&gpu, saved)?;
    evaluate(&gpu, &model, train.seq, windows.iter()).await
}
