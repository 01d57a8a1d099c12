//! Drawing the next token from its logits: temperature, then the nucleus (top-p, Holtzman et al., arXiv 1904.09751).
//!
//! Pure: the randomness is an argument, so that the caller's seed and position decide, and nothing else.

/// Draws a token.
///
/// `logits: [vocab]`; `temperature` 0 takes the largest (ties: the lower index); `top_p` keeps the smallest set of tokens
/// whose probability reaches it, at least one; `uniform` is in [0, 1). Logits that are NaN are never drawn; without any
/// other the answer is token 0.
pub fn sample(logits: &[f32], temperature: f32, top_p: f32, uniform: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).filter(|i| !logits[*i].is_nan()).collect();
    // Stable: equal logits stay in the order of their indices.
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let Some(&likeliest) = order.first() else { return 0 };
    if temperature <= 0.0 || !logits[likeliest].is_finite() {
        return likeliest as u32;
    }
    let weight = |i: usize| (f64::from(logits[i] - logits[likeliest]) / f64::from(temperature)).exp();
    let weights: Vec<f64> = order.iter().map(|i| weight(*i)).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let mut count = 0;
    while count < weights.len() && (count == 0 || kept < f64::from(top_p) * total) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(logits: &[f32], temperature: f32, top_p: f32) -> Vec<f64> {
        let n = 10_000;
        let mut counts = vec![0.0; logits.len()];
        for i in 0..n {
            counts[sample(logits, temperature, top_p, (f64::from(i) + 0.5) / f64::from(n)) as usize] += 1.0;
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
}
