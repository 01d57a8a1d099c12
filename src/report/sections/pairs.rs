//! The figures that Jacobians and routed PCA have in common: pairs of experts by layer, and trends over layers.

use crate::analysis::pairs::{Diagonal, KeptPairs};
use crate::report::blocks::{self, Drawn, Entry};
use crate::report::figure::{About, Figure};
use crate::report::heat::Words;
use crate::report::lines::{Axis, Line, Look, Named};
use crate::report::number::{show, with_spread};
use crate::report::subject::{Subject, merge_chance, over_layers};

/// Where the definitions come from.
pub const SOURCE: &str = "METHOD \u{a7}7; arXiv 2605.16349";

fn words(s: &Subject, text: &str) -> Words {
    Words { heading: s.tag(text), row: "expert".into(), column: "expert".into(), rows: Vec::new() }
}

/// One measure of a heat map with choices of layer and measure: its name, table, chance and control.
pub struct Measure<T> {
    /// Its name among the choices.
    pub name: &'static str,
    /// Its table.
    pub pairs: fn(&T) -> &KeptPairs,
    /// The value that chance gives.
    pub null: fn(&T) -> Option<f64>,
    /// The value that the control gives.
    pub control: fn(&T) -> Option<f64>,
}

/// Heat maps of several measures, each with a scale of its own, by layer.
pub fn heat_maps<T>(
    about: About,
    subjects: &[Subject],
    heading: &str,
    rows: fn(&Subject) -> Vec<(usize, T)>,
    measures: &[Measure<T>],
) -> Option<Figure> {
    let all: Vec<Vec<(usize, T)>> = subjects.iter().map(rows).collect();
    let mut entries = Vec::new();
    for (m, (panel, rows)) in measures.iter().flat_map(|m| all.iter().enumerate().map(move |rows| (m, rows))) {
        entries.extend(rows.iter().map(|(layer, t)| {
            let pairs = (m.pairs)(t);
            Entry {
                panel,
                key: vec![layer.to_string(), m.name.into()],
                group: m.name.into(),
                pairs,
                note: format!("mean {}, largest {}", with_spread(pairs.mean(), pairs.spread()), show(pairs.largest())),
                null: (m.null)(t),
                control: (m.control)(t),
            }
        }));
    }
    let mut numbers: Vec<usize> = all.iter().flatten().map(|(l, _)| *l).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    let chosen = vec![numbers.last()?.clone(), measures[0].name.to_owned()];
    let names = measures.iter().map(|m| m.name.to_owned()).collect();
    let selects = vec![("layer".into(), numbers), ("measure".into(), names)];
    let drawn = Drawn { columns: subjects.len(), diagonal: Diagonal::Trivial, most: f64::INFINITY };
    let words = subjects.iter().map(|s| words(s, heading)).collect();
    blocks::figure(about, drawn, (selects, chosen), words, &entries)
}

/// Charts with one line a subject and name.
pub fn trend<T>(
    about: About,
    subjects: &[Subject],
    y: &str,
    rows: fn(&Subject) -> Vec<(usize, T)>,
    lines: &[Named<T>],
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
