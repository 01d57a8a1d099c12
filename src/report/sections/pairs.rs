//! What Jacobians and routed PCA share: pairs of experts by layer, and trends over layers.

use std::collections::BTreeMap;

use crate::analysis::record::Pairs;
use crate::analysis::similarity::spread_offdiag;
use crate::report::figure::{About, Figure, HeatPanel};
use crate::report::heat::{Table, Words};
use crate::report::lines::{Axis, Line, Look, Named};
use crate::report::number::{largest, mean, round_down, round_up, show, smallest, with_spread};
use crate::report::subject::{Subject, merge_chance, over_layers};

/// Where the definitions come from.
pub const SOURCE: &str = "METHOD \u{a7}7; arXiv 2605.16349";

fn words(s: &Subject, text: &str) -> Words {
    Words { heading: s.tag(text), row: "expert".into(), column: "expert".into(), rows: Vec::new() }
}

/// The values off the diagonal.
fn off_diagonal(pairs: &Pairs) -> impl Iterator<Item = Option<f64>> {
    let rows = pairs.iter().enumerate();
    rows.flat_map(|(i, row)| row.iter().enumerate().filter(move |(j, _)| i != *j).map(|(_, x)| *x))
}

/// One measure of a heat map with choices of layer and measure: its name, table, chance and control.
pub struct Measure<T> {
    /// Its name among the choices.
    pub name: &'static str,
    /// Its table.
    pub pairs: fn(&T) -> &Pairs,
    /// What chance gives.
    pub null: fn(&T) -> Option<f64>,
    /// What the control gives.
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
    let mut tables: Vec<BTreeMap<Vec<String>, Table>> = subjects.iter().map(|_| BTreeMap::new()).collect();
    for m in measures {
        let values =
            || all.iter().flatten().flat_map(|(_, t)| off_diagonal((m.pairs)(t)).chain([(m.null)(t), (m.control)(t)]));
        let hi = largest(values()).filter(|x| *x > 0.0).map_or(1.0, round_up);
        let lo = smallest(values()).filter(|x| *x < 0.0).map_or(0.0, round_down);
        for (rows, tables) in all.iter().zip(&mut tables) {
            for (layer, t) in rows {
                let pairs = (m.pairs)(t);
                let average = with_spread(mean(off_diagonal(pairs)), spread_offdiag(pairs));
                let note = format!("mean {average}, largest {}", show(largest(off_diagonal(pairs))));
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
