//! Submissions bounded by time, for a queue that something else draws on.
//!
//! With a [`Budget`] what is recorded is held back, and handed to the queue in pieces that are cut by the times measured of
//! each dispatch ([`Costs`]): a piece only when the one before is done, and only after a pause where the share is less
//! than 1. So whatever another part of the program submits waits for one piece at most.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::command::Command;
use super::costs::{CostKey, Costs};
use super::instant::Instant;
use super::stopwatch::Stopwatch;

/// The part of the budget that a submission is filled to, by the times expected of its dispatches: they vary, on a machine
/// that does other work more than on one that does not.
const FILL: f64 = 0.6;
/// The part of a submission that a dispatch of unknown time is thought to take.
const UNKNOWN: f64 = 0.125;
/// Seconds to which submissions are filled on a GPU without a budget, so that none comes near 100 ms: Windows takes a device
/// that works for 2 s without a break for hung, and a desktop that is drawn by it stutters from much less.
const BOUND: f64 = 0.05;

/// A look costs some microseconds, as does recording a command.
const LOOK_EVERY: u32 = 32;

/// How long the device may work before something else gets its turn: see [`Gpu::set_budget`](super::Gpu::set_budget).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Budget {
    /// The time that one submission should take at most. A single dispatch may take longer; it then goes alone.
    pub submission: Duration,
    /// The part of the time that the device works on submissions, from 0.01 to 1: after each one the queue is left alone for
    /// so long. 1 leaves no pause; other work still gets its turn between any two submissions. Without meaning in a browser.
    pub share: f32,
}

impl Budget {
    /// Submissions of at most this time, without pauses between them.
    pub fn new(submission: Duration) -> Self {
        Self { submission, share: 1.0 }
    }
}

setters!(Budget { share: f32 });

/// The submissions since [`Gpu::set_budget`](super::Gpu::set_budget), as measured: by the device's timestamps where it has
/// them, else from handing over until the host heard of the end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Pacing {
    /// Submissions that are done.
    pub submissions: u64,
    /// The time of all of them together.
    pub busy: Duration,
    /// The longest one, of those that met no kernel for the first time.
    pub longest: Duration,
    /// Those that took longer than the budget, as above.
    pub over: u64,
    /// Those among `over` that were a single dispatch: no budget can cut it.
    pub single: u64,
    /// Submissions in which a kernel ran for the first time, which for some drivers means compiling it.
    pub first_runs: u64,
    /// From the first submission to the end of the last one.
    pub elapsed: Duration,
}

impl Pacing {
    /// The mean time of a submission.
    pub fn mean(&self) -> Duration {
        self.busy.checked_div(u32::try_from(self.submissions).unwrap_or(u32::MAX)).unwrap_or_default()
    }

    /// The part of the time in which the device worked on submissions, from 0 to 1.
    pub fn share(&self) -> f32 {
        let elapsed = self.elapsed.as_secs_f32();
        if elapsed > 0.0 { (self.busy.as_secs_f32() / elapsed).min(1.0) } else { 0.0 }
    }
}

/// A submission that is under way.
pub(super) struct InFlight {
    pub(super) index: wgpu::SubmissionIndex,
    pub(super) began: Instant,
    /// Set when the device is done; whether the timestamps can be read.
    pub(super) done: Arc<OnceLock<(Instant, bool)>>,
    /// Its dispatches.
    pub(super) keys: Vec<CostKey>,
    pub(super) watch: Option<Stopwatch>,
    pub(super) first_run: bool,
}

/// The event to wait for before the next piece can go.
pub(super) enum Next {
    /// Nothing is held back.
    Nothing,
    /// The device is at a submission.
    Device(wgpu::SubmissionIndex),
    /// The queue is left alone for so long, or a pipeline is being compiled.
    Pause(Duration),
}

#[derive(Default)]
pub(super) struct Pacer {
    /// Commands recorded.
    recorded: u32,
    pub(super) budget: Option<Budget>,
    pub(super) costs: Costs,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Before this moment nothing is handed over.
    free: Option<Instant>,
    /// When the last submission was found done.
    ended: Option<Instant>,
    report: Pacing,
    began: Option<Instant>,
    watches: Vec<Stopwatch>,
}

impl Pacer {
    /// Counts from here on.
    pub(super) fn set(&mut self, budget: Option<Budget>) {
        self.budget = budget;
        (self.report, self.began, self.free) = (Pacing::default(), None, None);
    }

    pub(super) fn report(&self) -> Pacing {
        let elapsed = self.began.zip(self.ended).map_or(Duration::ZERO, |(began, ended)| ended - began);
        Pacing { elapsed, ..self.report }
    }

    /// The seconds to which a submission is filled: with a budget, and without one where submissions are `bounded`.
    pub(super) fn bound(&self, bounded: bool) -> Option<f64> {
        match self.budget {
            Some(budget) => Some(FILL * budget.submission.as_secs_f64()),
            None => bounded.then_some(BOUND),
        }
    }

    /// The seconds expected of a command in submissions of `bound` seconds.
    pub(super) fn seconds(&self, command: &Command, bound: f64) -> f64 {
        match command.key() {
            Some(key) => self.costs.get(&key).unwrap_or_else(|| self.unknown(bound)),
            None => command.transfer_seconds(),
        }
    }

    /// Without a budget a first step is bounded by its number of commands alone, as before there was anything to measure.
    fn unknown(&self, bound: f64) -> f64 {
        if self.budget.is_some() { UNKNOWN * bound } else { 0.0 }
    }

    /// Whether it is time to look at the device while commands are recorded, so that it has work meanwhile: with a budget every
    /// [`LOOK_EVERY`] of them.
    pub(super) fn is_due(&mut self) -> bool {
        self.recorded = self.recorded.wrapping_add(1);
        self.budget.is_some() && self.recorded.is_multiple_of(LOOK_EVERY)
    }

    /// How long the queue is to be left alone from now on.
    pub(super) fn pause(&self) -> Option<Duration> {
        let rest = self.free?.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    /// A stopwatch that is free.
    pub(super) fn watch(&mut self) -> Option<Stopwatch> {
        self.watches.pop()
    }

    /// Takes note that a submission has been handed over.
    pub(super) fn submitted(&mut self, piece: InFlight) {
        self.began.get_or_insert(piece.began);
        self.in_flight.push_back(piece);
    }

    /// Learns from the submissions that are done.
    pub(super) fn collect(&mut self, queue: &wgpu::Queue) {
        // Those that the host heard of together were not told apart.
        let (mut keys, mut together, mut usable) = (Vec::new(), Duration::ZERO, true);
        while let Some(&(end, mapped)) = self.in_flight.front().and_then(|piece| piece.done.get()) {
            let Some(piece) = self.in_flight.pop_front() else { break };
            let began = self.ended.map_or(piece.began, |ended| ended.max(piece.began));
            let mut time = end.saturating_duration_since(began);
            let stamps = piece.watch.as_ref().filter(|_| mapped).and_then(|watch| watch.read(queue));
            match stamps {
                Some((device, each)) => {
                    // The host sees all of it, and what the device did for others besides.
                    time = time.min(device);
                    if each.len() == piece.keys.len() && !piece.first_run {
                        piece.keys.iter().zip(each).for_each(|(key, seconds)| self.costs.learn(*key, seconds));
                    } else if !piece.first_run {
                        self.costs.learn_together(&piece.keys, time.as_secs_f64());
                    }
                }
                None => {
                    usable &= !piece.first_run;
                    together += time;
                    keys.extend_from_slice(&piece.keys);
                }
            }
            self.watches.extend(piece.watch.filter(|_| mapped));
            self.count(time, piece.keys.len(), piece.first_run);
            self.ended = Some(end);
            self.free = Some(end + self.rest(time, piece.first_run));
        }
        if usable && !keys.is_empty() {
            self.costs.learn_together(&keys, together.as_secs_f64());
        }
    }

    /// How long the queue is left alone behind a submission that took `time`. Compiling is no work of the device, and without
    /// timestamps a time may be that in which nobody looked.
    fn rest(&self, time: Duration, first_run: bool) -> Duration {
        match self.budget {
            // A browser wakes nobody when a pause is over.
            Some(budget) if !first_run && !cfg!(target_arch = "wasm32") && budget.share < 1.0 => {
                let share = budget.share.max(0.01);
                time.min(2 * budget.submission).mul_f32(1.0 / share - 1.0)
            }
            _ => Duration::ZERO,
        }
    }

    fn count(&mut self, time: Duration, dispatches: usize, first_run: bool) {
        let report = &mut self.report;
        report.submissions += 1;
        report.busy += time;
        if first_run {
            report.first_runs += 1;
            return;
        }
        report.longest = report.longest.max(time);
        if self.budget.is_some_and(|budget| time > budget.submission) {
            report.over += 1;
            report.single += u64::from(dispatches == 1);
        }
    }
}
