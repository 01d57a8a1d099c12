//! The verdict: what the numbers say, in plain words, and no more than they say.

use super::measures::measures;
use super::number::{UNDEFINED, brief, finite, percent, show, with_spread};
use super::subject::{SIDES, Shared, Subject, side};
use crate::analysis::record::{Of, Part};
use crate::train::metrics::Side;

/// A headline, the sentences below it, and the figures.
#[derive(Debug)]
pub struct Verdict {
    /// One sentence a subject.
    pub headlines: Vec<String>,
    /// The sentences that go with it.
    pub sentences: Vec<String>,
    /// Figures in a row: what, value, beside what.
    pub tiles: Vec<Tile>,
    /// The similarities of two subjects: whose and which side, value, chance, control, in words.
    pub glance: Vec<Vec<String>>,
}

/// A figure with its words.
#[derive(Debug)]
pub struct Tile {
    /// Its name.
    pub what: String,
    /// Its value.
    pub value: String,
    /// The values that it stands beside.
    pub beside: String,
}

/// The side on which the experts of `s` stand out most, of the weights' top part.
fn telling_side(s: &Subject) -> Side {
    let excess = |side| s.shared(Of::Weights, Part::Top, side).excess().unwrap_or(f64::MIN);
    if excess(Side::Hidden) > excess(Side::Model) { Side::Hidden } else { Side::Model }
}

fn headline(s: &Subject, on: Side) -> String {
    let top = percent(s.analysis.settings.top);
    let weights = s.shared(Of::Weights, Part::Top, on);
    let unique = s.shared(Of::Unique, Part::Top, on);
    let who = if s.name.is_empty() { String::new() } else { format!("{}: ", s.name) };
    let who = who + &incomplete(s);
    let chance = brief(weights.null);
    if finite(weights.mean).is_none() {
        return format!(
            "{who}No similarity of experts is defined: it takes two experts with weights that are not zero."
        );
    }
    if !s.analysis.target.spectral {
        return format!(
            "{who}Experts share {} of their top {top} subspace on the {}; chance is {chance}.",
            brief(weights.mean),
            side(on)
        );
    }
    match finite(unique.mean) {
        Some(_) => format!(
            "{who}Merged experts share {} of their top {top} subspace on the {}, their unique parts {}; chance is {chance}.",
            brief(weights.mean),
            side(on),
            brief(unique.mean)
        ),
        None => format!(
            "{who}Merged experts share {} of their top {top} subspace on the {}; chance is {chance}. Their unique parts were not compared.",
            brief(weights.mean),
            side(on)
        ),
    }
}

/// Returns what is not among the experts of `s`, before all that is said of them.
fn incomplete(s: &Subject) -> String {
    match &s.analysis.coverage.incomplete[..] {
        [] => String::new(),
        all => format!("Only a part of the experts: {}. ", all.join("; ")),
    }
}

/// `0.71 on the model side (most of it; chance 0.016), 0.02 on the hidden side (no more than chance; chance 0.02)`.
fn both_sides(s: &Subject, of: Of) -> String {
    let part = |on: Side| {
        let x: Shared = s.shared(of, Part::Top, on);
        format!("{} on the {} ({}; {})", with_spread(x.mean, x.spread), side(on), x.words(), x.beside())
    };
    SIDES.map(part).join(", ")
}

/// How the similarities of one subject read.
fn similarities(s: &Subject) -> Vec<String> {
    let weights = format!(
        "{}, mean over layers and matrices (\u{b1} standard deviation over pairs of experts): {}.",
        capital(s.of(Of::Weights)),
        both_sides(s, Of::Weights)
    );
    let unique = format!("{}: {}.", capital(s.of(Of::Unique)), both_sides(s, Of::Unique));
    if s.has_unique() { vec![weights, unique] } else { vec![weights] }
}

/// Returns what a similarity of one or two directions means; none where there are more.
fn few_directions(s: &Subject) -> Option<String> {
    let top = percent(s.analysis.settings.top);
    let has = |r: usize| s.rows(Of::Weights, Part::Top).any(|row| row.r == r);
    let one = format!("the top {top} is a single direction (r = 1): 0.5 is an angle of 45\u{b0} between two experts'");
    let two = format!(
        "the top {top} are two directions (r = 2): 0.5 is one that two experts share and one that they do not, or half of both"
    );
    match (has(1), has(2)) {
        (false, false) => None,
        (true, false) => Some(s.tag(&format!("{}.", capital(&one)))),
        (false, true) => Some(s.tag(&format!("{}.", capital(&two)))),
        (true, true) => Some(s.tag(&format!("{}; in other matrices {two}.", capital(&one)))),
    }
}

/// Returns what must be said beside the numbers.
fn provisos(s: &Subject) -> Vec<String> {
    let mut all: Vec<String> = few_directions(s).into_iter().collect();
    if s.has_unique() {
        all.push("Merged experts hold the common matrix W_c and are more alike by construction; the unique parts tell how far they are decoupled. Neither alone is the whole picture.".to_owned());
    }
    let near = SIDES.map(|on| s.shared(own(s), Part::Top, on).excess());
    if near.iter().all(|e| e.is_some_and(|e| e < 0.03)) {
        let what = if s.has_unique() { "do the unique parts" } else { "does this" };
        all.push(s.tag(&format!("on neither side {what} stand out from what random matrices give.")));
    }
    let c = &s.analysis.coverage;
    if !c.unknown_tensors.is_empty() {
        let names = format!(
            "{} tensors have names that are not understood; they are listed at the end.",
            c.unknown_tensors.len()
        );
        all.push(s.tag(&names));
    }
    all
}

/// Returns the matrices that show whether experts are alike: their unique parts where they have some.
fn own(s: &Subject) -> Of {
    if s.has_unique() { Of::Unique } else { Of::Weights }
}

/// The similarities of all subjects: whose and which side, value, chance, control, in words.
fn glance(subjects: &[Subject]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for s in subjects {
        for of in [Of::Weights, Of::Unique] {
            for on in SIDES.into_iter().filter(|on| s.rows(of, Part::Top).any(|r| r.side == *on)) {
                let x = s.shared(of, Part::Top, on);
                let mut row = vec![format!("{}, {}", s.tag(s.of(of)), side(on))];
                row.extend([with_spread(x.mean, x.spread), show(x.null)]);
                row.push(finite(x.control).map_or("\u{2013}".into(), |c| with_spread(Some(c), x.control_spread)));
                row.push(x.words().to_owned());
                rows.push(row);
            }
        }
    }
    rows
}

/// The first letter large.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Returns what the subjects' numbers say.
pub fn verdict(subjects: &[Subject]) -> Verdict {
    // Two subjects are compared on one side: the first's.
    let on = telling_side(&subjects[0]);
    let mut provisos: Vec<String> = subjects.iter().flat_map(provisos).collect();
    provisos.dedup();
    let headlines = subjects.iter().map(|s| headline(s, on)).collect();
    match subjects {
        [a, b] => {
            let sentences = [contrast(a, b, on)].into_iter().chain(provisos).collect();
            Verdict { headlines, sentences, tiles: Vec::new(), glance: glance(subjects) }
        }
        all => {
            let sentences = all.iter().flat_map(similarities).chain(provisos).collect();
            Verdict { headlines, sentences, tiles: all.iter().flat_map(tiles).collect(), glance: Vec::new() }
        }
    }
}

/// The figures of the first screen: the most telling of what was measured.
fn tiles(s: &Subject) -> Vec<Tile> {
    let first = [
        "weights (merged where decoupled), top",
        "unique parts W_u, top",
        "Energy",
        "Router spec",
        "Jacobian",
        "routed",
        "Information",
        "without a token",
    ];
    let all = measures(s);
    let chosen = first.iter().flat_map(|key| all.iter().filter(move |m| m.what.contains(key)));
    let plain = |what: &str| {
        if s.analysis.target.spectral {
            what.replace("weights (merged where decoupled)", "merged experts")
        } else {
            what.replace(" (merged where decoupled)", "")
        }
    };
    chosen.take(8).map(|m| Tile { what: plain(&m.what), value: brief(m.value), beside: m.beside() }).collect()
}

/// The two subjects against each other.
fn contrast(a: &Subject, b: &Subject, on: Side) -> String {
    let [x, y] = [a, b].map(|s| s.shared(own(s), Part::Top, on));
    let (Some(va), Some(vb)) = (finite(x.mean), finite(y.mean)) else {
        return format!("The two cannot be compared on the {}: a similarity is {UNDEFINED}.", side(on));
    };
    let [na, nb] = [a, b].map(|s| format!("{}'s {}", s.name, s.of(own(s))));
    let less = if vb < va { "less" } else { "more" };
    let mut text = format!(
        "On the {} {nb} are {less} alike than {na} by {} ({} against {}).",
        side(on),
        show(Some((va - vb).abs())),
        show(y.mean),
        show(x.mean)
    );
    for s in [a, b].into_iter().filter(|s| s.has_unique()) {
        let other = if s.place == a.place { b } else { a };
        let (merged, plain) =
            (s.shared(Of::Weights, Part::Top, on).mean, other.shared(Of::Weights, Part::Top, on).mean);
        if let (Some(m), Some(p)) = (finite(merged), finite(plain)) {
            let more = if m >= p { "more" } else { "less" };
            text += &format!(
                " As they compute, merged with W_c, {}'s experts are {more} alike than {}'s by {} ({} against {}).",
                s.name,
                other.name,
                show(Some((m - p).abs())),
                show(merged),
                show(plain)
            );
        }
    }
    text
}
