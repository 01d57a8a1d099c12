//! Principal similarity of weights and of gradients.

use crate::analysis::pairs::Diagonal;
use crate::analysis::record::{Of, Part, Similarity};
use crate::nn::config::ExpertMatrix;
use crate::report::blocks::{self, Drawn, Entry};
use crate::report::figure::{About, Figure, table as numbers_table};
use crate::report::heat::Words;
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{finite, percent, show, with_spread};
use crate::report::subject::{
    SIDES, Subject, layers, merge_chance, most_alike, over_layers, side, similarity_lines, worst,
};
use crate::train::metrics::Side;

/// Pairs that the page lists.
const PAIRS: usize = 40;
const SOURCE: &str = "METHOD \u{a7}6; arXiv 2602.12556, figures 1, 2a and 4";

/// The figures of a row in one line.
pub fn note(row: &Similarity) -> String {
    let mean = with_spread(row.mean_offdiag, row.spread);
    let [largest, cosine] = [row.max, row.mean_cosine].map(show);
    format!("mean {mean}, largest {largest}, mean cosine {cosine}, r = {}", row.r)
}

/// The words of a panel.
pub fn words(s: &Subject, of: Of) -> Words {
    let heading = s.tag(s.of(of));
    let thing = if of == Of::Activations { "sample" } else { "expert" };
    Words { heading, row: thing.into(), column: thing.into(), rows: Vec::new() }
}

/// A part's name among the choices.
pub fn part_name(part: Part, top: f64) -> String {
    match part {
        Part::Top => format!("top {}", percent(top)),
        Part::Tail => "tail".into(),
    }
}

/// Heat maps of `ofs` by layer, matrix, side and part.
pub fn heat_maps(about: About, subjects: &[Subject], ofs: &[Of], prefer: Option<&Similarity>) -> Option<Figure> {
    let top = subjects[0].analysis.settings.top;
    let whose: Vec<(&Subject, Of)> = subjects.iter().flat_map(|s| ofs.iter().map(move |&of| (s, of))).collect();
    let rows = |part| whose.iter().flat_map(move |&(s, of)| s.rows(of, part));
    let parts: Vec<Part> = [Part::Top, Part::Tail].into_iter().filter(|p| rows(*p).next().is_some()).collect();
    let prefer = prefer.or_else(|| parts.first().and_then(|p| most_alike(rows(*p))))?;
    let mut entries = Vec::new();
    for (panel, &(s, of)) in whose.iter().enumerate() {
        entries.extend(parts.iter().flat_map(|part| s.rows(of, *part)).map(|r| Entry {
            panel,
            key: key(r, top),
            group: part_name(r.part, top),
            pairs: &r.pairs,
            note: note(r),
            null: Some(r.null),
            control: r.control,
        }));
    }
    let present = |f: &dyn Fn(&Similarity) -> bool| parts.iter().any(|p| rows(*p).any(f));
    let of_layers = layers(subjects).into_iter().filter(|l| present(&|r| r.layer == *l));
    let selects = vec![
        ("layer".to_owned(), of_layers.map(|l| l.to_string()).collect()),
        (
            "matrix".into(),
            ExpertMatrix::ALL.iter().filter(|m| present(&|r| r.matrix == **m)).map(|m| m.name().to_owned()).collect(),
        ),
        (
            "side".into(),
            SIDES.iter().filter(|on| present(&|r| r.side == **on)).map(|on| side(*on).to_owned()).collect(),
        ),
        ("part".into(), parts.iter().map(|p| part_name(*p, top)).collect()),
    ];
    let columns = whose.iter().filter(|(s, of)| parts.iter().any(|p| s.rows(*of, *p).next().is_some())).count().min(3);
    let drawn = Drawn { columns, diagonal: Diagonal::Trivial, most: 1.0 };
    let words = whose.iter().map(|&(s, of)| words(s, of)).collect();
    let figure = blocks::figure(about, drawn, (selects, key(prefer, top)), words, &entries)?;
    let named = |s: &Subject, r: &Similarity| {
        let place = format!("{}, {}, {}", r.layer, r.matrix.name(), side(r.side));
        if columns > 1 { format!("{place}, {}", s.tag(s.of(r.of))) } else { place }
    };
    let first = whose.iter().flat_map(|&(s, of)| s.rows(of, parts[0]).map(move |r| (s, r)));
    let alike = blocks::list(first.map(|(s, r)| (named(s, r), &r.pairs, Some(r.null))), PAIRS);
    if alike.is_empty() {
        return Some(figure);
    }
    let things = if ofs.contains(&Of::Activations) { "samples" } else { "experts" };
    // Beside one map there is room.
    let what = if columns > 1 { "Layer, matrix, side, of" } else { "Layer, matrix, side" };
    Some(figure.with_list("The most alike pairs", columns == 1, blocks::listed(what, things, &alike)))
}

fn key(r: &Similarity, top: f64) -> Vec<String> {
    vec![r.layer.to_string(), r.matrix.name().into(), side(r.side).into(), part_name(r.part, top)]
}

/// One chart a matrix and side; of the tail one a side.
fn trends(about: About, subjects: &[Subject], ofs: &[Of], part: Part) -> Option<Figure> {
    // Of the tail, which says little, only the mean over matrices.
    let matrices = if part == Part::Top { ExpertMatrix::ALL.map(Some).to_vec() } else { vec![None] };
    let all: Vec<_> = SIDES.into_iter().flat_map(|on| matrices.iter().map(move |m| (on, *m))).collect();
    let charts: Vec<(String, Vec<Line>)> = all
        .into_iter()
        .map(|(on, m)| {
            let heading = m.map_or(side(on).to_owned(), |m| format!("{}, {}", m.name(), side(on)));
            let lines = match part {
                Part::Top => similarity_lines(subjects, ofs, part, on, m),
                Part::Tail => excess_lines(subjects, ofs, on),
            };
            (heading, lines)
        })
        .collect();
    let lines: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let y = match part {
        Part::Top => "mean similarity of pairs of experts",
        Part::Tail => "(similarity \u{2212} chance) / (1 \u{2212} chance)",
    };
    let (x, y) = (Axis::numbers("layer", &lines), Axis::values(y, &lines));
    Some(Figure::charts(about, 3, &x, &y, &charts)?.with_numbers(numbers(subjects, ofs)))
}

/// The tails' similarity and its control as excess over chance, by layer, means over matrices.
fn excess_lines(subjects: &[Subject], ofs: &[Of], on: Side) -> Vec<Line> {
    let (mut lines, mut chance) = (Vec::new(), Vec::new());
    let excess = |x: Option<f64>, null: f64| finite(x).filter(|_| null < 1.0).map(|x| (x - null) / (1.0 - null));
    for s in subjects {
        for &of in ofs {
            let rows = || s.rows(of, Part::Tail).filter(|r| r.side == on);
            let over = |f: &dyn Fn(&Similarity) -> Option<f64>| over_layers(rows(), |r| r.layer, f);
            if rows().next().is_none() {
                continue;
            }
            let measured = over(&|r| excess(r.mean_offdiag, r.null));
            lines.push(Line::new(s.tag(s.of(of)), s.look(of == Of::Unique), measured));
            chance.push(Line::new(s.tag("chance"), Look::Chance, over(&|_| Some(0.0))));
            chance.push(Line::new(s.tag("control"), Look::Control, over(&|r| excess(r.control, r.null))));
        }
    }
    lines.extend(merge_chance(chance));
    lines
}

fn numbers(subjects: &[Subject], ofs: &[Of]) -> maud::Markup {
    let head = ["Layer, matrix, side", "of", "part", "r", "mean", "mean cosine", "largest", "chance", "control"];
    let mut rows = Vec::new();
    for s in subjects {
        for r in s.analysis.similarity.iter().filter(|r| ofs.contains(&r.of)) {
            rows.push(vec![
                format!("{}, {}, {}", r.layer, r.matrix.name(), side(r.side)),
                s.tag(s.of(r.of)),
                part_name(r.part, s.analysis.settings.top),
                r.r.to_string(),
                with_spread(r.mean_offdiag, r.spread),
                show(r.mean_cosine),
                show(r.max),
                show(Some(r.null)),
                with_spread(r.control, r.control_spread),
            ]);
        }
    }
    numbers_table(&head, &rows)
}

const SCALE: &str = "All panels and all choices of one part have the same scale.";

/// Figures of the weights.
pub fn weights(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let ofs = [Of::Weights, Of::Unique];
    let heat = About {
        id: "similarity",
        title: "Similarity of every pair of experts",
        shows: format!("The share of one expert's subspace that lies in another's, |U_a\u{1d40} U_b|\u{b2} / r. {SCALE} Grey is undefined."),
        chance: "Random subspaces have r / m, with m the width of the side; the control is Gaussian matrices of the experts' sizes.".into(),
        source: SOURCE,
    };
    let top = About {
        id: "similarity-top",
        title: "Similarity of the top directions over the layers",
        shows: "Mean over pairs of experts, one chart a matrix and side. Merged experts and unique parts are always both there.".into(),
        chance: "Broken: r / m. Dotted: Gaussian matrices of the same sizes.".into(),
        source: SOURCE,
    };
    let tail = About {
        id: "similarity-tail",
        title: "Similarity of the tail over the layers",
        shows: "The same of all other directions, mean over gate, up and down too. Large subspaces overlap much by chance alone, so what is drawn is the excess over it: 0 is chance, 1 the same subspace. The numbers below are as measured.".into(),
        chance: "Broken: 0, for r / m with the tail's r. Dotted: Gaussian matrices of the same sizes.".into(),
        source: SOURCE,
    };
    vec![
        heat_maps(heat, subjects, &ofs, worst(subjects)),
        trends(top, subjects, &ofs, Part::Top),
        trends(tail, subjects, &ofs, Part::Tail),
    ]
}

/// Figures of the gradients.
pub fn gradients(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let heat = About {
        id: "gradients-similarity",
        title: "Similarity of every pair of experts' gradients",
        shows: format!(
            "As for weights, of the gradient of each expert over the tokens looked at. {SCALE} An expert without tokens has no gradient and is grey."
        ),
        chance: "r / m; the control is Gaussian matrices of the gradients' sizes.".into(),
        source: SOURCE,
    };
    let over = |id, title, part| {
        let (shows, chance) = match part {
            Part::Top => ("Mean over pairs of experts.", "Broken: r / m."),
            Part::Tail => (
                "Mean over pairs of experts and over gate, up and down, as the excess over chance: 0 is chance, 1 the same subspace.",
                "Broken: 0, for r / m.",
            ),
        };
        let about = About {
            id,
            title,
            shows: shows.into(),
            chance: format!("{chance} Dotted: Gaussian matrices of the same sizes."),
            source: SOURCE,
        };
        trends(about, subjects, &[Of::Gradients], part)
    };
    vec![
        heat_maps(heat, subjects, &[Of::Gradients], None),
        over("gradients-top", "Dominant directions of gradients over the layers", Part::Top),
        over("gradients-tail", "Tail of gradients over the layers", Part::Tail),
        common_share(subjects),
    ]
}

fn common_share(subjects: &[Subject]) -> Option<Figure> {
    let mut charts = Vec::new();
    for m in ExpertMatrix::ALL {
        let mut lines = Vec::new();
        let mut chance = Vec::new();
        for s in subjects {
            let rows = || s.analysis.decoupling.iter().filter(move |d| d.matrix == m);
            let measured = rows().any(|d| finite(d.common_gradient_share).is_some());
            lines.push(Line::new(
                s.tag("common part"),
                s.look(false),
                over_layers(rows(), |d| d.layer, |d| d.common_gradient_share),
            ));
            if measured {
                chance.push(Line::new(
                    s.tag("chance"),
                    Look::Chance,
                    over_layers(rows(), |d| d.layer, |d| Some(d.null_gradient_share)),
                ));
            }
        }
        lines.extend(merge_chance(chance));
        charts.push((m.name().to_owned(), lines));
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let (x, y) = (Axis::numbers("layer", &all), Axis::values("share of the gradient's energy", &all));
    let about = About {
        id: "gradients-common",
        title: "Share of the gradient that is common",
        shows: "Energy of the experts' gradients in the common part G_c: what trains W_c and not the expert itself."
            .into(),
        chance: "A random gradient has 1 \u{2212} (1 \u{2212} k/m)(1 \u{2212} k/n) there.".into(),
        source: "METHOD \u{a7}4, \u{a7}6; arXiv 2602.12556",
    };
    Figure::charts(about, 3, &x, &y, &charts)
}
