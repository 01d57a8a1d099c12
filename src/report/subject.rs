//! The subjects of a report: one analysis, or two side by side.

use std::collections::BTreeMap;

use super::lines::{Line, Look};
use super::number::{finite, largest, mean, pooled, show, with_spread};
use crate::analysis::record::{Analysis, Of, Part, Similarity};
use crate::nn::config::ExpertMatrix;
use crate::train::metrics::Side;

/// One of the analyses of a report.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// How it is called beside another; empty where it is alone.
    pub name: String,
    /// Its place: 0 or 1.
    pub place: usize,
    /// Its record.
    pub analysis: &'a Analysis,
}

/// The subjects of a report, named apart.
pub fn subjects<'a>(analyses: &[&'a Analysis]) -> Vec<Subject<'a>> {
    let alone = analyses.len() == 1;
    let same = analyses.iter().all(|a| a.target.name == analyses[0].target.name);
    let name = |i: usize, a: &Analysis| match (alone, same, i) {
        (true, ..) => String::new(),
        (_, false, _) => super::svg::shorten(&a.target.name, 24),
        (_, true, 0) => "first".into(),
        (_, true, _) => "second".into(),
    };
    analyses
        .iter()
        .enumerate()
        .map(|(place, &analysis)| Subject { name: name(place, analysis), place, analysis })
        .collect()
}

impl Subject<'_> {
    /// `text` with the subject's name before it, where there are two.
    pub fn tag(&self, text: &str) -> String {
        match (self.name.is_empty(), text.is_empty()) {
            (true, _) => text.to_owned(),
            (_, true) => self.name.clone(),
            _ => format!("{}: {text}", self.name),
        }
    }

    /// How matrices of this kind are called: merged ones are weights where nothing is decoupled.
    pub fn of(&self, of: Of) -> &'static str {
        match of {
            Of::Weights if self.analysis.target.spectral => "merged W",
            Of::Weights => "weights W",
            Of::Unique => "unique W_u",
            Of::Gradients => "gradients",
            Of::Activations => "activations",
        }
    }

    /// The colour of a line of this subject; `second` distinguishes a second line from the first.
    pub fn look(&self, second: bool) -> Look {
        Look::Colour(self.place + 2 * usize::from(second))
    }

    /// Rows of one kind and part.
    pub fn rows(&self, of: Of, part: Part) -> impl Iterator<Item = &Similarity> {
        self.analysis.similarity.iter().filter(move |s| s.of == of && s.part == part)
    }

    /// Means over layers and matrices for one side.
    pub fn shared(&self, of: Of, part: Part, side: Side) -> Shared {
        let rows: Vec<&Similarity> = self.rows(of, part).filter(|s| s.side == side).collect();
        Shared {
            mean: mean(rows.iter().map(|s| s.mean_offdiag)),
            max: largest(rows.iter().map(|s| s.max)),
            spread: pooled(rows.iter().map(|s| (s.mean_offdiag, s.spread))),
            null: mean(rows.iter().map(|s| Some(s.null))),
            control: mean(rows.iter().map(|s| s.control)),
            control_spread: pooled(rows.iter().map(|s| (s.control, s.control_spread))),
        }
    }

    /// Whether its experts are decoupled and their unique parts were compared.
    pub fn has_unique(&self) -> bool {
        self.rows(Of::Unique, Part::Top).any(|s| finite(s.mean_offdiag).is_some())
    }
}

/// A similarity with what it stands beside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shared {
    /// Mean over rows.
    pub mean: Option<f64>,
    /// Standard deviation over pairs of experts.
    pub spread: Option<f64>,
    /// Largest pair of all.
    pub max: Option<f64>,
    /// The value that chance gives.
    pub null: Option<f64>,
    /// The value that the control gives.
    pub control: Option<f64>,
    /// Standard deviation of the control over its pairs.
    pub control_spread: Option<f64>,
}

impl Shared {
    /// The part that chance explains: the larger of null and control.
    fn base(&self) -> f64 {
        largest([self.null, self.control]).unwrap_or(0.0)
    }

    /// How much of the way from chance to identity: 0 at chance, 1 where subspaces are the same.
    pub fn excess(&self) -> Option<f64> {
        let base = self.base();
        finite(self.mean).filter(|_| base < 1.0).map(|m| (m - base) / (1.0 - base))
    }

    /// The excess in words; the page says where they begin.
    pub fn words(&self) -> &'static str {
        match self.excess() {
            // Subspaces as large as their space are the same whatever the experts.
            None if finite(self.mean).is_some() => "chance leaves no room",
            None => "undefined",
            Some(e) if e < -0.03 => "less than chance",
            Some(e) if e < 0.03 => "no more than chance",
            Some(e) if e < 0.15 => "a little more than chance",
            Some(e) if e < 0.5 => "clearly more than chance",
            Some(_) => "most of the subspace",
        }
    }

    /// `chance 0.016, control 0.017 ± 0.011`.
    pub fn beside(&self) -> String {
        let control =
            finite(self.control).map(|_| format!(", control {}", with_spread(self.control, self.control_spread)));
        format!("chance {}{}", show(self.null), control.unwrap_or_default())
    }
}

/// The side in words.
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Model => "model side",
        Side::Hidden => "hidden side",
    }
}

/// Both sides.
pub const SIDES: [Side; 2] = [Side::Model, Side::Hidden];

/// Means of a value over the rows of each layer.
pub fn over_layers<'a, T: 'a>(
    rows: impl IntoIterator<Item = &'a T>,
    layer: impl Fn(&T) -> usize,
    value: impl Fn(&T) -> Option<f64>,
) -> Vec<(f64, Option<f64>)> {
    let mut layers: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
    for row in rows {
        layers.entry(layer(row)).or_default().push(value(row));
    }
    layers.into_iter().map(|(l, values)| (l as f64, mean(values))).collect()
}

/// Lines of chance and control that say the same for both subjects become one, without the subject's name.
pub fn merge_chance(lines: Vec<Line>) -> Vec<Line> {
    let mut kept: Vec<Line> = Vec::new();
    for line in lines {
        let is_chance = matches!(line.look, Look::Chance | Look::Control);
        let twin = kept.iter_mut().find(|l| is_chance && l.look == line.look && l.points == line.points);
        match twin {
            // The names without the subjects'; of two left, the plainer.
            Some(twin) => {
                let bare = |label: &str| label.rsplit(": ").next().unwrap_or_default().to_owned();
                let (a, b) = (bare(&twin.label), bare(&line.label));
                twin.label = if a.len() <= b.len() { a } else { b };
            }
            None => kept.push(line),
        }
    }
    kept
}

/// Rows for one matrix and side, by layer, with chance and control.
pub fn similarity_lines(
    subjects: &[Subject],
    ofs: &[Of],
    part: Part,
    side: Side,
    matrix: Option<ExpertMatrix>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut chance = Vec::new();
    for s in subjects {
        let mut first = true;
        for &of in ofs {
            let rows = || s.rows(of, part).filter(|r| r.side == side && matrix.is_none_or(|m| r.matrix == m));
            if rows().next().is_none() {
                continue;
            }
            lines.push(Line::new(
                s.tag(s.of(of)),
                s.look(of == Of::Unique),
                over_layers(rows(), |r| r.layer, |r| r.mean_offdiag),
            ));
            if first {
                chance.push(Line::new(
                    s.tag("chance"),
                    Look::Chance,
                    over_layers(rows(), |r| r.layer, |r| Some(r.null)),
                ));
                first = false;
            }
            let control = over_layers(rows(), |r| r.layer, |r| r.control);
            let name = if of == Of::Unique { "control of W_u" } else { "control" };
            chance.push(Line::new(s.tag(name), Look::Control, control));
        }
    }
    lines.extend(merge_chance(chance));
    lines
}

/// The layers of all subjects.
pub fn layers(subjects: &[Subject]) -> Vec<usize> {
    let mut all: Vec<usize> = subjects
        .iter()
        .flat_map(|s| s.analysis.target.layers.iter().copied().chain(s.analysis.similarity.iter().map(|r| r.layer)))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The line of a layer, graded by its position among `layers`.
pub fn graded(layer: usize, layers: &[usize], points: Vec<(f64, Option<f64>)>) -> Line {
    let last = layers.len().saturating_sub(1).max(1) as f64;
    let place = layers.iter().position(|l| *l == layer).unwrap_or(0);
    Line::new(format!("layer {layer}"), Look::Graded(place as f64 / last), points)
}

/// The row that stands out most: among unique parts where experts are decoupled, as merged ones are alike by
/// construction.
pub fn worst<'a>(subjects: &'a [Subject]) -> Option<&'a Similarity> {
    let rows = subjects.iter().flat_map(|s| {
        let of = if s.has_unique() { Of::Unique } else { Of::Weights };
        s.rows(of, Part::Top)
    });
    most_alike(rows)
}

/// The row that is furthest above chance, the first of equals; any where none is defined.
pub fn most_alike<'a>(rows: impl Iterator<Item = &'a Similarity>) -> Option<&'a Similarity> {
    let excess =
        |r: &Similarity| finite(r.mean_offdiag).zip(finite(Some(r.null))).map_or(f64::MIN, |(x, null)| x - null);
    rows.fold(None, |best: Option<(f64, &Similarity)>, r| match best {
        Some(b) if b.0 >= excess(r) => Some(b),
        _ => Some((excess(r), r)),
    })
    .map(|(_, r)| r)
}
