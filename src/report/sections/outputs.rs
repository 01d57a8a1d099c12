//! The section on what experts add to the output of their layer.

use std::collections::BTreeMap;

use super::pairs::{Measure, heat_maps, trend};
use crate::analysis::record::Outputs;
use crate::report::figure::{About, Figure, HeatPanel, table as numbers_table};
use crate::report::heat::{Table, Words};
use crate::report::lines::Look;
use crate::report::number::{brief, finite, largest, mean, round_up, show, with_spread};
use crate::report::subject::Subject;

const SOURCE: &str = "METHOD \u{a7}7";
const REAP: &str = "METHOD \u{a7}7; arXiv 2510.13999, equation 9";

fn rows(s: &Subject) -> Vec<(usize, Outputs)> {
    s.analysis.outputs.iter().map(|o| (o.layer, o.clone())).collect()
}

/// Figures of the outputs.
pub fn outputs(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let compared = subjects.iter().flat_map(|s| &s.analysis.outputs).map(|o| o.compared).max().unwrap_or(0);
    let cosines =
        format!("The cosine of two experts' outputs for the same token, whoever it chose, mean over {compared} tokens");
    let pairs = About {
        id: "outputs-pairs",
        title: "Outputs of every pair of experts",
        shows: format!("{cosines}: 1 is the same output up to a positive factor."),
        chance: "Independent outputs have 0; the control is a few experts with Gaussian weights of the same norms."
            .into(),
        source: SOURCE,
    };
    let measures = [Measure {
        name: "cosine",
        pairs: |o: &Outputs| &o.cosine,
        null: |o| Some(o.null_cosine),
        control: |o| o.cosine_control,
    }];
    let over = About {
        id: "outputs-trend",
        title: "Alike outputs over the layers",
        shows: format!("{cosines} and over pairs of experts."),
        chance: "Broken: 0. Dotted: a few experts with Gaussian weights of the same norms.".into(),
        source: SOURCE,
    };
    let shared = About {
        id: "outputs-shared",
        title: "Share of the shared expert in the output",
        shows: "Its mean squared output over the sum of that and of the mean squared sum of the routed experts.".into(),
        chance: "Broken: its share of the hidden units that a token meets.".into(),
        source: SOURCE,
    };
    vec![
        saliency(subjects),
        heat_maps(pairs, subjects, "outputs", rows, &measures),
        trend(
            over,
            subjects,
            "cosine",
            rows,
            &[
                ("pairs of experts", Look::Colour(0), |o| o.mean_cosine),
                ("chance", Look::Chance, |o| Some(o.null_cosine)),
                ("control", Look::Control, |o| o.cosine_control),
            ],
        ),
        trend(
            shared,
            subjects,
            "share of the output's energy",
            rows,
            &[
                ("shared expert", Look::Colour(0), |o| o.shared_share),
                ("share of the units", Look::Chance, |o| o.null_shared_share),
            ],
        ),
    ]
}

fn saliency(subjects: &[Subject]) -> Option<Figure> {
    let all = || subjects.iter().flat_map(|s| &s.analysis.outputs);
    let hi = largest(all().flat_map(Outputs::relative_saliency)).filter(|x| *x > 0.0).map_or(1.0, round_up);
    let panels = subjects.iter().map(|s| {
        let outputs = &s.analysis.outputs;
        let spread = mean(outputs.iter().map(|o| o.over_mean(o.saliency_spread)));
        let by_chance = mean(outputs.iter().map(|o| o.over_mean(o.null_saliency_spread)));
        let table = Table {
            cells: outputs.iter().map(Outputs::relative_saliency).collect(),
            hi,
            note: format!("experts deviate by {}, by chance by {}", show(spread), show(by_chance)),
            null: Some(1.0),
            ..Table::default()
        };
        let rows = outputs.iter().map(|o| format!("layer {}", o.layer)).collect();
        let heading = s.tag("saliency over the layer's mean");
        let words = Words { heading, row: "layer".into(), column: "expert".into(), rows };
        let tables = if outputs.is_empty() { BTreeMap::new() } else { [(Vec::new(), table)].into() };
        HeatPanel { words, tables }
    });
    let about = About {
        id: "outputs-saliency",
        title: "Saliency of each expert",
        shows: "How much an expert adds to the output of its layer for the tokens that choose it: the mean of its weight times the norm of its output, over the mean over all choices of the layer. How often it is chosen does not count.".into(),
        chance: "The triangle is 1: what each expert has if it does not matter which one is chosen. The note above says by how much experts deviate, and by how much they would if the choices were dealt to them at random.".into(),
        source: REAP,
    };
    let mut numbers = Vec::new();
    for s in subjects {
        numbers.extend(s.analysis.outputs.iter().map(|o| {
            let least = o.relative_saliency().into_iter().enumerate().filter_map(|(e, x)| Some((e, finite(x)?)));
            let least = least.min_by(|a, b| a.1.total_cmp(&b.1));
            let unused = o.tokens.iter().filter(|n| **n == 0).count();
            vec![
                s.tag(&o.layer.to_string()),
                with_spread(o.null_saliency, o.saliency_spread),
                show(o.null_saliency_spread),
                least.map_or("\u{2013}".into(), |(e, x)| format!("expert {e}: {}", brief(Some(x)))),
                unused.to_string(),
                show(o.routed_energy),
                o.shared_energy.map_or("\u{2013}".into(), |x| show(Some(x))),
            ]
        }));
    }
    let head = [
        "Layer",
        "mean saliency \u{b1} over experts",
        "\u{b1} by chance",
        "least, over the mean",
        "without a token",
        "energy, routed",
        "energy, shared",
    ];
    let figure = Figure::heat(about, subjects.len(), Vec::new(), Vec::new(), panels.collect())?;
    Some(figure.with_numbers(numbers_table(&head, &numbers)))
}
