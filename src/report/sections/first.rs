//! The first screen: the layer that stands out most, and the trend over layers.

use super::similarity::{note, words};
use crate::analysis::pairs::Diagonal;
use crate::analysis::record::{Of, Part, Similarity};
use crate::nn::config::ExpertMatrix;
use crate::report::blocks::{self, Cells, Map, maps};
use crate::report::figure::{About, Figure, HeatPanel};
use crate::report::heat::Table;
use crate::report::lines::Axis;
use crate::report::number::percent;
use crate::report::subject::{SIDES, Subject, side, similarity_lines, worst};

/// Pairs listed beside maps of blocks.
const PAIRS: usize = 12;

/// The two figures below the verdict.
pub fn first_screen(subjects: &[Subject]) -> Vec<Figure> {
    [worst_layer(subjects), trend(subjects)].into_iter().flatten().collect()
}

fn worst_layer(subjects: &[Subject]) -> Option<Figure> {
    let row = worst(subjects)?;
    let same = |r: &Similarity| (r.layer, r.matrix, r.side) == (row.layer, row.matrix, row.side);
    let ofs = [Of::Weights, Of::Unique];
    let rows: Vec<_> = subjects
        .iter()
        .flat_map(|s| {
            ofs.iter().flat_map(move |&of| s.rows(of, Part::Top).filter(move |r| same(r)).map(move |r| (s, of, r)))
        })
        .collect();
    let maps: Vec<(&Subject, Of, &Similarity, Map)> = rows
        .iter()
        .flat_map(|&(s, of, r)| maps(&r.pairs, Diagonal::Trivial).into_iter().map(move |map| (s, of, r, map)))
        .collect();
    // Pairs stand beside blocks where one of two has few experts.
    let cells = |map: &Map| if map.cells == Cells::Mean { Cells::Mean } else { Cells::Largest };
    let ends = |like: Cells| {
        let alike = maps.iter().filter(|(.., map)| cells(map) == like);
        let values = alike.flat_map(|(_, _, r, map)| map.telling(Diagonal::Trivial).chain([Some(r.null), r.control]));
        blocks::scale(values.collect::<Vec<_>>(), 1.0)
    };
    let (mean, other) = (ends(Cells::Mean), ends(Cells::Largest));
    let panel = |(s, of, r, map): &(&Subject, Of, &Similarity, Map)| {
        let mut words = words(s, *of);
        if map.cells != Cells::Pairs {
            words.heading = format!("{}, {}", words.heading, map.cells.name());
        }
        let ends = if cells(map) == Cells::Mean { mean } else { other };
        let table = map.clone().table(Diagonal::Trivial, ends);
        let table = Table { note: note(r), null: Some(r.null), control: r.control, ..table };
        HeatPanel { words, tables: [(Vec::new(), table)].into() }
    };
    let panels: Vec<HeatPanel> = maps.iter().map(panel).collect();
    let blocks = maps.iter().map(|(.., map)| map.block).max().filter(|b| *b > 1);
    let both = match (blocks, panels.len()) {
        (Some(b), _) => format!(
            " A cell stands for {b} by {b} experts, of which it shows the mean or the largest pair; panels of one kind have one scale."
        ),
        (None, 0 | 1) => String::new(),
        (None, _) => " All panels have the same scale.".into(),
    };
    let (who, why) = if subjects.iter().any(Subject::has_unique) {
        // Beside another the row may be one of plain experts.
        let who = if subjects.len() == 1 { "unique parts" } else { "experts" };
        (who, " Merged experts hold W_c and are more alike by construction, so both are shown.")
    } else {
        ("experts", "")
    };
    let matrix = row.matrix.name();
    let about = About {
        id: "worst-layer",
        title: &format!("Where {who} are most alike: layer {}, {matrix}, {}", row.layer, side(row.side)),
        shows: format!(
            "How much of the top {} subspace two experts share: 1 is the same subspace, 0 an orthogonal one. An expert beside itself is left blank.{why}{both}",
            percent(subjects[0].analysis.settings.top)
        ),
        chance: "The triangle above the scale is the value of random subspaces, r / m; the one below is the same measurement of Gaussian matrices of these sizes.".into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 1",
    };
    let columns = if blocks.is_some() { 2 } else { panels.len().min(3) };
    let figure = Figure::heat(about, columns, Vec::new(), Vec::new(), panels)?;
    if blocks.is_none() {
        return Some(figure);
    }
    let tables = rows.iter().map(|(s, of, r)| (s.tag(s.of(*of)), &r.pairs, Some(r.null)));
    Some(figure.with_list("The most alike pairs", true, blocks::listed("Of", "experts", &blocks::list(tables, PAIRS))))
}

fn trend(subjects: &[Subject]) -> Option<Figure> {
    let ofs = [Of::Weights, Of::Unique];
    let charts = SIDES.map(|on| similarity_lines(subjects, &ofs, Part::Top, on, None::<ExpertMatrix>));
    let (x, y) = (Axis::numbers("layer", &charts), Axis::values("mean similarity of pairs of experts", &charts));
    let headings = SIDES.map(|on| capital(side(on)));
    let charts: Vec<_> = headings.into_iter().zip(charts).collect();
    let about = About {
        id: "trend",
        title: "Over the layers",
        shows: format!(
            "Similarity of the top {} subspaces, mean over pairs of experts and over gate, up and down. The model side is the input of gate and up and the output of down; the hidden side is the other, whose units each expert may number as it likes.",
            percent(subjects[0].analysis.settings.top)
        ),
        chance:
            "Broken line: random subspaces, r / m. Dotted: Gaussian matrices of the same sizes, measured the same way."
                .into(),
        source: "METHOD \u{a7}6; arXiv 2602.12556, figure 1",
    };
    Figure::charts(about, 2, &x, &y, &charts)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
