//! Two analyses in one table.

use maud::{Markup, html};

use super::figure::table;
use super::number::{UNDEFINED, finite, show};
use super::subject::Subject;
use super::verdict::{Measure, measures};

/// Every measure of either, and the second less the first.
pub fn section(a: &Subject, b: &Subject) -> Markup {
    let (first, second) = (measures(a), measures(b));
    let mut names: Vec<&str> = first.iter().map(|m| m.what.as_str()).collect();
    names.extend(second.iter().map(|m| m.what.as_str()).filter(|n| !first.iter().any(|m| m.what == *n)));
    let rows: Vec<Vec<String>> =
        names.into_iter().map(|name| row(name, find(&first, name), find(&second, name))).collect();
    let (name_a, name_b) = (a.tag(""), b.tag(""));
    let head = [
        "Mean over layers and matrices",
        &name_a,
        &name_b,
        "difference",
        &format!("chance, {name_a}"),
        &format!("chance, {name_b}"),
    ];
    html! {
        section id="difference" {
            h2 { "The differences" }
            p.hint { "The second less the first. A difference counts only as far as both were measured alike: see how it was measured. What was not measured has a dash." }
            div.wide.whole { (table(&head, &rows)) }
        }
    }
}

fn find<'a>(all: &'a [Measure], name: &str) -> Option<&'a Measure> {
    all.iter().find(|m| m.what == name)
}

fn row(name: &str, a: Option<&Measure>, b: Option<&Measure>) -> Vec<String> {
    let value = |m: Option<&Measure>| m.map_or("\u{2013}".into(), |m| show(m.value));
    let chance = |m: Option<&Measure>| {
        m.map_or("\u{2013}".into(), |m| match (finite(m.null), finite(m.control)) {
            (None, None) => "\u{2013}".into(),
            (null, None) => show(null),
            (None, control) => format!("control {}", show(control)),
            (null, control) => format!("{}, control {}", show(null), show(control)),
        })
    };
    let difference = match (a, b) {
        (Some(a), Some(b)) => match (finite(a.value), finite(b.value)) {
            (Some(x), Some(y)) => signed(y - x),
            _ => UNDEFINED.into(),
        },
        _ => "\u{2013}".into(),
    };
    vec![name.to_owned(), value(a), value(b), difference, chance(a), chance(b)]
}

fn signed(x: f64) -> String {
    let text = show(Some(x));
    if x > 0.0 { format!("+{text}") } else { text }
}
