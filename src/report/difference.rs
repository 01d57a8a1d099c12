//! Two analyses in one table.

use maud::{Markup, html};

use super::figure::table;
use super::measures::{Measure, measures};
use super::number::{UNDEFINED, finite, percent, show, with_spread};
use super::subject::{SIDES, Subject, side};
use crate::analysis::record::{Of, Part};

const NOT_MEASURED: &str = "\u{2013}";

/// Every measure of either, and the second less the first.
pub fn section(a: &Subject, b: &Subject) -> Markup {
    let (first, second) = (measures(a), measures(b));
    // In the order of the one with more.
    let (more, less) = if second.len() > first.len() { (&second, &first) } else { (&first, &second) };
    let mut names: Vec<&str> = more.iter().map(|m| m.what.as_str()).collect();
    names.extend(less.iter().map(|m| m.what.as_str()).filter(|n| !more.iter().any(|m| m.what == *n)));
    let mut rows: Vec<Vec<String>> =
        names.into_iter().map(|name| row(name, find(&first, name), find(&second, name))).collect();
    rows.splice(0..0, unique_against_whole(a, b));
    let head = ["Mean over layers and matrices", &a.name, &b.name, "difference", "chance", "control"];
    html! {
        section id="difference" {
            h2 { "The differences" }
            p.hint { "The second less the first. A difference counts only as far as both were measured alike: see how it was measured. What was not measured has a dash." }
            div.wide.whole { (table(&head, &rows)) }
        }
    }
}

/// Where one of the two is decoupled: its unique parts against the experts of the other, which have no other part.
fn unique_against_whole(a: &Subject, b: &Subject) -> Vec<Vec<String>> {
    if a.has_unique() == b.has_unique() {
        return Vec::new();
    }
    let top = percent(a.analysis.settings.top);
    let of = |s: &Subject, on| {
        let of = if s.has_unique() { Of::Unique } else { Of::Weights };
        Measure::similarity(String::new(), s.shared(of, Part::Top, on))
    };
    let whose = if a.has_unique() { "Similarity of W_u against weights" } else { "Similarity of weights against W_u" };
    let one = |on| row(&format!("{whose}, top {top}, {}", side(on)), Some(&of(a, on)), Some(&of(b, on)));
    SIDES.map(one).into()
}

fn find<'a>(all: &'a [Measure], name: &str) -> Option<&'a Measure> {
    all.iter().find(|m| m.what == name)
}

fn row(name: &str, a: Option<&Measure>, b: Option<&Measure>) -> Vec<String> {
    let value = |m: Option<&Measure>| m.map_or(NOT_MEASURED.into(), |m| with_spread(m.value, m.spread));
    // Once where both have the same.
    let beside = |f: fn(&Measure) -> Option<f64>| {
        let of = |m: Option<&Measure>| finite(m.and_then(f)).map(|x| show(Some(x)));
        match (of(a), of(b)) {
            (None, None) => NOT_MEASURED.into(),
            (Some(x), None) | (None, Some(x)) => x,
            (Some(x), Some(y)) if x == y => x,
            (Some(x), Some(y)) => format!("{x} / {y}"),
        }
    };
    let difference = match (a, b) {
        (Some(a), Some(b)) => match (finite(a.value), finite(b.value)) {
            (Some(x), Some(y)) => signed(y - x),
            _ => UNDEFINED.into(),
        },
        _ => NOT_MEASURED.into(),
    };
    vec![name.to_owned(), value(a), value(b), difference, beside(|m| m.null), beside(|m| m.control)]
}

fn signed(x: f64) -> String {
    let text = show(Some(x));
    if x > 0.0 { format!("+{text}") } else { text }
}
