//! Experts as functions: Jacobians, and the tokens that they get.

use std::collections::BTreeMap;

use super::spectra::spread;
use crate::analysis::record::{Jacobians, Pairs, RoutedPca};
use crate::report::figure::{About, Figure, HeatPanel};
use crate::report::heat::{Table, Words};
use crate::report::lines::{Axis, Chart, Line, Look};
use crate::report::number::{finite, largest, mean, round_down, round_up, show, smallest};
use crate::report::subject::{Subject, layers, merge_chance, over_layers};

const SOURCE: &str = "METHOD \u{a7}7; arXiv 2605.16349";

fn words(s: &Subject, text: &str) -> Words {
    Words { heading: s.tag(text), row: "expert".into(), column: "expert".into(), rows: Vec::new() }
}

/// The values off the diagonal.
fn off_diagonal(pairs: &Pairs) -> impl Iterator<Item = Option<f64>> {
    let rows = pairs.iter().enumerate();
    rows.flat_map(|(i, row)| row.iter().enumerate().filter(move |(j, _)| i != *j).map(|(_, x)| *x))
}

/// One measure of a heat map with choices of layer and measure: its name, table, chance and control.
struct Measure<T> {
    name: &'static str,
    pairs: fn(&T) -> &Pairs,
    null: fn(&T) -> Option<f64>,
    control: fn(&T) -> Option<f64>,
}

/// Heat maps of several measures, each with a scale of its own, by layer.
fn heat_maps<T>(
    about: About,
    subjects: &[Subject],
    heading: &str,
    rows: fn(&Subject) -> Vec<(usize, T)>,
    measures: &[Measure<T>],
) -> Option<Figure> {
    let all: Vec<Vec<(usize, T)>> = subjects.iter().map(rows).collect();
    let mut tables: Vec<BTreeMap<Vec<String>, Table>> = subjects.iter().map(|_| BTreeMap::new()).collect();
    for m in measures {
        let values =
            || all.iter().flatten().flat_map(|(_, t)| off_diagonal((m.pairs)(t)).chain([(m.null)(t), (m.control)(t)]));
        let hi = largest(values()).filter(|x| *x > 0.0).map_or(1.0, round_up);
        let lo = smallest(values()).filter(|x| *x < 0.0).map_or(0.0, round_down);
        for (rows, tables) in all.iter().zip(&mut tables) {
            for (layer, t) in rows {
                let pairs = (m.pairs)(t);
                let note =
                    format!("mean {}, largest {}", show(mean(off_diagonal(pairs))), show(largest(off_diagonal(pairs))));
                let table = Table {
                    cells: pairs.clone(),
                    diagonal_is_trivial: true,
                    lo,
                    hi,
                    note,
                    null: (m.null)(t),
                    control: (m.control)(t),
                };
                tables.insert(vec![layer.to_string(), m.name.into()], table);
            }
        }
    }
    let mut numbers: Vec<usize> = all.iter().flatten().map(|(l, _)| *l).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    let chosen = vec![numbers.last()?.clone(), measures[0].name.to_owned()];
    let panels = subjects.iter().zip(tables).map(|(s, tables)| HeatPanel { words: words(s, heading), tables });
    let names = measures.iter().map(|m| m.name.to_owned()).collect();
    Figure::heat(
        about,
        subjects.len(),
        vec![("layer".into(), numbers), ("measure".into(), names)],
        chosen,
        panels.collect(),
    )
}

/// Charts with one line a subject and name.
fn trend<T>(
    about: About,
    subjects: &[Subject],
    y: &str,
    rows: fn(&Subject) -> Vec<(usize, T)>,
    lines: &[(&str, Look, fn(&T) -> Option<f64>)],
) -> Option<Figure> {
    let (mut drawn, mut chance) = (Vec::new(), Vec::new());
    for s in subjects {
        let rows = rows(s);
        for (i, &(name, look, value)) in lines.iter().enumerate() {
            let points = over_layers(&rows, |r| r.0, |r| value(&r.1));
            match look {
                Look::Chance | Look::Control => chance.push(Line::new(s.tag(name), look, points)),
                _ => drawn.push(Line::new(s.tag(name), s.look(i > 0), points)),
            }
        }
    }
    drawn.extend(merge_chance(chance));
    let charts = [(y.to_owned(), drawn)];
    let all = [charts[0].1.clone()];
    let (x, y) = (Axis::numbers("layer", &all), Axis::values(y, &all));
    Figure::charts(about, 2, &x, &y, &charts)
}

fn jacobian_rows(s: &Subject) -> Vec<(usize, Jacobians)> {
    s.analysis.jacobians.iter().map(|j| (j.layer, j.clone())).collect()
}

/// Figures of the Jacobians.
pub fn jacobians(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let how = |s: &Subject| {
        let j = s.analysis.jacobians.first()?;
        let kind = j.probes.map_or("exact".into(), |p| format!("by {p} random probes a token"));
        Some(s.tag(&format!("{kind}, at {} tokens", j.tokens)))
    };
    let how: Vec<String> = subjects.iter().filter_map(how).collect();
    let cosines = "The cosine of two experts' Jacobians d expert(x) / dx: 1 is the same local function up to a factor.";
    let heat = About {
        id: "jacobians-pairs",
        title: "Alignment of every pair of experts",
        shows: format!("{cosines} Mean of the cosines over tokens, or the cosine of the mean Jacobians. Measured: {}.", how.join("; ")),
        chance: "Independent functions have 0; the control is experts with weights of the same spectra and random directions.".into(),
        source: SOURCE,
    };
    let measures = [
        Measure {
            name: "mean of cosines",
            pairs: |j: &Jacobians| &j.mean_of_cosines,
            null: |j| Some(j.null),
            control: |j| j.control,
        },
        Measure { name: "cosine of means", pairs: |j| &j.cosine_of_means, null: |j| Some(j.null), control: |_| None },
    ];
    let over = About {
        id: "jacobians-trend",
        title: "Alignment over the layers",
        shows: format!("{cosines} Mean over pairs of experts."),
        chance: "Broken: 0. Dotted: experts with weights of the same spectra and random directions, for the mean of cosines.".into(),
        source: SOURCE,
    };
    let rank = About {
        id: "jacobians-rank",
        title: "Effective rank of the Jacobians",
        shows: "Mean over tokens and experts: about how many directions of the input an expert responds to.".into(),
        chance: "No null: it describes one expert and compares none. A Jacobian with even singular values has d."
            .into(),
        source: SOURCE,
    };
    vec![
        heat_maps(heat, subjects, "Jacobians", jacobian_rows, &measures),
        trend(
            over,
            subjects,
            "cosine",
            jacobian_rows,
            &[
                ("mean of cosines", Look::Colour(0), |j| j.mean_offdiag),
                ("cosine of means", Look::Colour(0), |j| j.means_offdiag),
                ("chance", Look::Chance, |j| Some(j.null)),
                ("control", Look::Control, |j| j.control),
            ],
        ),
        jacobian_spectra(subjects),
        trend(
            rank,
            subjects,
            "effective rank",
            jacobian_rows,
            &[("mean of experts", Look::Colour(0), |j| mean(j.effective_rank.iter().copied()))],
        ),
    ]
}

fn jacobian_spectra(subjects: &[Subject]) -> Option<Figure> {
    let all_layers = layers(subjects);
    let last = all_layers.len().saturating_sub(1).max(1) as f64;
    let line = |j: &Jacobians| {
        let n = j.singular_values.iter().map(Vec::len).max().unwrap_or(0);
        let at = |i: usize| mean(j.singular_values.iter().map(|s| Some(s.get(i)? / s.first().filter(|f| **f > 0.0)?)));
        let place = all_layers.iter().position(|l| *l == j.layer).unwrap_or(0);
        let points = spread(n).into_iter().map(|i| ((i + 1) as f64, at(i))).collect();
        Line::new(format!("layer {}", j.layer), Look::Graded(place as f64 / last), points)
    };
    let charts: Vec<(String, Vec<Line>)> =
        subjects.iter().map(|s| (s.tag("Jacobians"), s.analysis.jacobians.iter().map(line).collect())).collect();
    let points = || charts.iter().flat_map(|c| &c.1).flat_map(|l| &l.points);
    let least = smallest(points().map(|p| p.1.filter(|y| *y > 0.0))).unwrap_or(0.1).clamp(1e-3, 0.5);
    let x = Axis::logarithmic("singular direction", (1.0, points().map(|p| p.0).fold(2.0, f64::max)));
    let y = Axis::logarithmic("s\u{2c7c} / s\u{2081}", (least, 1.0));
    let grades = (format!("layer {}", all_layers.first()?), format!("layer {}", all_layers.last()?));
    let about = About {
        id: "jacobians-spectra",
        title: "Singular spectra of the Jacobians",
        shows: "Leading singular values over the largest, mean over tokens and experts, one line a layer.".into(),
        chance: "No null for the shape itself: it describes single experts.".into(),
        source: SOURCE,
    };
    Figure::charts_with(
        about,
        2,
        charts.iter().map(|(heading, lines)| Chart {
            heading,
            x: &x,
            y: &y,
            lines,
            bound: None,
            grades: Some(grades.clone()),
        }),
    )
}

fn pca_rows(s: &Subject) -> Vec<(usize, RoutedPca)> {
    s.analysis.routed_pca.iter().map(|p| (p.layer, p.clone())).collect()
}

/// Figures of the routed PCA.
pub fn routed_pca(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let heat = About {
        id: "pca-pairs",
        title: "Subspaces of the tokens of every pair of experts",
        shows: "Leading principal components of the hidden states that each expert gets, weighted by its combine weights: their similarity, or their Grassmann distance (geodesic |t|, chordal |sin t|, projection sin t_max of the principal angles t). Experts with too few tokens are grey.".into(),
        chance: "For the similarity r / d, and the control of random groups of tokens of the same sizes: the experts of one layer see the same kind of text, so the control matters more.".into(),
        source: SOURCE,
    };
    let measures = [
        Measure {
            name: "similarity",
            pairs: |p: &RoutedPca| &p.similarity,
            null: |p| Some(p.null),
            control: |p| p.control,
        },
        Measure {
            name: "geodesic distance",
            pairs: |p| &p.geodesic,
            null: |_| None,
            // The record holds it over the largest distance, sqrt(r) pi / 2.
            control: |p| finite(p.control_geodesic).map(|g| g * (p.r as f64).sqrt() * std::f64::consts::FRAC_PI_2),
        },
        Measure {
            name: "chordal distance",
            pairs: |p| &p.chordal,
            null: |p| Some((p.r as f64 * (1.0 - p.null)).max(0.0).sqrt()),
            control: |_| None,
        },
        Measure { name: "projection distance", pairs: |p| &p.projection, null: |_| None, control: |_| None },
    ];
    let similarity = About {
        id: "pca-similarity",
        title: "Similarity over the layers",
        shows: "Mean over pairs of experts of the similarity of their tokens' subspaces.".into(),
        chance: "Broken: r / d. Dotted: random groups of tokens of the same sizes.".into(),
        source: SOURCE,
    };
    let distance = About {
        id: "pca-distance",
        title: "Geodesic distance over the layers",
        shows: "Mean over pairs of experts, over its largest value: 0 is the same subspace, 1 an orthogonal one."
            .into(),
        chance: "Dotted: random groups of tokens of the same sizes.".into(),
        source: SOURCE,
    };
    let variance = About {
        id: "pca-variance",
        title: "Explained variance over the layers",
        shows: "Share of the variance of an expert's tokens in the compared components, mean over experts.".into(),
        chance: "No null: it describes one expert's tokens and compares none.".into(),
        source: SOURCE,
    };
    let ranks = About {
        id: "pca-rank",
        title: "Effective rank over the layers",
        shows: "How many directions an expert's tokens fill: participation ratio and exp of the entropy, mean over experts.".into(),
        chance: "No null: it describes one expert's tokens and compares none. Even variances have d.".into(),
        source: SOURCE,
    };
    vec![
        heat_maps(heat, subjects, "routed tokens", pca_rows, &measures),
        trend(
            similarity,
            subjects,
            "similarity",
            pca_rows,
            &[
                ("routed tokens", Look::Colour(0), |p| p.mean_offdiag),
                ("chance", Look::Chance, |p| Some(p.null)),
                ("control", Look::Control, |p| p.control),
            ],
        ),
        trend(
            distance,
            subjects,
            "distance over its largest",
            pca_rows,
            &[
                ("routed tokens", Look::Colour(0), |p| p.mean_geodesic),
                ("control", Look::Control, |p| p.control_geodesic),
            ],
        ),
        trend(
            variance,
            subjects,
            "share of the variance",
            pca_rows,
            &[("mean of experts", Look::Colour(0), |p| mean(p.explained_variance.iter().copied()))],
        ),
        trend(
            ranks,
            subjects,
            "directions",
            pca_rows,
            &[
                ("participation ratio", Look::Colour(0), |p| mean(p.participation_ratio.iter().copied())),
                ("entropy", Look::Colour(0), |p| mean(p.effective_rank.iter().copied())),
            ],
        ),
    ]
}
