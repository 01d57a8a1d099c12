//! Mean, median and deviation of a few numbers on the host.

/// Mean; none of nothing.
pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// Median, the mean of the two in the middle of an even number; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    // Of the same one twice, or of two infinite ones, the mean is that one.
    Some(if lower == upper { upper } else { 0.5 * (lower + upper) })
}

/// Standard deviation of a sample, over n - 1; none of less than two values.
pub(crate) fn deviation(values: &[f64]) -> Option<f64> {
    let centre = mean(values.iter().copied())?;
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::{deviation, median};

    #[test]
    fn a_median_is_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median([3.0, 900.0, 2.0]), Some(3.0));
        assert_eq!(median([4.5, 1.0, 6.5, 90.0]), Some(5.5));
        assert_eq!(median([f64::INFINITY, 2.0, 5.0, 4.0]), Some(4.5));
        assert_eq!(median([f64::INFINITY, 2.0, f64::INFINITY, f64::INFINITY]), Some(f64::INFINITY));
        assert_eq!(median([f64::INFINITY, 2.0]), Some(f64::INFINITY));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_deviation_takes_two_values() {
        assert_eq!(deviation(&[1.0, 3.0, 2.0]), Some(1.0));
        assert_eq!((deviation(&[5.0]), deviation(&[])), (None, None));
    }
}
