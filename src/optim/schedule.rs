//! The learning rate as a function of the step alone, so that a resumed run continues it exactly.
//!
//! ```text
//! lr(t) = peak * t / warmup                                                    t <= warmup
//! lr(t) = peak * (r + (1 - r) * (1 + cos(pi * (t - warmup) / (steps - warmup))) / 2)
//! ```

/// Linear warm-up, then half a cosine down to `min_ratio * peak`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LearningRate {
    /// Highest learning rate.
    pub peak: f32,
    /// Share *r* of it that is left at the last step.
    pub min_ratio: f32,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

impl LearningRate {
    /// The learning rate of `step`, counted from 1; after the last step it stays.
    pub fn lr(&self, step: u64) -> f32 {
        let (peak, r) = (f64::from(self.peak), f64::from(self.min_ratio));
        let lr = if step <= self.warmup_steps {
            peak * step as f64 / self.warmup_steps as f64
        } else if step >= self.steps {
            peak * r
        } else {
            let t = (step - self.warmup_steps) as f64 / (self.steps - self.warmup_steps) as f64;
            peak * (r + (1.0 - r) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos()))
        };
        lr as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_the_last_share() {
        let s = LearningRate { peak: 1.0, min_ratio: 0.1, warmup_steps: 10, steps: 110 };
        assert_eq!(s.lr(1), 0.1);
        assert_eq!(s.lr(10), 1.0);
        assert!((s.lr(60) - 0.55).abs() < 1e-6);
        assert_eq!((s.lr(110), s.lr(1000)), (0.1, 0.1));
        assert!((10..110).all(|t| s.lr(t + 1) < s.lr(t)));
    }

    #[test]
    fn needs_no_warm_up_and_outlives_a_warm_up_longer_than_the_run() {
        let s = LearningRate { peak: 2.0, min_ratio: 0.5, warmup_steps: 0, steps: 1 };
        assert_eq!(s.lr(1), 1.0);
        let s = LearningRate { peak: 2.0, min_ratio: 0.5, warmup_steps: 100, steps: 10 };
        assert_eq!(s.lr(10), 0.2);
    }
}
