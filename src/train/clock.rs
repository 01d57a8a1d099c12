//! Tokens per second as a person understands them: bytes trained on over the time that training took.
//!
//! Figures of several steps can arrive together, because the host looks at them only now and then; between two of them
//! there is no time to measure. So the rate is that of a stretch of steps: from one arrival to another, at least
//! [`STRETCH`] apart. What is no training is left out: validation, spectral figures and checkpoints by [`Clock::pause`], and
//! the compiling of kernels by [`Clock::compiled`], with the steps that waited for it.

use std::time::{Duration, Instant};

/// Arrivals nearer than this say little about the rate.
const STRETCH: Duration = Duration::from_millis(500);

/// Steps and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    steps: u64,
    time: Duration,
}

impl Measured {
    fn add(&mut self, steps: u64, time: Duration) {
        self.steps += steps;
        self.time += time;
    }
}

/// Measures a run that goes on.
#[derive(Debug)]
pub(super) struct Clock {
    tokens_per_step: u64,
    /// The newest step whose figures are there, and when they came.
    last: (u64, Instant),
    /// The newest step for which a kernel was compiled.
    compiled: u64,
    /// Since the last whole stretch.
    stretch: Measured,
    all: Measured,
    /// The steps that are left out because they waited for kernels.
    compiling: Measured,
    /// The rate of the last whole stretch.
    rate: Option<f64>,
}

impl Clock {
    /// For steps of `tokens_per_step` tokens after the step `first`.
    pub(super) fn new(tokens_per_step: u64, first: u64) -> Self {
        let none = Measured::default();
        let last = (first, Instant::now());
        Self { tokens_per_step, last, compiled: first, stretch: none, all: none, compiling: none, rate: None }
    }

    /// Tokens of a step.
    pub(super) fn tokens_per_step(&self) -> u64 {
        self.tokens_per_step
    }

    /// Takes note that a kernel was compiled for `step`, whose figures are still to come.
    pub(super) fn compiled(&mut self, step: u64) {
        self.compiled = step;
    }

    /// Takes note that the figures of all steps up to `step` have arrived.
    pub(super) fn arrived(&mut self, step: u64) {
        let (now, (from, since)) = (Instant::now(), self.last);
        if step <= from {
            return;
        }
        self.last = (step, now);
        let (steps, time) = (step - from, now - since);
        // Between two arrivals nobody can say which step waited.
        if from < self.compiled {
            self.compiling.add(steps, time);
            return;
        }
        self.all.add(steps, time);
        self.stretch.add(steps, time);
        if self.stretch.time >= STRETCH {
            let whole = std::mem::take(&mut self.stretch);
            self.rate = self.per_second(whole);
        }
    }

    /// The rate of the last whole stretch, or of what there was where none is whole; none where every step waited for
    /// kernels.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.or_else(|| self.per_second(self.stretch))
    }

    /// Leaves out the time since `began`: no step is under way then, and all figures have arrived.
    pub(super) fn pause(&mut self, began: Instant) {
        self.last.1 += began.elapsed();
    }

    /// The rate of all steps but those that waited for kernels; of these where there were no others, and none without a step.
    pub(super) fn overall(&self) -> Option<f64> {
        self.per_second(self.all).or_else(|| self.per_second(self.compiling))
    }

    fn per_second(&self, measured: Measured) -> Option<f64> {
        let tokens = (measured.steps * self.tokens_per_step) as f64;
        (measured.steps > 0).then(|| tokens / measured.time.as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `step` arrive `seconds` after the last one.
    fn after(clock: &mut Clock, seconds: f64, step: u64) {
        clock.last.1 -= Duration::from_secs_f64(seconds);
        clock.arrived(step);
    }

    fn near(rate: Option<f64>, wanted: f64) -> bool {
        rate.is_some_and(|rate| (rate - wanted).abs() < 0.01 * wanted)
    }

    #[test]
    fn steps_that_arrive_together_share_a_rate() {
        let mut clock = Clock::new(100, 5);
        assert_eq!(clock.rate(), None);
        after(&mut clock, 10.0, 15);
        assert!(near(clock.rate(), 100.0), "{clock:?}");
        // One more at the same moment is no news; with time gone by they are counted together.
        after(&mut clock, 0.0, 16);
        assert!(near(clock.rate(), 100.0), "{clock:?}");
        after(&mut clock, 1.0, 17);
        assert!(near(clock.rate(), 200.0), "{clock:?}");
    }

    #[test]
    fn a_short_run_has_the_rate_of_all_that_it_did() {
        let mut clock = Clock::new(100, 0);
        after(&mut clock, 0.1, 1);
        after(&mut clock, 0.2, 3);
        assert!(near(clock.rate(), 1000.0), "{clock:?}");
        assert!(near(clock.overall(), 1000.0));
    }

    #[test]
    fn steps_that_wait_for_kernels_do_not_count() {
        let mut clock = Clock::new(100, 0);
        clock.compiled(1);
        after(&mut clock, 60.0, 1);
        assert_eq!(clock.rate(), None);
        // A run of nothing else has only their rate.
        assert!(near(clock.overall(), 100.0 / 60.0));
        after(&mut clock, 1.0, 3);
        // Compiled while steps 4 and 5 were under way.
        clock.compiled(6);
        after(&mut clock, 20.0, 4);
        after(&mut clock, 20.0, 6);
        assert!(near(clock.rate(), 200.0) && near(clock.overall(), 200.0), "{clock:?}");
        after(&mut clock, 1.0, 7);
        assert!(near(clock.rate(), 100.0) && near(clock.overall(), 150.0), "{clock:?}");
    }

    #[test]
    fn pauses_do_not_count() {
        let mut clock = Clock::new(100, 0);
        clock.last.1 -= Duration::from_secs(20);
        clock.pause(Instant::now() - Duration::from_secs(10));
        clock.arrived(10);
        assert!(near(clock.rate(), 100.0) && near(clock.overall(), 100.0), "{clock:?}");
    }
}
