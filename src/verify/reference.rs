//! The results of a case beside those of the same case on another adapter.

use serde::Serialize;

/// How far two results are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// Elements whose bits differ.
    pub elements: usize,
    /// Elements that were compared.
    pub of: usize,
    /// The largest difference over the largest element of its result; infinite (`null` in JSON) where one is no number and the
    /// other is.
    pub largest: f64,
}

impl Difference {
    /// Between results of the same sizes; none for others, and where there are none.
    pub(super) fn between(one: &[Vec<f32>], other: &[Vec<f32>]) -> Option<Self> {
        let sizes = |results: &[Vec<f32>]| results.iter().map(Vec::len).collect::<Vec<_>>();
        if one.is_empty() || sizes(one) != sizes(other) {
            return None;
        }
        let mut all = Difference::default();
        for (one, other) in one.iter().zip(other) {
            all.of += one.len();
            let finite = one.iter().chain(other).filter(|x| x.is_finite());
            let size = finite.fold(0.0, |size: f64, x| size.max(f64::from(x.abs())));
            for (a, b) in one.iter().zip(other).filter(|(a, b)| a.to_bits() != b.to_bits()) {
                all.elements += 1;
                let apart = match (a.is_nan(), b.is_nan()) {
                    (true, true) => 0.0,
                    (false, false) if a == b => 0.0,
                    _ => (f64::from(*a) - f64::from(*b)).abs() / size.max(f64::MIN_POSITIVE),
                };
                all.largest = if apart.is_nan() { f64::INFINITY } else { all.largest.max(apart) };
            }
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_relative_to_the_largest_element_of_its_result() {
        let between = |a: &[f32], b: &[f32]| Difference::between(&[vec![8.0], a.to_vec()], &[vec![8.0], b.to_vec()]);
        let expected = |elements, of, largest| Some(Difference { elements, of, largest });
        assert_eq!(between(&[1.0, 4.0], &[1.0, 4.0]), expected(0, 3, 0.0));
        assert_eq!(between(&[1.0, 4.0], &[1.5, 4.0]), expected(1, 3, 0.125));
        assert_eq!(between(&[0.0, 4.0], &[-0.0, 4.0]), expected(1, 3, 0.0), "other bits, no difference");
        assert_eq!(between(&[f32::NAN, 4.0], &[1.0, 4.0]), expected(1, 3, f64::INFINITY));
        assert_eq!(between(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Difference::between(&[], &[]), None);
    }
}
