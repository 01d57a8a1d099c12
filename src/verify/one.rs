//! One case: on a thread of its own for a bounded time, or where there are no threads in place, with what became of it as a finding.

use std::collections::BTreeSet;

use pollster::block_on;

use super::attempt::{Ended, attempt};
use super::cases;
use super::context::{Case, Context, DRIVER};
use super::header::{Header, header};
use super::known::known;
use super::report::{CaseReport, Outcome};
use super::shader::Evidence;
use super::thread::attempt_in_thread;
use super::{Event, Options, probes};
use crate::error::Result;
use crate::gpu::{Captured, Gpu, GpuOptions, Instant, Tier, adapters};

/// The device of the cases, opened when it is needed and again after a failure of it.
pub(super) struct Device {
    options: GpuOptions,
    open: Option<Gpu>,
    /// Whether each case gets a thread.
    threads: bool,
    /// The kernels that were launched so far.
    pub(super) kernels: BTreeSet<&'static str>,
}

impl Device {
    /// None is open yet.
    pub(super) fn new(options: GpuOptions, threads: bool) -> Self {
        Self { options, open: None, threads, kernels: BTreeSet::new() }
    }

    pub(super) async fn get(&mut self) -> Result<Gpu> {
        match &self.open {
            Some(gpu) => Ok(gpu.clone()),
            None => {
                let gpu = open(&self.options).await?;
                Ok(self.open.insert(gpu).clone())
            }
        }
    }
}

/// Opens a device, with products on matrix units where they are wanted, right or not: which they are is to be found out.
async fn open(options: &GpuOptions) -> Result<Gpu> {
    let gpu = Gpu::open_unchecked(options).await?;
    if options.matrix_units {
        gpu.matrix_units().use_untried();
    }
    Ok(gpu)
}

/// Begins the message of a case that took too long.
pub(super) const HUNG: &str = "no end after ";

/// A case that ran, or could not.
pub(super) struct Ran {
    pub(super) report: CaseReport,
    /// The shader with its buffers, where one of the case's own failed.
    pub(super) evidence: Option<Box<Evidence>>,
    /// Its results, where somebody compares them.
    pub(super) results: Vec<Vec<f32>>,
}

/// Runs one case, unless something is in its way.
pub(super) async fn one(
    case: Case,
    tier: Tier,
    header: &Header,
    device: &mut Device,
    hung: Option<&str>,
    options: &Options,
    on: &mut dyn FnMut(Event<'_>),
) -> Ran {
    let started = Instant::now();
    let name = case.name.clone();
    let variant = match &case.variant {
        Some(variant) => variant.clone(),
        None => tier.name().to_owned(),
    };
    let mut report = CaseReport {
        name: name.clone(),
        variant,
        outcome: Outcome::Passed,
        worst_error: None,
        share_of_tolerance: None,
        seconds: 0.0,
        reference: None,
        notes: Vec::new(),
    };
    let not_run = |report: CaseReport, reason: String| {
        let report = CaseReport { outcome: Outcome::NotRun { reason }, ..report };
        Ran { report, evidence: None, results: Vec::new() }
    };
    if let Some(before) = hung {
        return not_run(report, format!("{before}, of the same group, did not end"));
    }
    let gpu = match device.get().await {
        Ok(gpu) => gpu,
        Err(error) => return not_run(report, format!("no device: {error}")),
    };
    if let Some(lacks) = case.lacks(&gpu) {
        return not_run(report, lacks);
    }
    let (mut evidence, mut results) = (None, Vec::new());
    let mut reopen = true;
    gpu.start_noting();
    let context = Context { gpu: gpu.clone(), seed: options.seed, keeps_results: options.reference.is_some() };
    let ended = match device.threads {
        true => attempt_in_thread(case, context, options.timeout),
        false => attempt(case, &context).await,
    };
    let message = match ended {
        Ended::Found(found) => {
            device.kernels.extend(gpu.finish_noting().iter().map(|launched| launched.kernel));
            reopen = false;
            if let Some(worst) = &found.worst {
                report.worst_error = Some(worst.error).filter(|e| e.is_finite());
                report.share_of_tolerance = Some(worst.error / worst.allowed).filter(|s| s.is_finite());
            }
            report.notes = found.notes;
            (evidence, results) = (found.evidence, found.results);
            found.wrong
        }
        Ended::Error(error) => Some(error.to_string()),
        Ended::Panicked(text) => Some(format!("panicked: {text}")),
        Ended::Hung => Some(format!("{HUNG}{} s", options.timeout.as_secs())),
    };
    report.seconds = started.elapsed().as_secs_f64();
    if reopen {
        device.open = None;
        on(Event::Reopened(&name));
    }
    let entry = known(header, &report.name, &report.variant);
    report.outcome = match (message, entry) {
        (None, Some(_)) => {
            report.notes.push("stands in the table of known failures, and passes here".into());
            Outcome::Passed
        }
        (None, None) => Outcome::Passed,
        (Some(message), Some(entry)) => Outcome::KnownFailure { message, reason: entry.reason() },
        (Some(message), None) => Outcome::Failed { message },
    };
    Ran { report, evidence, results }
}

/// Runs the case of this name alone, on one tier; none where there is no such case.
pub(super) fn again(name: &str, variant: &str, tier: Tier, options: &Options) -> Result<Option<CaseReport>> {
    let found = block_on(adapters())?;
    let adapter = &found[options.gpu.adapter.among(&found)?];
    let header = block_on(header(adapter))?;
    let mut all = if variant == DRIVER { probes::cases(adapter) } else { cases::cases(tier) };
    let same = |case: &Case| case.name == name && case.variant.as_deref().unwrap_or(tier.name()) == variant;
    let Some(position) = all.iter().position(same) else { return Ok(None) };
    let wanted = GpuOptions { tier: Some(tier), ..options.gpu.clone() };
    let mut device = Device::new(wanted, true);
    let mut quiet = |_: Event<'_>| {};
    let ran = one(all.swap_remove(position), tier, &header, &mut device, None, options, &mut quiet);
    Ok(Some(block_on(ran).report))
}

/// The launches of a case, which runs once more for that on a fresh device; none where it has none or does not end.
pub(super) fn launches(name: &str, variant: &str, tier: Tier, options: &Options) -> Result<(Gpu, Vec<Captured>)> {
    let device = GpuOptions { tier: Some(tier), ..options.gpu.clone() };
    let gpu = block_on(open(&device))?;
    let mut all = cases::cases(tier);
    let same = |case: &Case| case.name == name && case.variant.as_deref().unwrap_or(tier.name()) == variant;
    let Some(position) = all.iter().position(same) else { return Ok((gpu, Vec::new())) };
    gpu.start_capture();
    let context = Context { gpu: gpu.clone(), seed: options.seed, keeps_results: false };
    let ended = attempt_in_thread(all.swap_remove(position), context, options.timeout);
    let launches = if matches!(ended, Ended::Found(_)) { gpu.finish_capture() } else { Vec::new() };
    Ok((gpu, launches))
}
