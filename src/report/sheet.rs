//! A figure as a file of its own: its panels in rows, under a title and a legend.

use maud::{Markup, PreEscaped, html};

use super::legend::Legend;
use super::number::coordinate;
use super::svg::{Panel, STYLE, WIDTH, text_width};

/// Panels in rows of `columns`, under a title and a legend, as one SVG file.
pub fn file(title: &str, columns: usize, panels: &[Panel], legend: &Legend) -> String {
    let gap = 24.0;
    let columns = columns.clamp(1, panels.len().max(1));
    let (legend, below) = legend.svg(columns as f64 * (WIDTH + gap) - gap);
    let top = 44.0 + below;
    let heights: Vec<f64> =
        panels.chunks(columns).map(|row| row.iter().map(|p| p.height).fold(0.0, f64::max) + gap).collect();
    // A title of 16 px may be longer than its drawings are wide.
    let width = (columns as f64 * (WIDTH + gap) + gap).max(2.0 * gap + 1.5 * text_width(title));
    let height = top + heights.iter().sum::<f64>();
    let mut y = top;
    let rows = panels.chunks(columns).zip(&heights).map(|(row, h)| {
        let here = y;
        y += h;
        html! {
            @for (i, p) in row.iter().enumerate() {
                g transform=(format!("translate({} {})", coordinate(gap + i as f64 * (WIDTH + gap)), coordinate(here))) { (p.svg) }
            }
        }
    });
    let rows: Vec<Markup> = rows.collect();
    let open = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" data-by="sdmoe" viewBox="0 0 {w} {h}" width="{w}" height="{h}">"#,
        w = coordinate(width),
        h = coordinate(height)
    );
    let svg = html! {
        (PreEscaped(open))
        title { (title) }
        style { (PreEscaped(STYLE)) }
        rect.paper width="100%" height="100%" {}
        text.figure x=(gap) y="28" { (title) }
        g transform=(format!("translate({gap} 42)")) { (legend) }
        @for row in &rows { (row) }
        (PreEscaped("</svg>\n"))
    };
    svg.into_string()
}
