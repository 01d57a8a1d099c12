//! A run's curves, and the drift of decoupled experts.

use crate::analysis::record::{Decoupling, Training};
use crate::nn::config::ExpertMatrix;
use crate::report::figure::{About, Figure};
use crate::report::lines::{Axis, Line, Look, Named};
use crate::report::number::{finite, mean};
use crate::report::subject::{Subject, merge_chance, over_layers};

/// Figures of the decoupling.
pub fn decoupling(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let drift = About {
        id: "drift",
        title: "Drift into the common directions",
        shows: "The share |P W_u| / |W_u| of the unique parts inside the common basis, mean over experts, less what chance gives: 0 is a random matrix, of which nothing is decoupled; the dotted lines are where the share is 0.".into(),
        chance: "Broken: 0, for the \u{221a}(k / m) that a random matrix has on a side of width m.".into(),
        source: "METHOD \u{a7}5; the basis of arXiv 2602.12556",
    };
    let beyond = About {
        id: "beyond-rank",
        title: "Energy of W_c beyond its rank",
        shows: "What of the common matrix lies outside its k leading directions, which the basis does not cover."
            .into(),
        chance: "0 at the start of a run, where W_c has rank k.".into(),
        source: "METHOD \u{a7}5",
    };
    vec![
        per_matrix(
            drift,
            subjects,
            "share of W_u, less chance",
            &[
                ("model side", Look::Colour(0), |d| Some(d.drift_model - d.null_model)),
                ("hidden side", Look::Colour(0), |d| Some(d.drift_hidden - d.null_hidden)),
                ("chance", Look::Chance, |_| Some(0.0)),
                ("decoupled, model side", Look::Control, |d| Some(-d.null_model)),
                ("decoupled, hidden side", Look::Control, |d| Some(-d.null_hidden)),
            ],
        ),
        per_matrix(
            beyond,
            subjects,
            "share of the energy",
            &[("beyond rank k", Look::Colour(0), |d| d.energy_beyond_rank)],
        ),
    ]
}

fn per_matrix(about: About, subjects: &[Subject], y: &str, named: &[Named<Decoupling>]) -> Option<Figure> {
    let mut charts = Vec::new();
    for m in ExpertMatrix::ALL {
        let (mut lines, mut chance) = (Vec::new(), Vec::new());
        for s in subjects {
            let rows = || s.analysis.decoupling.iter().filter(move |d| d.matrix == m);
            for (i, &(name, look, value)) in named.iter().enumerate() {
                let points = over_layers(rows(), |d| d.layer, value);
                match look {
                    Look::Chance | Look::Control => chance.push(Line::new(s.tag(name), look, points)),
                    _ => lines.push(Line::new(s.tag(name), s.look(i > 0), points)),
                }
            }
        }
        lines.extend(merge_chance(chance));
        charts.push((m.name().to_owned(), lines));
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let (x, y) = (Axis::numbers("layer", &all), Axis::values(y, &all));
    Figure::charts(about, 3, &x, &y, &charts)
}

/// Points of a curve over steps.
const POINTS: usize = 300;

/// A curve over steps; of many steps, means of neighbours. Steps without a value are no gaps: most are not measured.
fn curve(t: &Training, values: &[Option<f64>]) -> Vec<(f64, Option<f64>)> {
    let known: Vec<(f64, f64)> =
        t.step.iter().zip(values).filter_map(|(s, v)| Some((*s as f64, finite(*v)?))).collect();
    let group = known.len().div_ceil(POINTS).max(1);
    known.chunks(group).map(|c| (c[c.len() - 1].0, mean(c.iter().map(|p| Some(p.1))))).collect()
}

/// A curve less what chance gives; none where that is not known.
fn less(values: &[Option<f64>], null: Option<f64>) -> Vec<Option<f64>> {
    values.iter().map(|x| Some((*x)? - null?)).collect()
}

/// One of a run's curves.
type Curve = fn(&Training) -> Vec<Option<f64>>;
/// The value that chance gives for a curve.
type Null = fn(&Training) -> Option<f64>;

/// Figures of the run.
pub fn training(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let about = |id, title, shows: &str, chance: &str, source| About {
        id,
        title,
        shows: shows.into(),
        chance: chance.into(),
        source,
    };
    vec![
        over_steps(
            about(
                "training-loss",
                "Loss",
                "Cross-entropy, nats per token (a byte where the run has no tokenizer); of long runs the training loss is a mean over neighbouring steps.",
                "Even guessing has ln of the vocabulary: of bytes ln 256 = 5.55.",
                "METHOD \u{a7}2",
            ),
            subjects,
            "nats per token",
            true,
            &[("training", |t| t.loss.clone()), ("validation", |t| t.val_loss.clone())],
            &[],
        ),
        over_steps(
            about(
                "training-similarity",
                "Similarity of experts",
                "Hidden-side similarity of the top directions, mean over layers and matrices. Merged experts are more alike by construction.",
                "Broken, where known: random subspaces, r / m.",
                "METHOD \u{a7}6; arXiv 2602.12556, figure 1",
            ),
            subjects,
            "similarity",
            false,
            &[
                ("as they compute (merged)", |t| t.similarity_merged.clone()),
                ("unique W_u", |t| t.similarity_unique.clone()),
            ],
            &[("chance", |t| t.null_similarity)],
        ),
        over_steps(
            about(
                "training-drift",
                "Drift",
                "Share of the unique parts inside the common basis, mean over layers and matrices, less what chance gives: 0 is a random matrix, of which nothing is decoupled; the other broken lines are where the share is 0.",
                "Broken: 0, for the \u{221a}(k / m) of random matrices.",
                "METHOD \u{a7}5",
            ),
            subjects,
            "share of W_u, less chance",
            false,
            &[
                ("model side", |t| less(&t.drift_model, t.null_drift_model)),
                ("hidden side", |t| less(&t.drift_hidden, t.null_drift_hidden)),
            ],
            &[
                ("chance", |_| Some(0.0)),
                ("decoupled, model side", |t| t.null_drift_model.map(|x| -x)),
                ("decoupled, hidden side", |t| t.null_drift_hidden.map(|x| -x)),
            ],
        ),
        over_steps(
            about(
                "training-load",
                "Load",
                "Largest load of an expert over the even load, less 1, in the worst layer.",
                "0 is the even load.",
                "METHOD \u{a7}2",
            ),
            subjects,
            "E max f \u{2212} 1",
            false,
            &[("worst layer", |t| t.load_max_violation.clone())],
            &[("even load", |_| Some(0.0))],
        ),
    ]
}

fn over_steps(
    about: About,
    subjects: &[Subject],
    y: &str,
    close: bool,
    curves: &[(&str, Curve)],
    nulls: &[(&str, Null)],
) -> Option<Figure> {
    let (mut lines, mut chance) = (Vec::new(), Vec::new());
    for s in subjects {
        let Some(t) = &s.analysis.training else { continue };
        for (i, (name, values)) in curves.iter().enumerate() {
            lines.push(Line::new(s.tag(name), s.look(i > 0), curve(t, &values(t))));
        }
        let ends = (t.step.first().copied().unwrap_or(0) as f64, t.step.last().copied().unwrap_or(1) as f64);
        for (name, null) in nulls {
            chance.push(Line::new(s.tag(name), Look::Chance, vec![(ends.0, null(t)), (ends.1, null(t))]));
        }
    }
    lines.extend(merge_chance(chance));
    let charts = [(y.to_owned(), lines)];
    let all = [charts[0].1.clone()];
    let x = Axis::numbers("step", &all);
    let y = if close { Axis::close(y, &all) } else { Axis::values(y, &all) };
    Figure::charts(about, 2, &x, &y, &charts)
}
