//! A line of a chart: its points, and how it looks in the chart and in the legend.

use super::colour;
use super::number::finite;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// One of a few: a colour.
    Colour(usize),
    /// One of many in order, 0 to 1: a colour of the scale.
    Graded(f64),
    /// The value that chance gives.
    Chance,
    /// The value that the control gives.
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

/// The class of a line's look.
pub fn class(look: Look) -> String {
    match look {
        Look::Colour(i) => format!("s c{}", i % 6),
        Look::Graded(_) => "s thin".into(),
        Look::Chance => "s chance".into(),
        Look::Control => "s control".into(),
    }
}

/// Returns the style that a line's look adds to its class.
pub fn style(look: Look) -> Option<String> {
    match look {
        Look::Graded(t) => Some(format!("--c:{}", grade(t))),
        _ => None,
    }
}

/// The colour of a graded line: the ends of the scale are hard to see as lines, one on a dark page and one on a light
/// one.
pub fn grade(t: f64) -> String {
    colour::step(((0.2 + 0.68 * t) * colour::STEPS as f64) as usize)
}
