//! The alignment of the router with the experts.

use super::pairs::trend;
use crate::analysis::pairs::Diagonal;
use crate::analysis::record::Gates;
use crate::report::blocks::{self, Drawn, Entry};
use crate::report::figure::{About, Figure};
use crate::report::heat::Words;
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{brief, mean, show, with_spread};
use crate::report::subject::{Subject, merge_chance, over_layers};

const SOURCE: &str = "METHOD \u{a7}6; arXiv 2602.12556, figure 2b";

/// Figures of the router.
pub fn gates(subjects: &[Subject]) -> Vec<Option<Figure>> {
    vec![cross(subjects), alignment(subjects), specificity(subjects), stable_rank(subjects)]
}

fn cross(subjects: &[Subject]) -> Option<Figure> {
    let mut entries = Vec::new();
    for (panel, s) in subjects.iter().enumerate() {
        entries.extend(s.analysis.gates.iter().map(|g| Entry {
            panel,
            key: vec![g.layer.to_string()],
            group: String::new(),
            pairs: &g.cross,
            note: format!(
                "own {}, others {}, r = {}",
                with_spread(mean(g.own.iter().copied()), g.spread),
                show(g.cross.mean()),
                g.r
            ),
            null: Some(g.null),
            control: g.control,
        }));
    }
    let words = subjects.iter().map(|s| Words {
        heading: s.tag("router"),
        row: "router vector".into(),
        column: "expert".into(),
        rows: Vec::new(),
    });
    let mut layers: Vec<usize> = subjects.iter().flat_map(|s| &s.analysis.gates).map(|g| g.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
    let chosen = vec![layers.last()?.clone()];
    let about = About {
        id: "gates-cross",
        title: "Router vectors on the experts' leading input directions",
        shows: "The share of each unit router vector (row) in the leading input directions of each expert (column). A bright diagonal means that the router sends an expert what it amplifies.".into(),
        chance: "A random vector has r / d; the control is random router vectors. One scale for all layers.".into(),
        source: SOURCE,
    };
    let drawn = Drawn { columns: subjects.len(), diagonal: Diagonal::Counts, most: 1.0 };
    blocks::figure(about, drawn, (vec![("layer".into(), layers)], chosen), words.collect(), &entries)
}

fn alignment(subjects: &[Subject]) -> Option<Figure> {
    let charts: Vec<(String, Vec<Line>)> = subjects
        .iter()
        .map(|s| {
            let line = |name: &str, look, f: &dyn Fn(&Gates) -> Option<f64>| {
                Line::new(name, look, over_layers(&s.analysis.gates, |g| g.layer, f))
            };
            let lines = vec![
                line("own expert", Look::Colour(0), &|g| mean(g.own.iter().copied())),
                line("other experts", Look::Colour(1), &|g| g.cross.mean()),
                line("the layer's input", Look::Colour(2), &|g| mean(g.data.iter().flatten().copied())),
                line("chance", Look::Chance, &|g| Some(g.null)),
                line("control", Look::Control, &|g| g.control),
            ];
            (s.tag("router"), lines)
        })
        .collect();
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let (x, y) = (Axis::numbers("layer", &all), Axis::values("share of the router vector", &all));
    let about = About {
        id: "gates-alignment",
        title: "What the router follows over the layers",
        shows: "Mean share of the router vectors in the leading directions of their own expert, of other experts and, with --data, of the layer's input.".into(),
        chance: "Broken: r / d. Dotted: random router vectors.".into(),
        source: SOURCE,
    };
    Figure::charts(about, 2, &x, &y, &charts)
}

fn stable_rank(subjects: &[Subject]) -> Option<Figure> {
    let about = About {
        id: "gates-rank",
        title: "Stable rank of the router",
        shows: "In about how many directions of the layer's input the router tells tokens apart: the energy of its matrix over that of its largest singular value. At most the number of experts.".into(),
        chance: "Broken: a Gaussian matrix, d E / (\u{221a}d + \u{221a}E)\u{b2}. Dotted: random routers of the same size.".into(),
        source: "METHOD \u{a7}6",
    };
    let rows = |s: &Subject| s.analysis.gates.iter().map(|g| (g.layer, g.clone())).collect();
    trend(
        about,
        subjects,
        "stable rank",
        rows,
        &[
            ("router", Look::Colour(0), |g: &Gates| g.stable_rank),
            ("chance", Look::Chance, |g| g.stable_rank_null),
            ("control", Look::Control, |g| g.stable_rank_control),
        ],
    )
}

fn specificity(subjects: &[Subject]) -> Option<Figure> {
    let mut lines: Vec<Line> = subjects
        .iter()
        .map(|s| {
            let points = over_layers(&s.analysis.gates, |g| g.layer, |g| g.mean_specificity);
            Line::new(s.tag("mean own over mean of others"), s.look(false), points)
        })
        .collect();
    let even = subjects
        .iter()
        .map(|s| Line::new("chance", Look::Chance, over_layers(&s.analysis.gates, |g| g.layer, |_| Some(1.0))));
    let controls = subjects.iter().map(|s| {
        let points = over_layers(&s.analysis.gates, |g| g.layer, |g| g.specificity_control);
        Line::new(s.tag("control"), Look::Control, points)
    });
    lines.extend(merge_chance(even.chain(controls).collect()));
    let charts = [("specificity".to_owned(), lines)];
    let all = [charts[0].1.clone()];
    let (x, y) = (Axis::numbers("layer", &all), Axis::values("specificity", &all));
    let spreads = subjects.iter().flat_map(|s| &s.analysis.gates).map(|g| g.specificity_control_spread);
    let scatter = match mean(spreads) {
        Some(spread) => format!(" One random router scatters by {} around that.", brief(Some(spread))),
        None => String::new(),
    };
    let about = About {
        id: "gates-specificity",
        title: "Specificity of the router",
        shows: "Mean alignment of the router vectors with their own experts over their mean alignment with the others: a ratio of means. The median of the experts' own ratios has another chance, below 1 where r is small; they are in analysis.json.".into(),
        chance: format!("1: router vectors that know nothing of their experts. Dotted: random router vectors.{scatter}"),
        source: SOURCE,
    };
    Figure::charts(about, 2, &x, &y, &charts)
}
