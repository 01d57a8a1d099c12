//! A figure: panels side by side, what they show, what chance would give, and where the definition comes from.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Serialize;

use super::heat::{self, Packed, Table, Words};
use super::legend::Legend;
use super::lines::{self, Axis, Chart, Line};
use super::sheet;
use super::svg::Panel;

/// Panels with their words.
#[derive(Debug)]
pub struct Figure {
    /// Its name: anchor in the page and name of its file.
    pub id: String,
    /// Its title.
    pub title: String,
    /// A text on what it shows and how to read it.
    pub shows: String,
    /// A text on what chance and the control are, or why there is none.
    pub chance: String,
    /// Where the definition comes from.
    pub source: &'static str,
    /// The drawings.
    pub panels: Vec<Panel>,
    /// Panels in a row, where there is room.
    pub columns: usize,
    /// The tables to choose from, if it is a heat map with choices.
    pub choice: Option<Choice>,
    /// The names of its lines.
    pub legend: Legend,
    /// Tables below it: what they are, whether they are open, and their rows.
    pub tables: Vec<(&'static str, bool, Markup)>,
}

/// The choices of a heat map: the page's script redraws the panels.
#[derive(Debug, Serialize)]
pub struct Choice {
    /// Name and options of each select.
    pub selects: Vec<(String, Vec<String>)>,
    /// The option chosen at first, of each select.
    pub chosen: Vec<String>,
    /// Per panel, tables by their options joined by `|`.
    pub panels: Vec<BTreeMap<String, Packed>>,
    /// Per panel, names of the rows where they have some.
    pub names: Vec<Vec<String>>,
    /// Tables that the page has no room for.
    pub left_out: usize,
}

/// Bytes of packed cells that one figure may put into the page; beyond that the tables least above chance are left out.
const ROOM: usize = 2_500_000;

/// One panel of a heat map with choices.
#[derive(Debug)]
pub struct HeatPanel {
    /// Its words.
    pub words: Words,
    /// Its tables by option, one per select.
    pub tables: BTreeMap<Vec<String>, Table>,
}

/// The words of a figure.
#[derive(Debug)]
pub struct About<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its title.
    pub title: &'a str,
    /// A text on what it shows.
    pub shows: String,
    /// A text on what chance gives.
    pub chance: String,
    /// Where the definition comes from.
    pub source: &'static str,
}

impl Figure {
    fn new(about: About, columns: usize, panels: Vec<Panel>) -> Self {
        let About { id, title, shows, chance, source } = about;
        Self {
            id: id.into(),
            title: title.into(),
            shows,
            chance,
            source,
            panels,
            columns,
            choice: None,
            legend: Legend::default(),
            tables: Vec::new(),
        }
    }

    /// Line charts that share their axes; none where nothing is defined.
    pub fn charts(about: About, columns: usize, x: &Axis, y: &Axis, charts: &[(String, Vec<Line>)]) -> Option<Self> {
        let charts = charts.iter().map(|(heading, lines)| Chart { heading, x, y, lines, bound: None });
        Self::charts_with(about, columns, None, charts)
    }

    /// Line charts with a line a layer, graded over all `layers`, that share their axes; `bound` marks a value of x.
    pub fn by_layer(
        about: About,
        columns: usize,
        (x, y): (&Axis, &Axis),
        charts: &[(String, Vec<Line>)],
        layers: &[usize],
        bound: Option<(f64, String)>,
    ) -> Option<Self> {
        let grades = (format!("layer {}", layers.first()?), format!("layer {}", layers.last()?));
        let of_layers = charts.iter().map(|(heading, lines)| Chart { heading, x, y, lines, bound: bound.clone() });
        Self::charts_with(about, columns, Some(grades), of_layers)
    }

    /// Line charts with one legend.
    fn charts_with<'a>(
        about: About,
        columns: usize,
        grades: Option<(String, String)>,
        charts: impl Iterator<Item = Chart<'a>>,
    ) -> Option<Self> {
        let measured = |l: &Line| l.is_drawn() && !matches!(l.look, lines::Look::Chance | lines::Look::Control);
        let charts: Vec<Chart> = charts.filter(|c| c.lines.iter().any(measured)).collect();
        let legend = Legend::of(charts.iter().flat_map(|c| c.lines), grades);
        let panels: Vec<Panel> = charts.iter().map(lines::draw).collect();
        (!panels.is_empty()).then(|| Self { legend, ..Self::new(about, columns, panels) })
    }

    /// Heat maps to choose among by `selects`; `chosen` is drawn, and all are in the page as far as there is room.
    pub fn heat(
        about: About,
        columns: usize,
        selects: Vec<(String, Vec<String>)>,
        chosen: Vec<String>,
        panels: Vec<HeatPanel>,
    ) -> Option<Self> {
        let mut drawn = Vec::new();
        let mut kept: Vec<(Words, BTreeMap<Vec<String>, Table>)> = Vec::new();
        for HeatPanel { words, tables } in panels {
            // A panel without the chosen table starts with another of its own.
            let Some((key, table)) = tables.get_key_value(&chosen).or_else(|| tables.iter().next()) else { continue };
            let slot = format!("{}.{}", about.id, kept.len());
            drawn.push(heat::draw(table, &words, &slot, &key.join("|")));
            kept.push((words, tables));
        }
        if drawn.is_empty() {
            return None;
        }
        let names = kept.iter().map(|(words, _)| words.rows.clone()).collect();
        let (panels, left_out) = pack(&chosen, kept);
        let mut figure = Self::new(about, columns, drawn);
        figure.choice = Some(Choice { selects, chosen, panels, names, left_out });
        Some(figure)
    }

    /// Adds the numbers as a table.
    pub fn with_numbers(mut self, numbers: Markup) -> Self {
        self.tables.push(("The numbers", false, numbers));
        self
    }

    /// Adds a list below the drawings, under its name; `open` where it is seen at once.
    pub fn with_list(mut self, name: &'static str, open: bool, rows: Markup) -> Self {
        self.tables.push((name, open, rows));
        self
    }

    /// The figure as a file of its own.
    pub fn file(&self) -> String {
        sheet::file(&self.title, self.columns, &self.panels, &self.legend)
    }

    /// The figure in the page.
    pub fn html(&self) -> Markup {
        // Figures of one panel stand beside each other.
        let class = match self.panels.len() {
            1 => "one",
            2 => "two",
            _ => "many",
        };
        html! {
            figure.(class) id=(self.id) {
                h3 { (self.title) }
                @if let Some(choice) = &self.choice { (choice.html(&self.id)) }
                (self.legend.html())
                div.panels { @for p in &self.panels { div.panel { (p.svg) } } }
                figcaption {
                    p { (self.shows) }
                    p { strong { "Chance. " } (self.chance) " " span.source { "Definition: " (self.source) "." } }
                }
                @for (name, open, rows) in &self.tables {
                    details open=[open.then_some("open")] { summary { (name) } div.wide { (rows) } }
                }
            }
        }
    }
}

/// The tables for the page: the chosen ones first, then by how far they are above chance, until the room is used up.
fn pack(
    chosen: &[String],
    panels: Vec<(Words, BTreeMap<Vec<String>, Table>)>,
) -> (Vec<BTreeMap<String, Packed>>, usize) {
    let excess = |t: &Table| {
        let cells = t.cells.iter().flatten().copied();
        super::number::mean(cells).unwrap_or(f64::MIN) - t.null.unwrap_or(0.0)
    };
    let mut order: Vec<(bool, f64, &Vec<String>, usize)> = Vec::new();
    for (i, (_, tables)) in panels.iter().enumerate() {
        order.extend(tables.iter().map(|(key, t)| (key != chosen, -excess(t), key, i)));
    }
    order.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(b.2)).then(a.3.cmp(&b.3)));
    let mut packed: Vec<BTreeMap<String, Packed>> = panels.iter().map(|_| BTreeMap::new()).collect();
    let (mut used, mut left_out) = (0, 0);
    for (_, _, key, i) in order {
        let table = &panels[i].1[key];
        let size = table.weight();
        if used + size > ROOM {
            left_out += 1;
            continue;
        }
        used += size;
        packed[i].insert(key.join("|"), table.pack());
    }
    (packed, left_out)
}

impl Choice {
    /// The selects; the script shows them, as they do nothing without it.
    fn html(&self, id: &str) -> Markup {
        let choices = self.selects.iter().zip(&self.chosen).filter(|((_, options), _)| options.len() > 1);
        html! {
            div.choices hidden="hidden" data-for=(id) {
                @for ((name, options), chosen) in choices {
                    label { (name) " "
                        select data-name=(name) {
                            @for o in options {
                                @if o == chosen { option selected="selected" { (o) } } @else { option { (o) } }
                            }
                        }
                    }
                }
            }
            @if self.left_out > 0 {
                p.hint { (self.left_out) " tables, those least above chance, are in analysis.json only: the page would grow too large." }
            }
        }
    }
}

/// A table of numbers: the first column names the row.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Markup {
    html! {
        table {
            thead { tr { @for h in head { th scope="col" { (h) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (i, cell) in row.iter().enumerate() {
                            @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                        }
                    }
                }
            }
        }
    }
}
