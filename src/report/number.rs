//! Numbers as text, the same for the same value: short, and never NaN or infinite.

use crate::linalg::statistics;

/// The word where there is no number.
pub const UNDEFINED: &str = "undefined";
/// Larger numbers are drawn as this one: of ends up to it, the difference is a number too.
pub const LARGEST: f64 = 1e300;

/// The value, if it is a number that can be drawn.
pub fn finite(x: Option<f64>) -> Option<f64> {
    x.filter(|v| v.is_finite())
}

/// Three decimals below 1, fewer above: for tables and tooltips.
pub fn show(x: Option<f64>) -> String {
    let Some(x) = finite(x) else { return UNDEFINED.into() };
    let size = x.abs();
    let text = if size == 0.0 {
        "0".into()
    } else if size < 9.95e-4 {
        format!("{x:.1e}")
    } else if size < 1.0 {
        format!("{x:.3}")
    } else if x.fract() == 0.0 {
        format!("{x:.0}")
    } else {
        format!("{x:.*}", if size < 10.0 { 2 } else { usize::from(size < 100.0) })
    };
    text.replace('-', "\u{2212}")
}

/// Two significant digits below 1: for sentences.
pub fn brief(x: Option<f64>) -> String {
    let Some(x) = finite(x) else { return UNDEFINED.into() };
    let size = x.abs();
    if (0.0995..1.0).contains(&size) {
        format!("{x:.2}").replace('-', "\u{2212}")
    } else if (0.00995..0.0995).contains(&size) {
        format!("{x:.3}").replace('-', "\u{2212}")
    } else {
        show(Some(x))
    }
}

/// A count with its thousands apart: `4,320`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 %`, `0.5 %`, with a space that does not break.
pub fn percent(share: f64) -> String {
    match finite(Some(share)) {
        // Two decimals, without the zeros that 100.0 * share would add.
        Some(s) => format!("{}\u{a0}%", (s * 1e4).round() / 1e2),
        None => UNDEFINED.into(),
    }
}

/// Mean of what is defined; none where nothing is.
pub fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (n, sum) = values.into_iter().filter_map(finite).fold((0u32, 0.0), |(n, s), v| (n + 1, s + v));
    (n > 0).then(|| sum / f64::from(n))
}

/// Median of what is defined; of an even number the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    statistics::median(values.into_iter().filter_map(finite))
}

/// Standard deviation of values of which groups are known by mean and deviation, groups of about one size; none where
/// no group has a deviation.
pub fn pooled(groups: impl IntoIterator<Item = (Option<f64>, Option<f64>)>) -> Option<f64> {
    let groups: Vec<(f64, f64)> =
        groups.into_iter().filter_map(|(mean, spread)| Some((finite(mean)?, finite(spread)?))).collect();
    let centre = mean(groups.iter().map(|g| Some(g.0)))?;
    let squares = groups.iter().map(|(mean, spread)| Some((mean - centre).powi(2) + spread * spread));
    mean(squares).map(f64::sqrt)
}

/// `0.440 ± 0.12`: a mean and the standard deviation of what it is the mean of, where that is known.
pub fn with_spread(x: Option<f64>, spread: Option<f64>) -> String {
    match (finite(x), finite(spread)) {
        (Some(_), Some(spread)) => format!("{} \u{b1} {}", show(x), brief(Some(spread))),
        _ => show(x),
    }
}

/// Largest of what is defined.
pub fn largest(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().filter_map(finite).reduce(f64::max)
}

/// Smallest of what is defined.
pub fn smallest(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    values.into_iter().filter_map(finite).reduce(f64::min)
}

/// The distance of round ticks (1, 2 or 5 times a power of ten), so that about `count` of them span `range`.
pub fn tick_step(range: f64, count: usize) -> f64 {
    let rough = (range / count.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0)
}

/// The next round number at or above `x`, to end a scale at.
pub fn round_up(x: f64) -> f64 {
    let x = x.clamp(-LARGEST, LARGEST);
    let step = tick_step(x.abs(), 5);
    (x / step - 1e-9).ceil() * step
}

/// The next round number at or below `x`.
pub fn round_down(x: f64) -> f64 {
    -round_up(-x)
}

/// A tick's label: as many decimals as the step needs.
pub fn tick_label(x: f64, step: f64) -> String {
    if x != 0.0 && (x.abs() < 1e-3 || x.abs() >= 1e6) {
        let digits = (x.abs().log10().floor() - step.log10().floor()).clamp(0.0, 6.0) as usize;
        return format!("{x:.digits$e}").replace('-', "\u{2212}");
    }
    if x == 0.0 && step < 1e-6 {
        return "0".into();
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    // Rounding can leave a negative zero.
    format!("{:.*}", decimals, x + 0.0).replace('-', "\u{2212}")
}

/// A coordinate: two decimals at most, no trailing zeros.
pub fn coordinate(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_counts_have_commas() {
        assert_eq!([0, 999, 4320, 1_234_567].map(thousands), ["0", "999", "4,320", "1,234,567"]);
    }

    #[test]
    fn numbers_are_short_and_what_is_none_is_undefined() {
        for (x, long, short) in [
            (0.7123, "0.712", "0.71"),
            (0.0157, "0.016", "0.016"),
            (0.00012, "1.2e\u{2212}4", "1.2e\u{2212}4"),
            (-0.25, "\u{2212}0.250", "\u{2212}0.25"),
            (7.456, "7.46", "7.46"),
            (45.67, "45.7", "45.7"),
            (1408.0, "1408", "1408"),
            (1.0, "1", "1"),
            (0.0, "0", "0"),
        ] {
            assert_eq!((show(Some(x)).as_str(), brief(Some(x)).as_str()), (long, short), "{x}");
        }
        for x in [None, Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!((show(x).as_str(), brief(x).as_str()), (UNDEFINED, UNDEFINED));
        }
        assert_eq!(
            (percent(0.01), percent(0.005), percent(0.29)),
            ("1\u{a0}%".into(), "0.5\u{a0}%".into(), "29\u{a0}%".into())
        );
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (x, up) in [(0.13, 0.15), (0.71, 0.8), (1.0, 1.0), (0.012, 0.015), (7.0, 8.0)] {
            assert!((round_up(x) - up).abs() < 1e-12 * up, "{x}: {}", round_up(x));
        }
        assert!((round_down(-0.13) + 0.15).abs() < 1e-12);
        assert_eq!((tick_label(0.15000000000000002, 0.05), tick_label(-0.0, 0.1)), ("0.15".into(), "0.0".into()));
    }

    #[test]
    fn means_pass_over_what_is_undefined() {
        assert_eq!(mean([Some(1.0), None, Some(f64::NAN), Some(3.0)]), Some(2.0));
        assert_eq!(mean([None]), None);
        assert_eq!(pooled([(Some(1.0), Some(3.0)), (None, None), (Some(9.0), Some(3.0))]), Some(5.0));
        assert_eq!(pooled([(Some(1.0), None)]), None);
        assert_eq!(with_spread(Some(0.44), Some(0.123)), "0.440 \u{b1} 0.12");
        assert_eq!((with_spread(Some(0.44), None), with_spread(None, Some(1.0))), ("0.440".into(), UNDEFINED.into()));
        assert_eq!(median([Some(5.0), Some(1.0), None, Some(3.0)]), Some(3.0));
        assert_eq!(median([Some(5.0), Some(1.0)]), Some(3.0));
    }
}
