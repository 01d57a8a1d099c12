//! The legend of a figure: the names of its lines, once for all its charts.

use maud::{Markup, html};

use super::line::{Line, Look, class, grade, style};
use super::number::coordinate;
use super::svg::{shorten, text_width};

/// Names of lines by their looks.
#[derive(Clone, Debug, Default)]
pub struct Legend {
    /// Each name and look once: what was measured, then what it stands beside.
    entries: Vec<(String, Look)>,
    /// The ends of the scale of graded lines: `layer 0`, `layer 23`.
    grades: Option<(String, String)>,
}

/// Colours of the scale of graded lines.
const GRADES: usize = 24;

impl Legend {
    /// The legend of the `lines` of all charts.
    pub fn of<'a>(lines: impl Iterator<Item = &'a Line>, grades: Option<(String, String)>) -> Self {
        let mut legend = Self::default();
        for line in lines.filter(|l| l.is_drawn()) {
            let entry = (shorten(&line.label, 48), line.look);
            if matches!(line.look, Look::Graded(_)) {
                legend.grades.clone_from(&grades);
            } else if !legend.entries.contains(&entry) {
                legend.entries.push(entry);
            }
        }
        legend
            .entries
            .sort_by_key(|(_, look)| matches!(look, Look::Chance) as u8 + 2 * matches!(look, Look::Control) as u8);
        legend
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.grades.is_none()
    }

    /// The legend in the page, which breaks its lines itself.
    pub fn html(&self) -> Markup {
        let scale: Vec<String> = (0..GRADES).map(|i| grade(i as f64 / (GRADES - 1) as f64)).collect();
        html! {
            @if !self.is_empty() {
                ul.legend {
                    @if let Some((first, last)) = &self.grades {
                        li { (first) " " i.scale style=(format!("background:linear-gradient(90deg,{})", scale.join(","))) {} " " (last) }
                    }
                    @for (name, look) in &self.entries {
                        li { i class=(class(*look)) {} (name) }
                    }
                }
            }
        }
    }

    /// The legend of a file `width` wide: swatches and names in rows, and their height.
    pub fn svg(&self, width: f64) -> (Markup, f64) {
        let (mut x, mut y) = (0.0, 10.0);
        let mut placed = Vec::new();
        let mut place = |needed: f64| {
            if x > 0.0 && x + needed > width {
                (x, y) = (0.0, y + 16.0);
            }
            let here = (x, y);
            x += needed + 14.0;
            here
        };
        let scale = self.grades.as_ref().map(|(first, last)| {
            let start = text_width(first);
            (place(start + 132.0 + text_width(last)), start, first, last)
        });
        for (name, look) in &self.entries {
            placed.push((place(26.0 + text_width(name)), name, *look));
        }
        let markup = html! {
            @if let Some(((x, y), start, first, last)) = &scale {
                text x=(coordinate(x + start)) y=(y) text-anchor="end" { (first) }
                @for i in 0..GRADES {
                    rect x=(coordinate(x + start + 6.0 + 5.0 * i as f64)) y=(y - 8.0) width="5.2" height="8" fill=(grade(i as f64 / (GRADES - 1) as f64)) {}
                }
                text x=(coordinate(x + start + 132.0)) y=(y) { (last) }
            }
            @for ((x, y), name, look) in &placed {
                g class=(class(*look)) style=[style(*look)] {
                    polyline points=(format!("{x},{} {},{}", y - 4.0, x + 20.0, y - 4.0)) {}
                }
                text x=(coordinate(x + 26.0)) y=(y) { (name) }
            }
        };
        (markup, if self.is_empty() { 0.0 } else { y + 14.0 })
    }
}
