//! Heat maps: experts by experts, drawn here and redrawn by the page's script for another choice of layer, matrix or
//! side.

use std::collections::BTreeMap;
use std::fmt::Write;

use maud::{Markup, PreEscaped, html};
use serde::Serialize;

use super::colour;
use super::number::{coordinate, finite, show, tick_label, tick_step};
use super::svg::{Panel, WIDTH, panel, shorten, text_width};

/// Values of one heat map, with the scale that it shares with those it is compared with.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Rows of cells, all of one length.
    pub cells: Vec<Vec<Option<f64>>>,
    /// Whether the diagonal is a thing beside itself, which says nothing.
    pub diagonal_is_trivial: bool,
    /// How many experts a column, and of a square table a row, stands for; 0 and 1 for one.
    pub block: usize,
    /// How many experts there are, where they stand in blocks.
    pub count: usize,
    /// The value of the scale's dark end.
    pub lo: f64,
    /// The value of its bright end.
    pub hi: f64,
    /// The figures in one line.
    pub note: String,
    /// The value that chance gives.
    pub null: Option<f64>,
    /// The value that the control gives.
    pub control: Option<f64>,
}

/// The words around a heat map.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// The panel's heading.
    pub heading: String,
    /// The name of a row: `expert`, `router vector`, `layer`.
    pub row: String,
    /// The name of a column.
    pub column: String,
    /// Names of the rows in place of numbers.
    pub rows: Vec<String>,
}

const TOP: f64 = 38.0;
const RIGHT: f64 = 12.0;
/// The ends of the legend's bar: its numbers stand beside it.
const BAR: (f64, f64) = (64.0, 280.0);
/// Values of a cell in the page: 12 bits, of which the last says undefined.
const LEVELS: f64 = 4094.0;
const UNDEFINED: u32 = 4095;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A table as the page's script reads it.
#[derive(Debug, Serialize)]
pub struct Packed {
    rows: usize,
    cols: usize,
    /// Only what is right of the diagonal is there, and the diagonal unless it is trivial.
    half: bool,
    trivial: bool,
    /// Experts of a row or column, and of all.
    block: usize,
    count: usize,
    lo: f64,
    hi: f64,
    ends: [String; 2],
    note: String,
    chance: Mark,
    control: Mark,
    /// Two digits of base 64 a cell, by rows.
    data: String,
}

/// A mark on the legend.
#[derive(Debug, Serialize)]
struct Mark {
    x: f64,
    text: String,
}

impl Table {
    fn columns(&self) -> usize {
        self.cells.first().map_or(0, Vec::len)
    }

    /// Whether the half right of the diagonal says all.
    fn is_half(&self) -> bool {
        let n = self.cells.len();
        let at = |i: usize, j: usize| finite(self.cells[i].get(j).copied().flatten());
        let same = |a: Option<f64>, b: Option<f64>| match (a, b) {
            // Half a level of the packed values.
            (Some(a), Some(b)) => (a - b).abs() <= 0.5 * (self.hi - self.lo) / LEVELS,
            (a, b) => a == b,
        };
        (self.diagonal_is_trivial || self.block > 1)
            && n == self.columns()
            && (0..n).all(|i| (0..i).all(|j| same(at(i, j), at(j, i))))
    }

    /// The table for the page's script.
    pub fn pack(&self) -> Packed {
        let half = self.is_half();
        let mut data = String::new();
        for (i, row) in self.cells.iter().enumerate() {
            for j in if half { i + usize::from(self.diagonal_is_trivial) } else { 0 }..self.columns() {
                // A row that is too short has undefined cells.
                let x = row.get(j).copied().flatten();
                let level = finite(x).map_or(UNDEFINED, |x| {
                    let share = if self.hi > self.lo { (x - self.lo) / (self.hi - self.lo) } else { 0.0 };
                    (share.clamp(0.0, 1.0) * LEVELS).round() as u32
                });
                data.push(DIGITS[(level >> 6) as usize] as char);
                data.push(DIGITS[(level & 63) as usize] as char);
            }
        }
        Packed {
            rows: self.cells.len(),
            cols: self.columns(),
            half,
            trivial: self.diagonal_is_trivial,
            block: self.block.max(1),
            count: self.count,
            lo: self.lo,
            hi: self.hi,
            ends: self.ends(),
            note: self.note.clone(),
            chance: self.mark("chance", self.null),
            control: self.mark("control", self.control),
            data,
        }
    }

    /// Bytes that the table takes in the page, about.
    pub fn weight(&self) -> usize {
        let cells = self.cells.iter().map(Vec::len).sum::<usize>();
        if self.is_half() { cells } else { 2 * cells }
    }

    /// The labels of the scale's ends.
    fn ends(&self) -> [String; 2] {
        let step = tick_step(self.hi - self.lo, 4);
        // An end between two ticks needs a decimal more.
        let between = |x: f64| ((x / step).round() * step - x).abs() > 1e-6 * step;
        let step = if between(self.lo) || between(self.hi) { step / 10.0 } else { step };
        [self.lo, self.hi].map(|x| tick_label(x, step))
    }

    fn mark(&self, name: &str, x: Option<f64>) -> Mark {
        let place = |x: f64| {
            let share = if self.hi > self.lo { (x - self.lo) / (self.hi - self.lo) } else { 0.0 };
            (BAR.0 + share.clamp(0.0, 1.0) * (BAR.1 - BAR.0)).round()
        };
        match finite(x) {
            Some(v) => {
                Mark { x: place(v), text: format!("{name} {}", show(x)) + if v > self.hi { " \u{2192}" } else { "" } }
            }
            None => Mark { x: BAR.0, text: String::new() },
        }
    }

    /// The cells as unit squares, one path a colour.
    fn paths(&self) -> Markup {
        let mut by_class: BTreeMap<String, String> = BTreeMap::new();
        for (i, row) in self.cells.iter().enumerate() {
            for (j, &x) in row.iter().enumerate() {
                let class = match finite(x) {
                    _ if self.diagonal_is_trivial && i == j => r#"class="same""#.into(),
                    None => r#"class="undefined""#.into(),
                    Some(x) => format!(r#"fill="{}""#, colour::step(colour::step_of(x, self.lo, self.hi))),
                };
                let path = by_class.entry(class).or_default();
                // Writing to a string cannot fail.
                let _ = write!(path, "M{j} {i}h1v1h-1z");
            }
        }
        let paths: String = by_class.iter().map(|(class, d)| format!(r#"<path {class} d="{d}"/>"#)).collect();
        PreEscaped(paths)
    }
}

/// Draws `table`; `slot` names the panel to the page's script, and `key` the table.
pub fn draw(table: &Table, words: &Words, slot: &str, key: &str) -> Panel {
    let (rows, columns) = (table.cells.len(), table.columns());
    let block = table.block.max(1);
    // Numbers of more than two digits need more room beside the row's name.
    let digits = text_width(&(rows * block).to_string()) - text_width("00");
    let left = if words.rows.is_empty() { 34.0 + digits.max(0.0) } else { 118.0 };
    let width = WIDTH - left - RIGHT;
    let square = rows == columns;
    let named = |what: &str| if block > 1 { format!("{what}, {block} a cell") } else { what.to_owned() };
    // A name needs its line's height.
    let least = if words.rows.is_empty() { 4.0 } else { 15.0 };
    let even = width / rows.max(1) as f64;
    let cell =
        (width / columns.max(1) as f64, if square && words.rows.is_empty() { even } else { even.clamp(least, 18.0) });
    let height = cell.1 * rows.max(1) as f64;
    let end = TOP + height;
    let every = |count: usize, room: f64, least: f64| {
        // As many numbers as fit.
        let step =
            (1..).map(|i| tick_step(i as f64, 1) as usize).find(|s| *s as f64 * room >= least).unwrap_or(1).max(1);
        (0..count).step_by(step)
    };
    let content = html! {
        text.note x="0" y="29" { (table.note) }
        g.cells transform=(format!("translate({left} {TOP}) scale({} {})", coordinate4(cell.0), coordinate4(cell.1))) data-box=(format!("{left} {TOP} {} {}", coordinate(width), coordinate(height))) {
            (table.paths())
        }
        rect.rule x=(left) y=(TOP) width=(coordinate(width)) height=(coordinate(height)) {}
        @for j in every(columns, cell.0, 8.0 + text_width(&(columns * block).to_string())) {
            text x=(coordinate(left + (j as f64 + 0.5) * cell.0)) y=(coordinate(end + 13.0)) text-anchor="middle" { (j * block) }
        }
        @for i in every(rows, cell.1, 16.0) {
            text x=(left - 5.0) y=(coordinate(TOP + (i as f64 + 0.5) * cell.1 + 4.0)) text-anchor="end" {
                (words.rows.get(i).map_or_else(|| (i * block).to_string(), |name| shorten(name, 17)))
            }
        }
        text x=(coordinate(left + width / 2.0)) y=(coordinate(end + 27.0)) text-anchor="middle" { (named(&words.column)) }
        @if words.rows.is_empty() {
            text transform=(format!("translate(9 {}) rotate(-90)", coordinate(TOP + height / 2.0))) text-anchor="middle" { (named(&words.row)) }
        }
        g transform=(format!("translate(0 {})", coordinate(end + 36.0))) {
            (legend(table))
        }
    };
    let attributes = [
        ("aria-label", format!("Heat map. {}. {}.", words.heading, table.note)),
        ("data-row", words.row.clone()),
        ("data-column", words.column.clone()),
        ("data-heat", slot.to_owned()),
        ("data-key", key.to_owned()),
    ];
    panel(end + 86.0, &words.heading, &attributes, &content)
}

fn coordinate4(x: f64) -> String {
    format!("{x:.4}")
}

/// The scale with chance above and the control below it.
fn legend(table: &Table) -> Markup {
    let (chance, control) = (table.mark("chance", table.null), table.mark("control", table.control));
    let [lo, hi] = table.ends();
    let width = (BAR.1 - BAR.0) / colour::STEPS as f64;
    let anchor = |x: f64| {
        if x < 110.0 {
            "start"
        } else if x > 230.0 {
            "end"
        } else {
            "middle"
        }
    };
    let shown = |m: &Mark| if m.text.is_empty() { "none" } else { "inline" };
    html! {
        g.chance transform=(format!("translate({} 0)", chance.x)) display=(shown(&chance)) {
            path.mark d="M-4 13h8l-4 6z" {}
            text.strong y="10" text-anchor=(anchor(chance.x)) { (chance.text) }
        }
        g.cells {
            @for i in 0..colour::STEPS {
                rect x=(coordinate(BAR.0 + i as f64 * width)) y="20" width=(coordinate(width + 0.1)) height="9" fill=(colour::step(i)) {}
            }
        }
        text.lo x=(BAR.0 - 5.0) y="28" text-anchor="end" { (lo) }
        text.hi x=(BAR.1 + 5.0) y="28" { (hi) }
        g.control transform=(format!("translate({} 0)", control.x)) display=(shown(&control)) {
            path.mark d="M-4 36h8l-4 -6z" {}
            text y="47" text-anchor=(anchor(control.x)) { (control.text) }
        }
        @if table.cells.iter().flatten().any(|x| finite(*x).is_none()) {
            rect.undefined x="246" y="39" width="9" height="9" {}
            text x="260" y="47" { (super::number::UNDEFINED) }
        }
    }
}
