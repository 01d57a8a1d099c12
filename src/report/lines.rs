//! Line charts: values over layers, over singular directions, over steps.

use maud::{Markup, html};

use super::colour;
use super::number::{coordinate, finite, largest, smallest, tick_label, tick_step};
use super::svg::{Panel, WIDTH, panel, shorten, text_width};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// One of a few: a colour.
    Colour(usize),
    /// One of many in order, 0 to 1: a colour of the scale.
    Graded(f64),
    /// What chance gives.
    Chance,
    /// What the control gives.
    Control,
}

/// One line; gaps where a value is undefined.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub label: String,
    /// Points by rising x.
    pub points: Vec<(f64, Option<f64>)>,
    /// How it looks.
    pub look: Look,
}

impl Line {
    /// A line.
    pub fn new(label: impl Into<String>, look: Look, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { label: label.into(), points, look }
    }

    /// Whether any value is defined.
    pub fn is_drawn(&self) -> bool {
        self.points.iter().any(|p| finite(p.1).is_some())
    }
}

/// A line to draw: its name, its look, and the value of a row.
pub type Named<'a, T> = (&'a str, Look, fn(&T) -> Option<f64>);

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it is.
    pub label: String,
    /// Its ends.
    pub range: (f64, f64),
    /// Whether equal steps are equal ratios.
    pub log: bool,
    /// Whether only whole numbers are marked.
    pub whole: bool,
}

impl Axis {
    /// From 0, or below where there are negative values, to a round number; the same for all of `charts`.
    pub fn values(label: &str, charts: &[Vec<Line>]) -> Self {
        let all = || charts.iter().flatten().flat_map(|l| l.points.iter().map(|p| p.1));
        let hi = largest(all()).filter(|h| *h > 0.0).unwrap_or(0.0);
        let lo = smallest(all()).filter(|l| *l < 0.0).unwrap_or(0.0);
        // The ends are ticks.
        let step = if hi > lo { tick_step(hi - lo, TICKS) } else { 1.0 };
        let (lo, hi) = ((lo / step + 1e-9).floor() * step, ((hi / step - 1e-9).ceil() * step).max(step));
        Self { label: label.into(), range: (lo, hi), log: false, whole: false }
    }

    /// Round numbers around the values, without 0.
    pub fn close(label: &str, charts: &[Vec<Line>]) -> Self {
        let all = || charts.iter().flatten().flat_map(|l| l.points.iter().map(|p| p.1));
        let (lo, hi) = (smallest(all()).unwrap_or(0.0), largest(all()).unwrap_or(1.0));
        let step = tick_step((hi - lo).max(1e-9), 5);
        Self {
            label: label.into(),
            range: ((lo / step).floor() * step, (hi / step).ceil() * step),
            log: false,
            whole: false,
        }
    }

    /// Over whole numbers.
    pub fn numbers(label: &str, charts: &[Vec<Line>]) -> Self {
        let all = || charts.iter().flatten().flat_map(|l| l.points.iter().map(|p| Some(p.0)));
        let (lo, hi) = (smallest(all()).unwrap_or(0.0), largest(all()).unwrap_or(1.0));
        let hi = if hi > lo { hi } else { lo + 1.0 };
        Self { label: label.into(), range: (lo, hi), log: false, whole: true }
    }

    /// The same axis with equal ratios as equal steps; `smallest` bounds it from below.
    pub fn logarithmic(label: &str, range: (f64, f64)) -> Self {
        Self { label: label.into(), range, log: true, whole: false }
    }

    fn share(&self, x: f64) -> f64 {
        let at = |x: f64| if self.log { x.max(f64::MIN_POSITIVE).log10() } else { x };
        let (lo, hi) = (at(self.range.0), at(self.range.1));
        if hi > lo { ((at(x) - lo) / (hi - lo)).clamp(0.0, 1.0) } else { 0.5 }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let (lo, hi) = self.range;
        if self.log {
            let powers = (lo.log10().floor() as i32..=hi.log10().ceil() as i32).map(|p| 10f64.powi(p));
            let fine = hi / lo < 300.0;
            return powers
                .flat_map(|p| [p, 3.0 * p].into_iter().take(if fine { 2 } else { 1 }))
                .filter(|t| *t >= lo * 0.999 && *t <= hi * 1.001)
                .map(|t| (t, if t >= 1.0 { format!("{t:.0}") } else { tick_label(t, t) }))
                .collect();
        }
        let step = tick_step(hi - lo, TICKS);
        let step = if self.whole { step.max(1.0).round() } else { step };
        let first = (lo / step - 1e-9).ceil() as i64;
        (first..)
            .map(|i| i as f64 * step)
            .take_while(|t| *t <= hi + 1e-9 * step)
            .map(|t| (t, tick_label(t, step)))
            .collect()
    }

    fn words(&self) -> String {
        format!("{} {} {}", self.range.0, self.range.1, u8::from(self.log))
    }
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Its heading.
    pub heading: &'a str,
    /// Across.
    pub x: &'a Axis,
    /// Upwards.
    pub y: &'a Axis,
    /// The lines.
    pub lines: &'a [Line],
    /// A bound across the chart: where, and its name.
    pub bound: Option<(f64, String)>,
    /// The ends of a graded scale: `layer 0`, `layer 23`.
    pub grades: Option<(String, String)>,
}

/// About so many ticks an axis.
const TICKS: usize = 4;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 44.0;
const HEIGHT: f64 = 170.0;

/// Draws the chart.
pub fn draw(chart: &Chart) -> Panel {
    let (x, y) = (chart.x, chart.y);
    let right = WIDTH - RIGHT;
    let px = |v: f64| LEFT + 4.0 + x.share(v) * (right - LEFT - 8.0);
    let py = |v: f64| TOP + HEIGHT - y.share(v) * HEIGHT;
    let drawn: Vec<&Line> = chart.lines.iter().filter(|l| l.is_drawn()).collect();
    let (legend, legend_height) = legend(&drawn, chart.grades.as_ref());
    let end = TOP + HEIGHT;
    let content = html! {
        @if chart.heading != y.label { text x="0" y="29" { (y.label) } }
        @for (t, label) in y.ticks() {
            line.rule x1=(LEFT) x2=(right) y1=(coordinate(py(t))) y2=(coordinate(py(t))) {}
            text x=(LEFT - 5.0) y=(coordinate(py(t) + 4.0)) text-anchor="end" { (label) }
        }
        line.axis x1=(LEFT) x2=(right) y1=(end) y2=(end) {}
        @for (t, label) in x.ticks() {
            line.axis x1=(coordinate(px(t))) x2=(coordinate(px(t))) y1=(end) y2=(end + 3.0) {}
            text x=(coordinate(px(t))) y=(end + 15.0) text-anchor="middle" { (label) }
        }
        text x=(coordinate((LEFT + right) / 2.0)) y=(end + 30.0) text-anchor="middle" { (x.label) }
        @if let Some((at, name)) = &chart.bound {
            line.bound x1=(coordinate(px(*at))) x2=(coordinate(px(*at))) y1=(TOP) y2=(end) {}
            // At the foot: curves of singular values start at the top.
            text x=(coordinate(px(*at) + 4.0)) y=(end - 6.0) { (name) }
        }
        @for line in &drawn { (draw_line(line, &px, &py)) }
        g transform=(format!("translate(0 {})", end + 40.0)) { (legend) }
    };
    let names: Vec<&str> = drawn.iter().map(|l| l.label.as_str()).take(8).collect();
    let heading = if chart.heading == y.label { String::new() } else { format!("{}: ", chart.heading) };
    let attributes = [
        ("aria-label", format!("Line chart. {heading}{} over {}. Lines: {}.", y.label, x.label, names.join("; "))),
        ("data-x", format!("{} {} {}", LEFT + 4.0, right - 4.0, x.words())),
        ("data-y", format!("{end} {TOP} {}", y.words())),
        ("data-name", x.label.clone()),
    ];
    panel(end + 44.0 + legend_height, chart.heading, &attributes, &content)
}

fn draw_line(line: &Line, px: &dyn Fn(f64) -> f64, py: &dyn Fn(f64) -> f64) -> Markup {
    let mut runs: Vec<Vec<String>> = vec![Vec::new()];
    for &(x, y) in &line.points {
        match finite(y) {
            Some(y) => {
                let last = runs.len() - 1;
                runs[last].push(format!("{},{}", coordinate(px(x)), coordinate(py(y))));
            }
            None => runs.push(Vec::new()),
        }
    }
    // Few points are marked each; of many, only those without neighbours, which a line cannot show.
    let few = line.points.len() <= 16 && matches!(line.look, Look::Colour(_));
    let dots = runs.iter().filter(|r| few || r.len() == 1).flatten().filter_map(|p| p.split_once(','));
    html! {
        g class=(class(line.look)) style=[style(line.look)] data-label=(line.label) {
            title { (line.label) }
            @for run in runs.iter().filter(|r| r.len() > 1) { polyline points=(run.join(" ")) {} }
            @for (cx, cy) in dots { circle cx=(cx) cy=(cy) r="2.6" {} }
        }
    }
}

fn class(look: Look) -> String {
    match look {
        Look::Colour(i) => format!("s c{}", i % 6),
        Look::Graded(_) => "s thin".into(),
        Look::Chance => "s chance".into(),
        Look::Control => "s control".into(),
    }
}

fn style(look: Look) -> Option<String> {
    match look {
        Look::Graded(t) => Some(format!("--c:{}", grade(t))),
        _ => None,
    }
}

/// The colour of a graded line: the ends of the scale are hard to see as lines, one on a dark page and one on a light one.
fn grade(t: f64) -> String {
    colour::step(((0.2 + 0.68 * t) * colour::STEPS as f64) as usize)
}

/// Swatches and names in rows, and their height.
fn legend(lines: &[&Line], grades: Option<&(String, String)>) -> (Markup, f64) {
    let (mut x, mut y) = (0.0, 10.0);
    let mut placed = Vec::new();
    for line in lines.iter().filter(|l| !matches!(l.look, Look::Graded(_))) {
        let label = shorten(&line.label, 48);
        let width = 26.0 + text_width(&label) + 14.0;
        if x > 0.0 && x + width - 14.0 > WIDTH {
            (x, y) = (0.0, y + 16.0);
        }
        placed.push((x, y, label, line.look));
        x += width;
    }
    let top = if placed.is_empty() { 10.0 } else { y + 16.0 };
    let graded = grades.filter(|_| lines.iter().any(|l| matches!(l.look, Look::Graded(_))));
    let height = if graded.is_some() { top + 4.0 } else { y + 4.0 };
    let markup = html! {
        @for (x, y, label, look) in &placed {
            g class=(class(*look)) style=[style(*look)] {
                polyline points=(format!("{x},{} {},{}", y - 4.0, x + 20.0, y - 4.0)) {}
            }
            text x=(coordinate(x + 26.0)) y=(y) { (label) }
        }
        @if let Some((first, last)) = graded {
            text x="92" y=(top) text-anchor="end" { (first) }
            @for i in 0..24 {
                rect x=(98 + 5 * i) y=(top - 8.0) width="5.2" height="8" fill=(grade(i as f64 / 23.0)) {}
            }
            text x="224" y=(top) { (last) }
        }
    };
    (markup, height)
}
