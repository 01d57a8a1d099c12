//! The figures of all runs as one Markdown table: a row for each figure, a column for each kind of model, in a cell the
//! mean over layers and seeds and, where there are several, each seed's mean over layers.

use std::fmt::Write;

use super::measure::{LayerFigures, Subspaces};
use super::models::Kind;
use super::run::Run;
use super::support;

/// A figure of one layer.
type OfLayer = fn(&LayerFigures) -> Option<f64>;
/// A figure of a layer's routed subspaces.
type OfSubspaces = fn(&Subspaces) -> Option<f64>;

/// A figure of a run.
type OfRun = Box<dyn Fn(&Run) -> Option<f64>>;

/// The figures with their titles.
#[derive(Default)]
struct Rows(Vec<(String, OfRun)>);

impl Rows {
    fn of_run(&mut self, title: &str, f: impl Fn(&Run) -> Option<f64> + 'static) {
        self.0.push((title.into(), Box::new(f)));
    }

    /// Mean over layers.
    fn trained(&mut self, title: &str, f: impl Fn(&LayerFigures) -> Option<f64> + 'static) {
        self.of_run(title, move |r| support::mean(r.trained.iter().filter_map(&f)));
    }

    fn untrained(&mut self, title: &str, f: impl Fn(&LayerFigures) -> Option<f64> + 'static) {
        self.of_run(title, move |r| support::mean(r.untrained.iter().filter_map(&f)));
    }
}

fn rows(chance: &Subspaces) -> Rows {
    let mut rows = Rows::default();
    rows.of_run("validation loss, nats per byte", |r| Some(r.loss));
    rows.trained("experts that share a token", |l| Some(l.experts_a_token));
    rows.untrained("... before training", |l| Some(l.experts_a_token));
    rows.trained("entropy of the load, share of its largest", |l| Some(l.load_entropy));
    rows.trained("information about the source, nats", |l| l.information);
    rows.trained("... sources permuted", |l| l.information_control);
    rows.untrained("... before training", |l| l.information);
    let functions: [(&str, OfLayer); 4] = [
        ("mean of cosines", |l| l.mean_of_cosines),
        ("cosine of means", |l| l.cosine_of_means),
        ("leading singular value", |l| l.leading),
        ("effective rank", |l| l.effective_rank),
    ];
    for (i, (name, f)) in functions.into_iter().enumerate() {
        rows.trained(&format!("Jacobians: {name}"), f);
        if i == 0 {
            rows.trained("... Gaussian matrices", |l| l.gaussian);
        }
        rows.untrained("... before training", f);
    }
    let subspaces: [(&str, OfSubspaces, bool); 6] = [
        ("similarity", |s| s.similarity, true),
        ("geodesic distance", |s| s.geodesic, true),
        ("chordal distance", |s| s.chordal, true),
        ("projection distance", |s| s.projection, true),
        ("explained variance", |s| s.explained_variance, false),
        ("participation ratio", |s| s.participation_ratio, false),
    ];
    for (i, (name, f, of_pairs)) in subspaces.into_iter().enumerate() {
        let title = match f(chance).filter(|_| of_pairs) {
            Some(chance) => format!("routed PCA: {name} (random subspaces {chance:.3})"),
            None => format!("routed PCA: {name}"),
        };
        rows.trained(&title, move |l| f(&l.routed));
        rows.trained("... routing permuted", move |l| f(&l.permuted));
        rows.trained("... by the K best", move |l| f(&l.best.as_ref()?[0]));
        if i == 0 {
            rows.trained("... by the K best, permuted", move |l| f(&l.best.as_ref()?[1]));
        }
        rows.untrained("... before training", move |l| f(&l.routed));
        if i == 0 {
            rows.untrained("... before training, permuted", move |l| f(&l.permuted));
            rows.untrained("... before training, by the K best", move |l| f(&l.best.as_ref()?[0]));
        }
    }
    rows.of_run("seconds", |r| Some(r.seconds));
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
    for (name, figure) in rows(chance).0 {
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
    let number = |x: f64| match x.abs() {
        100.0.. => format!("{x:.0}"),
        10.0.. => format!("{x:.1}"),
        _ => format!("{x:.3}"),
    };
    match (support::mean(seeds.iter().copied()), seeds) {
        (None, _) => "-".into(),
        (Some(mean), [_]) => number(mean),
        (Some(mean), seeds) => {
            format!("**{}** {}", number(mean), seeds.iter().map(|x| number(*x)).collect::<Vec<_>>().join(" "))
        }
    }
}
