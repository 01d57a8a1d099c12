//! Maps of pairs: every pair of a few experts, blocks of many.

use std::collections::BTreeMap;

use super::figure::{About, Figure, HeatPanel, table};
use super::heat::{Table, Words};
use super::number::{largest, round_down, round_up, show, smallest};
use crate::analysis::pairs::{Diagonal, KeptPairs, MANY, Pairs};

/// The kind of value that the cells of a map hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cells {
    /// One pair each.
    Pairs,
    /// The mean of a block of pairs.
    Mean,
    /// The largest of a block.
    Largest,
}

impl Cells {
    /// Its name among the choices.
    pub fn name(self) -> &'static str {
        match self {
            Cells::Pairs => "pairs",
            Cells::Mean => "mean of blocks",
            Cells::Largest => "largest of blocks",
        }
    }
}

/// One map of a table of pairs.
#[derive(Clone, Debug)]
pub struct Map {
    /// The kind of its cells.
    pub cells: Cells,
    /// Their values.
    pub values: Pairs,
    /// Experts of a row or column.
    pub block: usize,
    /// Experts of all.
    pub count: usize,
}

impl Map {
    /// A heat map of it, on a scale from `lo` to `hi`.
    pub fn table(self, diagonal: Diagonal, (lo, hi): (f64, f64)) -> Table {
        let Map { values, block, count, .. } = self;
        let diagonal_is_trivial = diagonal == Diagonal::Trivial && block == 1;
        Table { cells: values, diagonal_is_trivial, block, count, lo, hi, ..Table::default() }
    }

    /// The values, without those of an expert beside itself where these say nothing.
    pub fn telling(&self, diagonal: Diagonal) -> impl Iterator<Item = Option<f64>> + '_ {
        let trivial = diagonal == Diagonal::Trivial && self.block == 1;
        let rows = self.values.iter().enumerate();
        rows.flat_map(move |(i, row)| row.iter().enumerate().filter(move |(j, _)| !trivial || i != *j).map(|(_, x)| *x))
    }
}

/// The maps of a table: one of up to [`MANY`] experts, two of more; none where only means were kept.
pub fn maps(pairs: &KeptPairs, diagonal: Diagonal) -> Vec<Map> {
    if let KeptPairs::Whole(values) = pairs
        && values.len() <= MANY
    {
        return vec![Map { cells: Cells::Pairs, values: values.clone(), block: 1, count: values.len() }];
    }
    let reduced = pairs.reduced(diagonal);
    let (block, count) = (reduced.block, reduced.size);
    let map = |cells, values: &Pairs| Map { cells, values: square(values, reduced.half), block, count };
    match block {
        0 => Vec::new(),
        1 => vec![map(Cells::Pairs, &reduced.block_mean)],
        _ => vec![map(Cells::Mean, &reduced.block_mean), map(Cells::Largest, &reduced.block_largest)],
    }
}

/// The whole of a table of which the rows of a half start at the diagonal.
fn square(rows: &Pairs, half: bool) -> Pairs {
    if !half {
        return rows.clone();
    }
    let at = |i: usize, j: usize| rows[i.min(j)].get(i.max(j) - i.min(j)).copied().flatten();
    (0..rows.len()).map(|i| (0..rows.len()).map(|j| at(i, j)).collect()).collect()
}

/// The ends of a scale for `values`: round, from 0 unless there are negative ones, and up to `most`.
pub fn scale(values: impl IntoIterator<Item = Option<f64>> + Clone, most: f64) -> (f64, f64) {
    let lo = smallest(values.clone()).filter(|x| *x < 0.0).map_or(0.0, round_down);
    (lo, largest(values).filter(|x| *x > 0.0).map_or(1.0, |x| round_up(x).min(most)))
}

/// A table of pairs among a figure's choices.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its panel.
    pub panel: usize,
    /// Its option of each select.
    pub key: Vec<String>,
    /// The name that those with one scale have in common.
    pub group: String,
    /// The pairs.
    pub pairs: &'a KeptPairs,
    /// The figures in one line.
    pub note: String,
    /// The value that chance gives.
    pub null: Option<f64>,
    /// The value that the control gives.
    pub control: Option<f64>,
}

/// How the tables of a figure are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// Panels in a row.
    pub columns: usize,
    /// The meaning of the diagonal.
    pub diagonal: Diagonal,
    /// Where scales end at most.
    pub most: f64,
}

/// Heat maps to choose among, of `entries` by panel, whose words are `words`. Where there are blocks, one more choice
/// is what a cell is.
pub fn figure(
    about: About,
    drawn: Drawn,
    (mut selects, mut chosen): (Vec<(String, Vec<String>)>, Vec<String>),
    words: Vec<Words>,
    entries: &[Entry],
) -> Option<Figure> {
    let all: Vec<(&Entry, Map)> =
        entries.iter().flat_map(|e| maps(e.pairs, drawn.diagonal).into_iter().map(move |map| (e, map))).collect();
    let blocks = all.iter().any(|(_, map)| map.cells != Cells::Pairs);
    let choices = if blocks { vec![Cells::Mean, Cells::Largest] } else { vec![Cells::Pairs] };
    // Beside blocks, the pairs of a few experts stand for either.
    let fits = |map: &Map, cells| map.cells == cells || map.cells == Cells::Pairs;
    if blocks {
        selects.push(("cells".into(), choices.iter().map(|c| c.name().to_owned()).collect()));
        chosen.push(choices[0].name().into());
    }
    let mut values: BTreeMap<(&str, Cells), Vec<Option<f64>>> = BTreeMap::new();
    let mut tables: Vec<BTreeMap<Vec<String>, Table>> = words.iter().map(|_| BTreeMap::new()).collect();
    for &cells in &choices {
        for (e, map) in all.iter().filter(|(_, map)| fits(map, cells)) {
            let values = values.entry((&e.group, cells)).or_default();
            values.extend(map.telling(drawn.diagonal).chain([e.null, e.control]));
        }
        for (e, map) in all.iter().filter(|(_, map)| fits(map, cells)) {
            let ends = scale(values[&(e.group.as_str(), cells)].iter().copied(), drawn.most);
            let marks = Table {
                note: e.note.clone(),
                null: e.null,
                control: e.control,
                ..map.clone().table(drawn.diagonal, ends)
            };
            let key = e.key.iter().cloned().chain(blocks.then(|| cells.name().to_owned())).collect();
            tables[e.panel].insert(key, marks);
        }
    }
    let panels = words.into_iter().zip(tables).map(|(words, tables)| HeatPanel { words, tables });
    Figure::heat(about, drawn.columns, selects, chosen, panels.collect())
}

/// A pair of a list: whose, the experts, the value, what chance gives.
pub type Listed = (String, (usize, usize, f64), Option<f64>);

/// The largest pairs of many tables, each table's of up to 16; the first of equals first.
pub fn list<'a>(tables: impl Iterator<Item = (String, &'a KeptPairs, Option<f64>)>, most: usize) -> Vec<Listed> {
    let mut all: Vec<Listed> = tables
        .flat_map(|(whose, pairs, null)| {
            pairs.reduced(Diagonal::Trivial).top.into_iter().map(move |pair| (whose.clone(), pair, null))
        })
        .collect();
    all.sort_by(|a, b| b.1.2.total_cmp(&a.1.2));
    all.truncate(most);
    all
}

/// The list as a table; `what` says whose the pairs are, and `things` what they are of.
pub fn listed(what: &str, things: &str, pairs: &[Listed]) -> maud::Markup {
    let row =
        |(whose, (i, j, x), null): &Listed| vec![whose.clone(), format!("{i} and {j}"), show(Some(*x)), show(*null)];
    table(&[what, things, "similarity", "chance"], &pairs.iter().map(row).collect::<Vec<_>>())
}
