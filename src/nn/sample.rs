//! Drawing the next token from its logits: repetition penalty (Keskar et al., arXiv 1909.05858), temperature, the K likeliest,
//! the nucleus (top-p, Holtzman et al., arXiv 1904.09751), and a least share of the likeliest (min-p, Nguyen et al., arXiv
//! 2407.01082).
//!
//! Pure: the randomness is an argument, so that the caller's seed and position decide, and nothing else.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// A logit so far below the largest, in units of the temperature, has a probability of less than 1e-17 of the largest's.
const NEGLIGIBLE: f64 = 40.0;

/// How a token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token (ties: the lower index).
    pub temperature: f32,
    /// Draws from at most so many of the likeliest tokens; 0 for no limit.
    pub top_k: usize,
    /// Draws from the smallest set of likeliest tokens whose probability reaches this; 1 for all.
    pub top_p: f32,
    /// Draws only from tokens with at least this fraction of the likeliest one's probability; 0 for all.
    pub min_p: f32,
    /// Divides the positive logits of tokens that the text has, and multiplies the negative ones; 1 for none.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    /// All tokens with their probabilities.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

setters! {
    Sampling { temperature: f32, top_k: usize, top_p: f32, min_p: f32, repetition_penalty: f32 }
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks that each number is one that makes sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the field that does not.
    pub fn validate(&self) -> Result<()> {
        let number = |field: &str, value: f32, good: bool, expected: &str| {
            if good { Ok(()) } else { Err(Error::config(field, format!("expected {expected}, got {value}"))) }
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        let finite = temperature >= 0.0 && temperature.is_finite();
        number("temperature", temperature, finite, "a number of at least 0")?;
        number("top-p", top_p, top_p > 0.0 && top_p <= 1.0, "a number above 0, at most 1")?;
        number("min-p", min_p, (0.0..=1.0).contains(&min_p), "a number from 0 to 1")?;
        let penalty = repetition_penalty > 0.0 && repetition_penalty.is_finite();
        number("repetition-penalty", repetition_penalty, penalty, "a number above 0")
    }

    /// Draws a token from `logits: [vocab]`, which it changes, with `uniform` in [0, 1). `text` is what the repetition penalty
    /// counts. Logits that are NaN are never drawn; without any other the answer is token 0.
    pub fn draw(&self, logits: &mut [f32], text: &[u32], uniform: f64) -> u32 {
        if self.repetition_penalty != 1.0 {
            for token in text.iter().collect::<BTreeSet<_>>() {
                let Some(logit) = logits.get_mut(*token as usize) else { continue };
                *logit = if *logit > 0.0 { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
            }
        }
        let numbers = (0..logits.len()).filter(|&i| !logits[i].is_nan());
        // The first of the largest.
        let Some(likeliest) = numbers.clone().reduce(|best, i| if logits[i] > logits[best] { i } else { best }) else {
            return 0;
        };
        if self.temperature.is_nan() || self.temperature <= 0.0 || !logits[likeliest].is_finite() {
            return likeliest as u32;
        }
        let exponent = |i: usize| (f64::from(logits[i]) - f64::from(logits[likeliest])) / f64::from(self.temperature);
        let mut order: Vec<usize> = numbers.filter(|&i| exponent(i) > -NEGLIGIBLE).collect();
        // Stable: equal logits stay in the order of their indices.
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let weights: Vec<f64> = order.iter().map(|&i| exponent(i).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut count = 0;
        let reaches = |kept: f64| kept >= f64::from(self.top_p) * total;
        while count < weights.len() && (count == 0 || !reaches(kept) && weights[count] >= f64::from(self.min_p)) {
            kept += weights[count];
            count += 1;
        }
        let mut left = uniform * kept;
        for (token, weight) in order.iter().zip(&weights).take(count) {
            if left < *weight {
                return *token as u32;
            }
            left -= weight;
        }
        // Rounding can leave a last crumb: it belongs to the last token that was kept.
        order[count - 1] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(logits: &[f32], temperature: f32, top_p: f32, uniform: f64) -> u32 {
        Sampling::default().temperature(temperature).top_p(top_p).draw(&mut logits.to_vec(), &[], uniform)
    }

    fn frequencies(logits: &[f32], temperature: f32, top_p: f32) -> Vec<f64> {
        drawn(logits, &Sampling::default().temperature(temperature).top_p(top_p), &[])
    }

    fn drawn(logits: &[f32], sampling: &Sampling, text: &[u32]) -> Vec<f64> {
        let n = 10_000;
        let mut counts = vec![0.0; logits.len()];
        for i in 0..n {
            let uniform = (f64::from(i) + 0.5) / f64::from(n);
            counts[sampling.draw(&mut logits.to_vec(), text, uniform) as usize] += 1.0;
        }
        counts.iter().map(|c| c / f64::from(n)).collect()
    }

    #[test]
    fn frequencies_are_the_probabilities() {
        let p = [0.5f32, 0.125, 0.25, 0.125];
        let got = frequencies(&p.map(f32::ln), 1.0, 1.0);
        assert!(got.iter().zip(p).all(|(a, b)| (a - f64::from(b)).abs() <= 2e-4), "{got:?}");
        // Temperature 0.5 squares the probabilities.
        let sum: f32 = p.iter().map(|x| x * x).sum();
        let got = frequencies(&p.map(f32::ln), 0.5, 1.0);
        assert!(got.iter().zip(p).all(|(a, b)| (a - f64::from(b * b / sum)).abs() <= 2e-4), "{got:?}");
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_that_reaches_top_p() {
        let logits = [0.5f32, 0.125, 0.25, 0.125].map(f32::ln);
        assert_eq!(frequencies(&logits, 1.0, 0.4), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(frequencies(&logits, 1.0, 0.0), [1.0, 0.0, 0.0, 0.0]);
        let got = frequencies(&logits, 1.0, 0.7);
        assert!((got[0] - 2.0 / 3.0).abs() < 1e-3 && got[1] == 0.0 && got[3] == 0.0, "{got:?}");
    }

    #[test]
    fn temperature_zero_takes_the_largest_and_ties_go_to_the_lower_index() {
        assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], 0.0, 1.0, 0.99), 1);
    }

    #[test]
    fn broken_logits_draw_something_that_exists() {
        assert_eq!(sample(&[f32::NAN, 1.0], 1.0, 1.0, 0.5), 1);
        assert_eq!(sample(&[f32::NAN; 3], 1.0, 1.0, 0.5), 0);
        assert_eq!(sample(&[f32::NEG_INFINITY, 0.0], 1.0, 1.0, 0.999), 1);
        assert_eq!(sample(&[0.0, f32::INFINITY], 1.0, 1.0, 0.0), 1);
        assert_eq!(sample(&[1e30, -1e30], 1e-30, 1.0, 0.9999), 0);
    }

    #[test]
    fn top_k_and_min_p_leave_out_the_unlikely() {
        let logits = [0.5f32, 0.125, 0.25, 0.125].map(f32::ln);
        let got = drawn(&logits, &Sampling::default().top_k(2usize), &[]);
        assert!((got[0] - 2.0 / 3.0).abs() < 1e-3 && got[1] == 0.0 && got[3] == 0.0, "{got:?}");
        let got = drawn(&logits, &Sampling::default().min_p(0.4), &[]);
        assert!((got[0] - 2.0 / 3.0).abs() < 1e-3 && got[1] == 0.0 && got[3] == 0.0, "{got:?}");
        assert_eq!(drawn(&logits, &Sampling::default().top_k(1usize), &[])[0], 1.0);
    }

    #[test]
    fn the_penalty_lowers_what_the_text_has_whatever_its_sign() {
        let sampling = Sampling::greedy().repetition_penalty(2.0);
        assert_eq!(sampling.draw(&mut [4.0, 3.0, -1.0], &[0, 0], 0.5), 1);
        assert_eq!(sampling.draw(&mut [-1.0, -1.5], &[0], 0.5), 1);
        assert_eq!(sampling.draw(&mut [4.0, 3.0], &[9], 0.5), 0);
    }

    #[test]
    fn numbers_without_sense_are_errors_that_name_the_field() {
        let refused = |sampling: Sampling| sampling.validate().unwrap_err().to_string();
        assert!(refused(Sampling::default().top_p(0.0)).contains("top-p: expected a number above 0, at most 1, got 0"));
        assert!(refused(Sampling::default().min_p(f32::NAN)).contains("min-p"));
        assert!(refused(Sampling::default().repetition_penalty(0.0)).contains("repetition-penalty"));
        Sampling::greedy().validate().unwrap();
    }
}
