//! When the models are looked at, and how fast they train.

use std::time::Duration;

use web_time::Instant;

use crate::settings::{BATCH, SEQ};

/// Steps before the first look at the weights, whose kernels take long to compile.
const FIRST_WHOLE: u64 = 8;
/// Steps between two looks at least.
const LEAST_STEPS: u64 = 5;
/// A look waits until this many times its duration have gone by.
const PATIENCE: f64 = 3.0;

/// When the models are looked at: so that looks take a part of the time only, however slow the device is.
#[derive(Default)]
pub(super) struct Looking {
    /// Quick looks, and whole ones.
    last: [Option<Looked>; 2],
    begun: Option<Instant>,
}

/// A look that was taken.
#[derive(Clone, Copy)]
struct Looked {
    step: u64,
    at: Instant,
    took: Duration,
    number: usize,
}

impl Looking {
    /// Whether a look is due after `step` steps, and a whole one; at the `end` of a run both are.
    pub(super) fn due(&mut self, step: u64, end: bool) -> [bool; 2] {
        let due = |looked: Option<Looked>, first: u64| match looked {
            None => step >= first || end && step > 0,
            Some(looked) => {
                let rested = looked.at.elapsed() >= looked.took.mul_f64(PATIENCE);
                step > looked.step && (end || step >= looked.step + LEAST_STEPS && rested)
            }
        };
        let whole = due(self.last[1], FIRST_WHOLE);
        self.begun = Some(Instant::now());
        [due(self.last[0], 1) || whole, whole]
    }

    /// The look that was due was taken after `step` steps.
    pub(super) fn done(&mut self, step: u64, whole: bool) {
        let took = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let looked = |last: Option<Looked>| {
            let number = last.map_or(0, |last| last.number) + 1;
            // The first compiles kernels: what it took says nothing of the others.
            Some(Looked { step, at: Instant::now(), took: if number == 1 { Duration::ZERO } else { took }, number })
        };
        // A whole look counts as a quick one that took no time.
        match (whole, self.last[0]) {
            (true, Some(quick)) => self.last[0] = Some(Looked { step, at: Instant::now(), ..quick }),
            (true, None) => (),
            (false, quick) => self.last[0] = looked(quick),
        }
        if whole {
            self.last[1] = looked(self.last[1]);
        }
    }
}

/// Steps a second over the last second.
pub(super) struct Rate {
    since: Instant,
    steps: u64,
    /// Tokens a second.
    pub(super) last: f64,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), steps: 0, last: 0.0 }
    }

    /// A step of both models is done.
    pub(super) fn add(&mut self) {
        self.steps += 1;
        let time = self.since.elapsed().as_secs_f64();
        if time >= 1.0 {
            self.last = (self.steps * 2 * (BATCH * SEQ) as u64) as f64 / time;
            self.skip();
        }
    }

    /// So much of the time was no training.
    pub(super) fn leave_out(&mut self, time: Duration) {
        self.since += time;
    }

    /// Begins to measure anew.
    pub(super) fn skip(&mut self) {
        (self.since, self.steps) = (Instant::now(), 0);
    }
}
