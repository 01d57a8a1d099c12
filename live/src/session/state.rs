//! The findings of a session so far, which the window draws.

use std::sync::{Arc, Mutex, MutexGuard};

use super::look::{Look, Readings};
use super::trial::Outcome;
use crate::settings::Settings;
use crate::texts::Source;

/// Where a session is.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Kernels are compiled: so many of those asked for so far.
    Compiling(u64, u64),
    /// Training.
    Running,
    /// Standing still.
    Paused,
    /// The device is lost, and another is being opened.
    Lost,
    /// It cannot go on.
    Failed(String),
}

/// Both models at one step.
#[derive(Debug)]
pub struct Looks {
    /// The step.
    pub step: u64,
    /// With decoupling, and without.
    pub of: [Look; 2],
}

/// A text that a model wrote.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The step.
    pub step: u64,
    /// The prompt.
    pub prompt: Vec<u8>,
    /// The continuations, with decoupling and without.
    pub text: [Vec<u8>; 2],
}

/// The figures that the window draws.
#[derive(Debug)]
pub struct State {
    /// The run, counted from 0: each restart begins another.
    pub number: u64,
    /// Where the session is.
    pub status: Status,
    /// The settings of this run.
    pub settings: Settings,
    /// The texts of this run.
    pub readings: Arc<Readings>,
    /// Loss by step, from step 1, with decoupling and without.
    pub losses: [Vec<f32>; 2],
    /// The looks so far, oldest first.
    pub looks: Vec<Arc<Looks>>,
    /// The steps at which bases were refreshed are multiples of this.
    pub refresh_every: u64,
    /// Texts so far.
    pub samples: Vec<Sample>,
    /// The results of the last trials, newest last.
    pub outcomes: Vec<Outcome>,
    /// The error of the last trial, if it had one.
    pub message: String,
    /// The last loss of the device in this run, in a sentence; empty without one.
    pub notice: String,
    /// Tokens of both models a second, over the last second.
    pub tokens_per_second: f64,
    /// Share of the time in which the device worked on the models.
    pub busy: f64,
    /// Seconds from the start of the session to the first loss.
    pub first_loss: Option<f64>,
}

impl State {
    pub(super) fn new(settings: &Settings, sources: &[Source]) -> Self {
        Self {
            number: 0,
            status: Status::Compiling(0, 0),
            readings: Arc::new(Readings::new(sources)),
            settings: settings.clone(),
            losses: [Vec::new(), Vec::new()],
            looks: Vec::new(),
            refresh_every: settings.run(true).spectral.refresh_every,
            samples: Vec::new(),
            outcomes: Vec::new(),
            message: String::new(),
            notice: String::new(),
            tokens_per_second: 0.0,
            busy: 0.0,
            first_loss: None,
        }
    }

    /// Steps that both models have done.
    pub fn steps(&self) -> u64 {
        self.losses.iter().map(Vec::len).min().unwrap_or(0) as u64
    }

    /// Forgets what was found behind `step`, and the look there, which is taken again.
    pub(super) fn back_to(&mut self, step: u64) {
        self.losses.iter_mut().for_each(|losses| losses.truncate(step as usize));
        self.looks.retain(|looks| looks.step < step);
        self.samples.retain(|sample| sample.step < step);
        self.outcomes.retain(|outcome| outcome.step <= step);
    }
}

/// The state, shared between session and window.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    /// The state; nobody holds it for long.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
