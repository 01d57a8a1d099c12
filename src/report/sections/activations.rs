//! Which singular directions tokens use.

use std::collections::BTreeMap;

use super::similarity::heat_maps;
use super::spectra::spread;
use crate::analysis::record::{ActivationMeans, Activations, Of};
use crate::nn::config::ExpertMatrix;
use crate::report::figure::{About, Figure};
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{mean, percent, smallest};
use crate::report::subject::{Subject, graded, layers, merge_chance, over_layers};

/// Figures of the activations.
pub fn activations(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let samples = About {
        id: "activations-samples",
        title: "Similarity of activation subspaces across samples",
        shows: "Whether different samples of the data excite the same leading directions: sample by sample.".into(),
        chance: "Random subspaces have r / m; the control is Gaussian matrices of the same sizes.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 5",
    };
    vec![ratio(subjects), energy(subjects), shuffle(subjects), heat_maps(samples, subjects, &[Of::Activations], None)]
}

/// Curves of one matrix by layer: of each expert, or of many experts their mean.
fn curves<'a>(
    s: &Subject<'a>,
    m: ExpertMatrix,
    each: fn(&Activations) -> &[Option<f64>],
    of_mean: fn(&ActivationMeans) -> &[Option<f64>],
) -> BTreeMap<usize, Vec<&'a [Option<f64>]>> {
    let mut by_layer: BTreeMap<usize, Vec<&'a [Option<f64>]>> = BTreeMap::new();
    for a in s.analysis.activations.iter().filter(|a| a.matrix == m && !each(a).is_empty()) {
        by_layer.entry(a.layer).or_default().push(each(a));
    }
    for a in s.analysis.activation_means.iter().filter(|a| a.matrix == m) {
        by_layer.entry(a.layer).or_default().push(of_mean(a));
    }
    by_layer
}

/// Means over curves of the j-th values.
fn means(curves: &[&[Option<f64>]]) -> Vec<(f64, Option<f64>)> {
    let n = curves.iter().map(|c| c.len()).max().unwrap_or(0);
    let at = |j: usize| mean(curves.iter().map(|c| c.get(j).copied().flatten()));
    spread(n).into_iter().map(|j| ((j + 1) as f64, at(j))).collect()
}

fn longest(charts: &[(String, Vec<Line>)]) -> f64 {
    charts.iter().flat_map(|c| &c.1).flat_map(|l| &l.points).map(|p| p.0).fold(2.0, f64::max)
}

fn constant(name: &str, look: Look, value: Option<f64>, end: f64) -> Line {
    Line::new(name, look, vec![(1.0, value), (end, value)])
}

fn ratio(subjects: &[Subject]) -> Option<Figure> {
    let all_layers = layers(subjects);
    let mut charts: Vec<(String, Vec<Line>)> = Vec::new();
    for s in subjects {
        for m in ExpertMatrix::ALL {
            let rows: Vec<&Activations> = s.analysis.activations.iter().filter(|a| a.matrix == m).collect();
            let mut lines: Vec<Line> = curves(s, m, |a| &a.ratio, |a| &a.ratio)
                .into_iter()
                .map(|(layer, curves)| graded(layer, &all_layers, means(&curves)))
                .collect();
            let end = lines.iter().flat_map(|l| &l.points).map(|p| p.0).fold(2.0, f64::max);
            lines.push(constant("chance", Look::Chance, mean(rows.iter().map(|a| a.null)), end));
            lines.push(constant("control", Look::Control, mean(rows.iter().map(|a| a.control)), end));
            charts.push((s.tag(m.name()), lines));
        }
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let x = Axis::logarithmic("singular direction", (1.0, longest(&charts)));
    let y = Axis::values("share of tokens that use it", &all);
    let about = About {
        id: "activations-ratio",
        title: "Activation ratio of singular directions",
        shows: format!(
            "The share of an expert's tokens whose projection on a direction, over the token's length, exceeds {}; mean over experts, one line a layer.",
            thresholds(subjects)
        ),
        chance: "Broken: tokens of random direction. Dotted: random directions in place of the singular ones.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 3a",
    };
    Figure::by_layer(about, 3, (&x, &y), &charts, &all_layers, None)
}

fn thresholds(subjects: &[Subject]) -> String {
    let all = || subjects.iter().flat_map(|s| &s.analysis.activations).map(|a| a.threshold);
    let (lo, hi) = all().fold((f64::MAX, f64::MIN), |(lo, hi), t| (lo.min(t), hi.max(t)));
    let show = |t| crate::report::number::show(Some(t));
    match (lo < hi, lo > hi) {
        (true, _) => format!("a threshold ({} to {})", show(lo), show(hi)),
        (_, true) => "a threshold".into(),
        _ => show(lo),
    }
}

fn energy(subjects: &[Subject]) -> Option<Figure> {
    let mut charts: Vec<(String, Vec<Line>)> = Vec::new();
    for s in subjects {
        for m in ExpertMatrix::ALL {
            let all = |by_layer: BTreeMap<usize, Vec<_>>| by_layer.into_values().flatten().collect::<Vec<_>>();
            let input = all(curves(s, m, |a| &a.input_energy, |a| &a.input_energy));
            let output = all(curves(s, m, |a| &a.output_energy, |a| &a.output_energy));
            let directions = input.iter().map(|c| c.len()).max().unwrap_or(0);
            let input = means(&input);
            let end = input.iter().map(|p| p.0).fold(2.0, f64::max);
            let even = (directions > 0).then(|| 1.0 / directions as f64);
            let lines = vec![
                Line::new("of the input", Look::Colour(0), input),
                Line::new("of the output", Look::Colour(1), means(&output)),
                constant("even", Look::Chance, even, end),
            ];
            charts.push((s.tag(m.name()), lines));
        }
    }
    let values = || charts.iter().flat_map(|c| &c.1).flat_map(|l| &l.points).map(|p| p.1);
    let least = smallest(values().map(|y| y.filter(|y| *y > 0.0))).unwrap_or(0.1).clamp(1e-5, 0.1);
    let x = Axis::logarithmic("singular direction", (1.0, longest(&charts)));
    let y = Axis::logarithmic("share of the energy", (10f64.powf(least.log10().floor()), 1.0));
    let about = About {
        id: "activations-energy",
        title: "Energy along the singular directions",
        shows: "How the energy of an expert's input and of its output spreads over its singular directions; mean over layers and experts.".into(),
        chance: "Broken: the same energy along each of the directions.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 3a",
    };
    Figure::charts(about, 3, &x, &y, &charts)
}

fn shuffle(subjects: &[Subject]) -> Option<Figure> {
    let mut charts: Vec<(String, Vec<Line>)> = Vec::new();
    for m in ExpertMatrix::ALL {
        let (mut lines, mut chance) = (Vec::new(), Vec::new());
        for s in subjects {
            let rows = || s.analysis.activations.iter().filter(move |a| a.matrix == m);
            let top = format!("top {}", percent(s.analysis.settings.top));
            lines.push(Line::new(s.tag(&top), s.look(false), over_layers(rows(), |a| a.layer, |a| a.shuffle_top)));
            lines.push(Line::new(s.tag("tail"), s.look(true), over_layers(rows(), |a| a.layer, |a| a.shuffle_tail)));
            let control = over_layers(rows(), |a| a.layer, |a| a.shuffle_control);
            chance.push(Line::new(s.tag("control"), Look::Control, control));
        }
        lines.extend(merge_chance(chance));
        charts.push((m.name().to_owned(), lines));
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let (x, y) = (Axis::numbers("layer", &all), Axis::values("relative change", &all));
    let about = About {
        id: "activations-shuffle",
        title: "Sensitivity to the order of tokens",
        shows: "Relative change of the projections when the tokens of a sequence are permuted: directions that change little carry what does not depend on order.".into(),
        chance: "Dotted, where measured: random directions in place of the singular ones.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 3b",
    };
    Figure::charts(about, 3, &x, &y, &charts)
}
