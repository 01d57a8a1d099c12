//! Tokens per second as a person understands them: bytes trained on over the time that training took.
//!
//! Figures of several steps can arrive together, because the host looks at them only now and then; between two of them
//! there is no time to measure. So the rate is that of a stretch of steps: from one arrival to another, at least
//! [`STRETCH`] apart. What is no training (validation, spectral figures, checkpoints) is left out by [`Clock::pause`].

use std::time::{Duration, Instant};

/// Steps that the rate of the run leaves out: the driver compiles its kernels in them.
const WARM_UP_STEPS: u64 = 3;
/// Arrivals nearer than this say nothing about the rate.
const STRETCH: Duration = Duration::from_millis(500);

/// Measures a run that goes on.
#[derive(Debug)]
pub(super) struct Clock {
    tokens_per_step: u64,
    /// The step before the first one that counts for [`Clock::overall`].
    warm_from: u64,
    warm: Option<(u64, Instant)>,
    stretch: (u64, Instant),
    rate: f64,
}

impl Clock {
    /// For steps of `tokens_per_step` tokens after the step `first`.
    pub(super) fn new(tokens_per_step: u64, first: u64) -> Self {
        let warm_from = first + WARM_UP_STEPS;
        Self { tokens_per_step, warm_from, warm: None, stretch: (first, Instant::now()), rate: 0.0 }
    }

    /// Tokens of a step.
    pub(super) fn tokens_per_step(&self) -> u64 {
        self.tokens_per_step
    }

    /// Takes note that the figures of all steps up to `step` have arrived.
    pub(super) fn arrived(&mut self, step: u64) {
        let now = Instant::now();
        let (from, since) = self.stretch;
        if step > from && (now - since >= STRETCH || self.rate == 0.0) {
            self.rate = self.per_second(step - from, now - since);
            self.stretch = (step, now);
        }
        if self.warm.is_none() && step >= self.warm_from {
            self.warm = Some((step, now));
        }
    }

    /// The rate over the last stretch.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Leaves out the time since `began`: no step is under way then, and all figures have arrived.
    pub(super) fn pause(&mut self, began: Instant) {
        let pause = began.elapsed();
        self.stretch.1 += pause;
        if let Some((_, mark)) = &mut self.warm {
            *mark += pause;
        }
    }

    /// The rate up to now over all steps but the first ones; that of the last stretch where there were no others.
    pub(super) fn overall(&self, step: u64) -> f64 {
        match self.warm {
            Some((from, mark)) if step > from => self.per_second(step - from, mark.elapsed()),
            _ => self.rate,
        }
    }

    fn per_second(&self, steps: u64, time: Duration) -> f64 {
        steps as f64 * self.tokens_per_step as f64 / time.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that has run for `seconds`.
    fn after(seconds: u64, first: u64) -> Clock {
        let mut clock = Clock::new(100, first);
        clock.stretch.1 -= Duration::from_secs(seconds);
        clock
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.01 * b
    }

    #[test]
    fn steps_that_arrive_together_share_a_rate() {
        let mut clock = after(10, 5);
        clock.arrived(15);
        assert!(near(clock.rate(), 100.0), "{}", clock.rate());
        // Two more at the same moment are no news; with time gone by they are counted together.
        clock.arrived(16);
        assert!(near(clock.rate(), 100.0), "{}", clock.rate());
        clock.stretch.1 -= Duration::from_secs(1);
        clock.arrived(17);
        assert!(near(clock.rate(), 200.0), "{}", clock.rate());
    }

    #[test]
    fn first_steps_and_pauses_do_not_count_for_the_run() {
        let mut clock = after(100, 0);
        clock.arrived(3);
        // Ten steps in 20 seconds, half of which were a pause.
        clock.warm.as_mut().unwrap().1 -= Duration::from_secs(20);
        clock.pause(Instant::now() - Duration::from_secs(10));
        assert!(near(clock.overall(13), 100.0), "{}", clock.overall(13));
        // A run of warm-up steps alone has only their own rate.
        assert!(near(clock.overall(3), 3.0), "{}", clock.overall(3));
    }
}
