//! The figures of all runs as one Markdown table: a row for each figure, a column for each kind of model, in a cell the mean
//! over layers and seeds and, where there are several, each seed's mean over layers.

use std::fmt::Write;

use super::measure::{LayerFigures, Subspaces};
use super::models::Kind;
use super::run::Run;
use super::support;

/// A figure of one layer.
type OfLayer = fn(&LayerFigures) -> Option<f64>;
/// A figure of a layer's routed subspaces.
type OfSubspaces = fn(&Subspaces) -> Option<f64>;

/// A row's title and a run's figure.
type Row<'a> = (String, Box<dyn Fn(&Run) -> Option<f64> + 'a>);

fn over_layers(layers: &[LayerFigures], f: impl Fn(&LayerFigures) -> Option<f64>) -> Option<f64> {
    support::mean(layers.iter().filter_map(f))
}

fn rows(chance: &Subspaces) -> Vec<Row<'static>> {
    let mut rows: Vec<Row<'static>> = vec![
        ("validation loss, nats per byte".into(), Box::new(|r| Some(r.loss))),
        ("experts that share a token".into(), Box::new(|r| over_layers(&r.trained, |l| Some(l.experts_a_token)))),
        (
            "entropy of the load, share of its largest".into(),
            Box::new(|r| over_layers(&r.trained, |l| Some(l.load_entropy))),
        ),
        ("information about the source, nats".into(), Box::new(|r| over_layers(&r.trained, |l| l.information))),
        ("... sources permuted".into(), Box::new(|r| over_layers(&r.trained, |l| l.information_control))),
    ];
    let functions: [(&str, OfLayer); 4] = [
        ("Jacobians: mean of cosines", |l| l.mean_of_cosines),
        ("Jacobians: cosine of means", |l| l.cosine_of_means),
        ("Jacobians: leading singular value", |l| l.leading),
        ("Jacobians: effective rank", |l| l.effective_rank),
    ];
    for (i, (name, f)) in functions.into_iter().enumerate() {
        rows.push((name.into(), Box::new(move |r| over_layers(&r.trained, f))));
        rows.push(("... before training".into(), Box::new(move |r| over_layers(&r.untrained, f))));
        if i == 0 {
            rows.push(("... Gaussian matrices".into(), Box::new(|r| over_layers(&r.trained, |l| l.gaussian))));
        }
    }
    let subspaces: [(&str, OfSubspaces, bool); 6] = [
        ("similarity", |s| s.similarity, true),
        ("geodesic distance", |s| s.geodesic, true),
        ("chordal distance", |s| s.chordal, true),
        ("projection distance", |s| s.projection, true),
        ("explained variance", |s| s.explained_variance, false),
        ("participation ratio", |s| s.participation_ratio, false),
    ];
    for (name, f, of_pairs) in subspaces {
        let title = match f(chance).filter(|_| of_pairs) {
            Some(chance) => format!("routed PCA: {name} (random subspaces {chance:.3})"),
            None => format!("routed PCA: {name}"),
        };
        rows.push((title, Box::new(move |r| over_layers(&r.trained, |l| f(&l.routed)))));
        rows.push(("... routing permuted".into(), Box::new(move |r| over_layers(&r.trained, |l| f(&l.permuted)))));
        let by_best = move |l: &LayerFigures, i: usize| l.best.as_ref().and_then(|pair| f(&pair[i]));
        rows.push(("... by the K best".into(), Box::new(move |r| over_layers(&r.trained, |l| by_best(l, 0)))));
        rows.push((
            "... by the K best, permuted".into(),
            Box::new(move |r| over_layers(&r.trained, |l| by_best(l, 1))),
        ));
        rows.push(("... before training".into(), Box::new(move |r| over_layers(&r.untrained, |l| f(&l.routed)))));
    }
    rows.push(("seconds".into(), Box::new(|r| Some(r.seconds))));
    rows
}

/// The table; figures that no run has, have no row.
pub fn table(runs: &[Run], chance: &Subspaces) -> String {
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| runs.iter().any(|r| r.kind == *k)).collect();
    let mut text = String::from("| |");
    kinds.iter().for_each(|k| text += &format!(" {} |", k.name()));
    text += &format!("\n|---|{}\n", "---|".repeat(kinds.len()));
    let first: Vec<&Run> = kinds.iter().filter_map(|k| runs.iter().find(|r| r.kind == *k)).collect();
    let mut counts = |name: &str, count: fn(&Run) -> usize| {
        let cells: Vec<String> = first.iter().map(|r| count(r).to_string()).collect();
        _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    };
    counts("parameters", |r| r.parameters);
    counts("... that a token computes with", |r| r.computed);
    for (name, figure) in rows(chance) {
        let cells: Vec<String> = kinds
            .iter()
            .map(|k| cell(&runs.iter().filter(|r| r.kind == *k).filter_map(&figure).collect::<Vec<_>>()))
            .collect();
        if cells.iter().any(|c| c != "-") {
            _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
    }
    text
}

/// Mean and seeds.
fn cell(seeds: &[f64]) -> String {
    let number = |x: f64| if x.abs() >= 100.0 { format!("{x:.0}") } else { format!("{x:.3}") };
    match (support::mean(seeds.iter().copied()), seeds) {
        (None, _) => "-".into(),
        (Some(mean), [_]) => number(mean),
        (Some(mean), seeds) => {
            format!("**{}** {}", number(mean), seeds.iter().map(|x| number(*x)).collect::<Vec<_>>().join(" "))
        }
    }
}
