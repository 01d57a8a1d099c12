//! How tokens spread over experts, and which expert likes which source.

use std::collections::BTreeMap;

use crate::analysis::record::Load;
use crate::report::figure::{About, Figure, HeatPanel, table as numbers_table};
use crate::report::heat::{Table, Words};
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{largest, round_up, show, with_spread};
use crate::report::subject::{Subject, merge_chance, over_layers};

const SOURCE: &str = "METHOD \u{a7}2 for the loads; mutual information as usual, in nats";
/// More sources would make the picture too tall; all are in the record.
const SOURCES: usize = 40;

/// Figures of the load.
pub fn load(subjects: &[Subject]) -> Vec<Option<Figure>> {
    vec![share(subjects), by_source(subjects), information(subjects), balance(subjects)]
}

fn experts(l: &Load) -> f64 {
    l.share.len().max(1) as f64
}

fn share(subjects: &[Subject]) -> Option<Figure> {
    let all = || subjects.iter().flat_map(|s| &s.analysis.load);
    let hi = largest(all().flat_map(|l| l.share.iter().map(|x| Some(*x)))).filter(|x| *x > 0.0).map_or(1.0, round_up);
    let panels = subjects.iter().map(|s| {
        let loads = &s.analysis.load;
        let cells: Vec<Vec<Option<f64>>> = loads.iter().map(|l| l.share.iter().map(|x| Some(*x)).collect()).collect();
        let dead: usize = loads.iter().map(|l| l.dead).sum();
        let table = Table {
            cells,
            hi,
            note: format!("{dead} {} without a token", if dead == 1 { "expert" } else { "experts" }),
            null: loads.first().map(|l| 1.0 / experts(l)),
            ..Table::default()
        };
        let rows = loads.iter().map(|l| format!("layer {}", l.layer)).collect();
        let words = Words { heading: s.tag("share of tokens"), row: "layer".into(), column: "expert".into(), rows };
        let tables = if loads.is_empty() { BTreeMap::new() } else { [(Vec::new(), table)].into() };
        HeatPanel { words, tables }
    });
    let about = About {
        id: "load-share",
        title: "Share of routed tokens",
        shows: "What share of a layer's routed tokens each expert gets.".into(),
        chance: "The triangle is the even load, 1 / E.".into(),
        source: SOURCE,
    };
    Figure::heat(about, subjects.len(), Vec::new(), Vec::new(), panels.collect())
}

fn by_source(subjects: &[Subject]) -> Option<Figure> {
    // One source alone has the load of all.
    let compares = |l: &&Load| l.by_source.iter().filter(|row| row.iter().any(Option::is_some)).count() > 1;
    let all = || subjects.iter().flat_map(|s| &s.analysis.load).filter(compares);
    let hi =
        largest(all().flat_map(|l| l.by_source.iter().flatten().copied())).filter(|x| *x > 0.0).map_or(1.0, round_up);
    let table = |l: &Load| Table {
        cells: l.by_source.iter().take(SOURCES).cloned().collect(),
        hi,
        note: format!(
            "information {} nats (chance {}, control {})",
            show(l.mutual_information),
            show(l.null),
            with_spread(l.control, l.control_spread)
        ),
        null: Some(1.0 / experts(l)),
        ..Table::default()
    };
    let panels = subjects.iter().map(|s| {
        let loads = || s.analysis.load.iter().filter(compares);
        let rows = loads().next().map(|l| l.sources.iter().take(SOURCES).cloned().collect()).unwrap_or_default();
        HeatPanel {
            words: Words { heading: s.tag("share by source"), row: "source".into(), column: "expert".into(), rows },
            tables: loads().map(|l| (vec![l.layer.to_string()], table(l))).collect(),
        }
    });
    let mut layers: Vec<usize> = all().map(|l| l.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
    let most = all().map(|l| l.sources.len()).max()?;
    let cut = if most > SOURCES { format!(" The first {SOURCES} of {most} sources are drawn.") } else { String::new() };
    let about = About {
        id: "load-source",
        title: "Which expert likes which source",
        shows: format!(
            "What share of the tokens of each source (file or folder) goes to each expert: rows that look alike mean that the source does not matter.{cut}"
        ),
        chance: "The triangle is the even load, 1 / E; the next figure has the null of the information.".into(),
        source: SOURCE,
    };
    let chosen = vec![layers.last()?.clone()];
    Figure::heat(about, subjects.len(), vec![("layer".into(), layers)], chosen, panels.collect())
}

fn chart(about: About, y: &str, lines: Vec<Line>) -> Option<Figure> {
    let charts = [(y.to_owned(), lines)];
    let all = [charts[0].1.clone()];
    let (x, y) = (Axis::numbers("layer", &all), Axis::values(y, &all));
    Figure::charts(about, 2, &x, &y, &charts)
}

fn information(subjects: &[Subject]) -> Option<Figure> {
    let (mut lines, mut chance) = (Vec::new(), Vec::new());
    for s in subjects {
        let over = |f: fn(&Load) -> Option<f64>| over_layers(&s.analysis.load, |l| l.layer, f);
        lines.push(Line::new(s.tag("information"), s.look(false), over(|l| l.mutual_information)));
        chance.push(Line::new(s.tag("chance"), Look::Chance, over(|l| l.null)));
        chance.push(Line::new(s.tag("control"), Look::Control, over(|l| l.control)));
    }
    lines.extend(merge_chance(chance));
    let about = About {
        id: "load-information",
        title: "How much the source tells of the expert",
        shows: "Mutual information of a token's source and its expert: 0 where the source does not matter.".into(),
        chance: "Broken: what sampling alone gives, (S \u{2212} 1)(E \u{2212} K) / 2N for N = T K choices. Dotted: sources permuted among tokens, mean of several permutations.".into(),
        source: SOURCE,
    };
    chart(about, "nats", lines)
}

fn balance(subjects: &[Subject]) -> Option<Figure> {
    let mut lines = Vec::new();
    for s in subjects {
        let over = |f: fn(&Load) -> Option<f64>| over_layers(&s.analysis.load, |l| l.layer, f);
        lines.push(Line::new(s.tag("E max f \u{2212} 1"), s.look(false), over(|l| Some(l.max_violation))));
        lines.push(Line::new(s.tag("standard deviation over mean"), s.look(true), over(|l| Some(l.variation))));
    }
    let even = subjects
        .iter()
        .map(|s| Line::new("even load", Look::Chance, over_layers(&s.analysis.load, |l| l.layer, |_| Some(0.0))));
    lines.extend(merge_chance(even.collect()));
    let about = About {
        id: "load-balance",
        title: "Balance over the layers",
        shows: "How far the load is from even.".into(),
        chance: "0 is the even load.".into(),
        source: SOURCE,
    };
    let mut rows = Vec::new();
    for s in subjects {
        rows.extend(s.analysis.load.iter().map(|l| {
            let even = experts(l).ln();
            vec![
                s.tag(&l.layer.to_string()),
                l.dead.to_string(),
                show(Some(l.entropy)),
                show(Some(even)),
                show(Some(l.max_violation)),
                show(l.mutual_information),
                show(l.normalised_information),
            ]
        }));
    }
    let head = [
        "Layer",
        "without a token",
        "entropy",
        "of an even load",
        "E max f \u{2212} 1",
        "information",
        "over its largest",
    ];
    Some(chart(about, "imbalance", lines)?.with_numbers(numbers_table(&head, &rows)))
}
