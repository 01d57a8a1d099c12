//! Singular spectra: their shape, the energy of the top part, stable and effective rank.

use std::collections::BTreeMap;

use crate::analysis::record::{Of, Spectrum};
use crate::nn::config::ExpertMatrix;
use crate::report::figure::{About, Figure};
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{finite, mean, median, percent, smallest};
use crate::report::subject::{Subject, graded, layers, merge_chance, over_layers};

/// Points of a curve: more cannot be distinguished in a panel.
const POINTS: usize = 48;

/// Indices 0..n, dense at the start.
pub fn spread(n: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..POINTS)
        .map(|i| ((n as f64).powf(i as f64 / (POINTS - 1) as f64) - 1.0).round() as usize)
        .chain(0..n.min(8))
        .filter(|i| *i < n)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The matrices that a chart of spectra shows.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Experts(Of),
    Common,
}

impl Kind {
    const ALL: [Kind; 4] =
        [Kind::Experts(Of::Weights), Kind::Experts(Of::Unique), Kind::Common, Kind::Experts(Of::Gradients)];

    fn has(self, s: &Spectrum) -> bool {
        match self {
            Kind::Experts(of) => s.expert.is_some() && s.of == of,
            Kind::Common => s.expert.is_none(),
        }
    }

    fn name(self, s: &Subject) -> &'static str {
        match self {
            Kind::Experts(of) => s.of(of),
            Kind::Common => "common W_c",
        }
    }
}

/// Figures of the spectra.
pub fn spectra(subjects: &[Subject]) -> Vec<Option<Figure>> {
    vec![
        curves(subjects),
        scalar(
            subjects,
            About {
                id: "energy",
                title: "Energy of the top directions over the layers",
                shows: format!(
                    "Share of the squared singular values in the top {}, mean over experts.",
                    percent(subjects[0].analysis.settings.top)
                ),
                chance: "Dotted: a random matrix of the same size.".into(),
                source: "METHOD \u{a7}6; arXiv 2602.12556, figure 1a",
            },
            "share of the energy",
            |s| finite(Some(s.energy_top)),
            |s| s.energy_top_control,
        ),
        scalar(
            subjects,
            About {
                id: "stable-rank",
                title: "Stable rank over the layers",
                shows: "|W|\u{b2} / s\u{2081}\u{b2}, mean over experts: about how many directions carry the energy."
                    .into(),
                chance: "Dotted: a random matrix of the same size. A matrix with even singular values has min(m, n)."
                    .into(),
                source: "METHOD \u{a7}6",
            },
            "stable rank",
            |s| Some(s.stable_rank),
            |s| s.stable_rank_control,
        ),
        scalar(
            subjects,
            About {
                id: "effective-rank",
                title: "Effective rank over the layers",
                shows:
                    "exp of the entropy of s\u{b2} / \u{3a3} s\u{b2}, mean over experts; it needs all singular values."
                        .into(),
                chance: "Dotted: a random matrix of the same size. A matrix with even singular values has min(m, n)."
                    .into(),
                source: "METHOD \u{a7}6, \u{a7}7",
            },
            "effective rank",
            |s| s.effective_rank,
            |s| s.effective_rank_control,
        ),
    ]
}

fn curves(subjects: &[Subject]) -> Option<Figure> {
    let all_layers = layers(subjects);
    let mut charts: Vec<(String, Vec<Line>)> = Vec::new();
    for kind in Kind::ALL {
        for s in subjects {
            for m in ExpertMatrix::ALL {
                let mut lines = by_layer(s, kind, m, &all_layers);
                if lines.iter().any(Line::is_drawn) {
                    lines.extend(gaussian(s, m));
                }
                charts.push((format!("{}, {}", s.tag(kind.name(s)), m.name()), lines));
            }
        }
    }
    let values = || charts.iter().flat_map(|c| &c.1).flat_map(|l| &l.points);
    let longest = values().map(|p| p.0).fold(2.0, f64::max);
    // Below a thousandth of the largest there is nothing to see.
    let least = smallest(values().map(|p| p.1.filter(|y| *y > 0.0))).unwrap_or(0.1).clamp(1e-3, 0.5);
    let x = Axis::logarithmic("singular direction", (1.0, longest));
    // A line ends where it leaves the chart; along its foot it would look like a value.
    charts
        .iter_mut()
        .flat_map(|c| &mut c.1)
        .flat_map(|l| &mut l.points)
        .for_each(|p| p.1 = p.1.filter(|y| *y >= least));
    let y = Axis::logarithmic("s\u{2c7c} / s\u{2081}", (least, 1.0));
    let bound = subjects[0].analysis.similarity.iter().find(|r| r.of == Of::Weights).map(|r| r.r as f64);
    let about = About {
        id: "spectra",
        title: "Singular spectra",
        shows: "Singular values over the largest, one line a layer, the median over experts. A steep start means that few directions carry much.".into(),
        chance: "Dotted: Gaussian matrices of the same size.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 1a",
    };
    let top = percent(subjects[0].analysis.settings.top);
    Figure::by_layer(about, 3, (&x, &y), &charts, &all_layers, bound.map(|r| (r, format!("top {top}"))))
}

/// The spectra of random matrices of the sizes that a kind of matrix has.
fn gaussian(s: &Subject, matrix: ExpertMatrix) -> Option<Line> {
    let controls = s.analysis.spectra_controls.iter().filter(|c| c.matrix == matrix);
    control(&controls.map(|c| &c.relative[..]).collect::<Vec<_>>())
}

/// The mean of spectra that controls have; none where there are no controls.
pub(super) fn control(spectra: &[&[f64]]) -> Option<Line> {
    let n = spectra.iter().map(|s| s.len()).max()?;
    let at = |j: usize| mean(spectra.iter().map(|s| s.get(j).copied()));
    let points = spread(n).into_iter().map(|j| ((j + 1) as f64, at(j))).collect();
    Some(Line::new("control", Look::Control, points))
}

fn by_layer(s: &Subject, kind: Kind, matrix: ExpertMatrix, all_layers: &[usize]) -> Vec<Line> {
    let mut layers: BTreeMap<usize, Vec<&Spectrum>> = BTreeMap::new();
    for row in s.analysis.spectra.iter().filter(|x| x.matrix == matrix && kind.has(x)) {
        layers.entry(row.layer).or_default().push(row);
    }
    let line = |(layer, rows): (usize, Vec<&Spectrum>)| {
        let n = rows.iter().map(|r| r.singular_values.len()).max().unwrap_or(0);
        let at = |j: usize| {
            median(rows.iter().map(|r| {
                let first = r.singular_values.first().copied().filter(|s| *s > 0.0)?;
                r.singular_values.get(j).map(|v| v / first)
            }))
        };
        graded(layer, all_layers, spread(n).into_iter().map(|j| ((j + 1) as f64, at(j))).collect())
    };
    let whole = layers.into_iter().filter(|(_, rows)| rows.iter().any(|r| !r.singular_values.is_empty())).map(line);
    // Of many experts the record has the median alone.
    let together = s.analysis.spectra_over_experts.iter().filter(|x| x.matrix == matrix && kind == Kind::Experts(x.of));
    let median = together.map(|x| {
        let points = spread(x.median.len()).into_iter().map(|j| ((j + 1) as f64, Some(x.median[j])));
        graded(x.layer, all_layers, points.collect())
    });
    whole.chain(median).collect()
}

fn scalar(
    subjects: &[Subject],
    about: About,
    name: &str,
    value: impl Fn(&Spectrum) -> Option<f64>,
    control: impl Fn(&Spectrum) -> Option<f64>,
) -> Option<Figure> {
    let mut charts = Vec::new();
    for m in ExpertMatrix::ALL {
        let (mut lines, mut chance) = (Vec::new(), Vec::new());
        for s in subjects {
            for kind in [Kind::Experts(Of::Weights), Kind::Experts(Of::Unique)] {
                let rows = || s.analysis.spectra.iter().filter(move |x| x.matrix == m && kind.has(x));
                let second = kind == Kind::Experts(Of::Unique);
                lines.push(Line::new(s.tag(kind.name(s)), s.look(second), over_layers(rows(), |r| r.layer, &value)));
                chance.push(Line::new(s.tag("control"), Look::Control, over_layers(rows(), |r| r.layer, &control)));
            }
        }
        lines.extend(merge_chance(chance));
        charts.push((m.name().to_owned(), lines));
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let (x, y) = (Axis::numbers("layer", &all), Axis::values(name, &all));
    Figure::charts(about, 3, &x, &y, &charts)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn the_first_and_last_of_many_points_are_kept() {
        assert_eq!(spread(0), Vec::<usize>::new());
        assert_eq!(spread(3), [0, 1, 2]);
        let many = spread(1408);
        assert!(many.len() < 60 && many[..9] == [0, 1, 2, 3, 4, 5, 6, 7, 8] && many.last() == Some(&1407), "{many:?}");
    }
}
