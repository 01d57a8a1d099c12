//! Axes of line charts: their ends, and where round numbers stand on them.

use super::line::Line;
use super::number::{LARGEST, largest, smallest, tick_label, tick_step};

/// About so many ticks an axis.
const TICKS: usize = 4;
/// Never more than these, whatever the range.
const MOST_TICKS: usize = 12;
/// Ends are at least this share of their size apart: ticks between them are then different numbers, with labels of
/// their own.
const LEAST_SHARE: f64 = 1e-5;
/// And at least this much: what is smaller than that is nothing.
const LEAST: f64 = 1e-300;

/// An axis. Its ends are numbers, apart, and differ by a number.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Its name.
    pub label: String,
    /// Its ends.
    range: (f64, f64),
    /// Whether equal steps are equal ratios.
    log: bool,
    /// Whether only whole numbers are marked.
    whole: bool,
}

impl Axis {
    /// From 0, or below where there are negative values, to a round number; the same for all of `charts`.
    pub fn values(label: &str, charts: &[Vec<Line>]) -> Self {
        let (lo, hi) = ends(charts, |p| p.1).unwrap_or((0.0, 0.0));
        let (lo, hi) = if lo < 0.0 || hi > 0.0 { apart(lo.min(0.0), hi.max(0.0)) } else { (0.0, 1.0) };
        // The ends are ticks.
        let step = tick_step(hi - lo, TICKS);
        let (lo, hi) = ((lo / step + 1e-9).floor() * step, (hi / step - 1e-9).ceil() * step);
        Self { label: label.into(), range: apart(lo, hi), log: false, whole: false }
    }

    /// Round numbers around the values, without 0.
    pub fn close(label: &str, charts: &[Vec<Line>]) -> Self {
        let (lo, hi) = ends(charts, |p| p.1).unwrap_or((0.0, 1.0));
        let (lo, hi) = apart(lo, hi);
        let step = tick_step(hi - lo, TICKS + 1);
        let range = ((lo / step).floor() * step, (hi / step).ceil() * step);
        Self { label: label.into(), range: apart(range.0, range.1), log: false, whole: false }
    }

    /// Over whole numbers.
    pub fn numbers(label: &str, charts: &[Vec<Line>]) -> Self {
        let (lo, hi) = ends(charts, |p| Some(p.0)).unwrap_or((0.0, 1.0));
        Self { label: label.into(), range: apart(lo, hi.max(lo + 1.0)), log: false, whole: true }
    }

    /// With equal ratios as equal steps; what of `range` cannot be an end of that gives way.
    pub fn logarithmic(label: &str, (lo, hi): (f64, f64)) -> Self {
        let hi = if hi > 1e10 * LEAST { hi.min(LARGEST) } else { 1.0 };
        let lo = if lo > LEAST { lo } else { 1e-3 * hi };
        let lo = if lo < hi * (1.0 - LEAST_SHARE) { lo } else { 0.1 * hi };
        Self { label: label.into(), range: (lo, hi), log: true, whole: false }
    }

    /// How far along the axis `x` lies: 0 to 1.
    pub fn share(&self, x: f64) -> f64 {
        let at = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).log10() } else { x };
        let (lo, hi) = (at(self.range.0), at(self.range.1));
        ((at(x) - lo) / (hi - lo)).clamp(0.0, 1.0)
    }

    /// Round numbers on the axis, with their labels.
    pub fn ticks(&self) -> Vec<(f64, String)> {
        let (lo, hi) = self.range;
        if self.log {
            return self.powers();
        }
        let step = tick_step(hi - lo, TICKS);
        let step = if self.whole { step.max(1.0).round() } else { step };
        let first = (lo / step - 1e-9).ceil();
        (0..MOST_TICKS)
            .map(|i| (first + i as f64) * step)
            .take_while(|t| *t <= hi + 1e-9 * step)
            .map(|t| (t, tick_label(t, step)))
            .collect()
    }

    /// Powers of ten, with three times a power between them where there are few.
    fn powers(&self) -> Vec<(f64, String)> {
        let (lo, hi) = self.range;
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let every = ((last - first) as usize).div_ceil(MOST_TICKS).max(1);
        let fine = hi / lo < 300.0;
        (first..=last)
            .step_by(every)
            .map(|p| 10f64.powi(p))
            .flat_map(|p| [p, 3.0 * p].into_iter().take(if fine { 2 } else { 1 }))
            .filter(|t| *t >= lo * 0.999 && *t <= hi * 1.001)
            .map(|t| (t, if (1.0..1e6).contains(&t) { format!("{t:.0}") } else { tick_label(t, t) }))
            .collect()
    }

    /// The axis for the page's script.
    pub fn words(&self) -> String {
        // With exponents where they are shorter.
        format!("{:?} {:?} {}", self.range.0, self.range.1, u8::from(self.log))
    }
}

/// The smallest and the largest of what is defined.
fn ends(charts: &[Vec<Line>], of: impl Fn(&(f64, Option<f64>)) -> Option<f64>) -> Option<(f64, f64)> {
    let all = || charts.iter().flatten().flat_map(|l| l.points.iter().map(&of));
    Some((smallest(all())?, largest(all())?))
}

/// Returns the ends as given, or as near to them as an axis can have: equal ones in f64, or neighbours, would leave no
/// room for ticks.
fn apart(lo: f64, hi: f64) -> (f64, f64) {
    let (lo, hi) = (lo.clamp(-LARGEST, LARGEST), hi.clamp(-LARGEST, LARGEST));
    let least = (LEAST_SHARE * lo.abs().max(hi.abs())).max(LEAST);
    if hi - lo >= least {
        (lo, hi)
    } else if lo >= 0.0 {
        (lo, lo + least)
    } else {
        (hi - least, hi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::lines::{Chart, Look, draw};

    /// Values that no run should have, and that a record can hold.
    const HOSTILE: [f64; 18] = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        1e-300,
        1e-12,
        5.55,
        5.550_000_000_000_001,
        -3.0,
        1e6,
        9_007_199_254_740_993.0,
        1.8e19,
        1e300,
        f64::MAX,
        f64::MIN,
        f64::NAN,
        f64::INFINITY,
    ];

    /// All axes of two points, drawn.
    fn axes(a: f64, b: f64) -> Vec<Axis> {
        let across = [vec![Line::new("", Look::Colour(0), vec![(a, Some(1.0)), (b, Some(2.0))])]];
        let upwards = [vec![Line::new("", Look::Colour(0), vec![(0.0, Some(a)), (1.0, Some(b))])]];
        vec![
            Axis::values("", &upwards),
            Axis::close("", &upwards),
            Axis::numbers("", &across),
            Axis::logarithmic("", (a, b)),
        ]
    }

    #[test]
    fn every_range_has_few_ticks_between_its_ends() {
        for a in HOSTILE {
            for b in HOSTILE {
                for axis in axes(a, b) {
                    let (lo, hi) = axis.range;
                    assert!(lo < hi && (hi - lo).is_finite(), "{a} {b}: {axis:?}");
                    let ticks = axis.ticks();
                    assert!(ticks.len() <= 2 * MOST_TICKS, "{a} {b}: {axis:?}: {ticks:?}");
                    assert!(ticks.windows(2).all(|t| t[0].0 < t[1].0), "{a} {b}: {axis:?}: {ticks:?}");
                    for x in HOSTILE.into_iter().filter(|x| x.is_finite()) {
                        assert!((0.0..=1.0).contains(&axis.share(x)), "{a} {b}: {axis:?} at {x}");
                    }
                    for (_, label) in ticks {
                        assert!(!label.contains("inf") && !label.contains("NaN") && label.len() < 16, "{label}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_hostile_can_be_drawn() {
        for a in HOSTILE {
            for b in HOSTILE {
                let lines = [Line::new("line", Look::Colour(0), vec![(a, Some(b)), (b, Some(a))])];
                let x = Axis::numbers("x", &[lines.to_vec()]);
                let y = Axis::close("y", &[lines.to_vec()]);
                let chart = Chart { heading: "", x: &x, y: &y, lines: &lines, bound: None };
                let svg = draw(&chart).svg.into_string();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{a} {b}: {svg}");
            }
        }
    }

    #[test]
    fn usual_ranges_have_round_ends_and_labels_of_their_own() {
        let labels = |axis: &Axis| axis.ticks().into_iter().map(|t| t.1).collect::<Vec<_>>();
        let [values, close, numbers, log] = &axes(0.13, 0.71)[..] else { panic!() };
        assert_eq!(labels(values), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!((labels(close).first(), labels(close).last()), (Some(&"0.0".into()), Some(&"0.8".into())));
        assert_eq!((numbers.range, log.range), ((0.13, 1.13), (0.13, 0.71)));
        assert_eq!(labels(&axes(1.0, 1408.0)[3]), ["1", "10", "100", "1000"]);
        assert_eq!(labels(&axes(0.0, 3.0)[2]), ["0", "1", "2", "3"]);
        for axis in axes(1_200_000.0, 1_900_000.0).iter().chain(&axes(5.55, 5.55)[1..2]) {
            let mut all = labels(axis);
            all.dedup();
            assert!(all.len() == axis.ticks().len() && all.len() > 1 || axis.log, "{axis:?}: {all:?}");
        }
    }
}
