//! Line charts: values over layers, over singular directions, over steps.

use maud::{Markup, html};

pub use super::axis::Axis;
pub use super::line::{Line, Look};
use super::line::{class, style};
use super::number::{coordinate, finite};
use super::svg::{Panel, WIDTH, panel};

/// A line to draw: its name, its look, and the value of a row.
pub type Named<'a, T> = (&'a str, Look, fn(&T) -> Option<f64>);

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
}

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
    };
    let names: Vec<&str> = drawn.iter().map(|l| l.label.as_str()).take(8).collect();
    let heading = if chart.heading == y.label { String::new() } else { format!("{}: ", chart.heading) };
    let attributes = [
        ("aria-label", format!("Line chart. {heading}{} over {}. Lines: {}.", y.label, x.label, names.join("; "))),
        ("data-x", format!("{} {} {}", LEFT + 4.0, right - 4.0, x.words())),
        ("data-y", format!("{end} {TOP} {}", y.words())),
        ("data-name", x.label.clone()),
    ];
    panel(end + 36.0, chart.heading, &attributes, &content)
}

fn draw_line(line: &Line, px: &dyn Fn(f64) -> f64, py: &dyn Fn(f64) -> f64) -> Markup {
    let mut runs: Vec<Vec<String>> = vec![Vec::new()];
    for &(x, y) in &line.points {
        // A point without coordinates is a gap too.
        match finite(y).filter(|_| x.is_finite()) {
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
