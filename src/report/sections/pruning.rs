//! Which experts a model can do without.

use crate::analysis::record::{Pruning, PruningStep};
use crate::report::figure::{About, Figure, table};
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{UNDEFINED, finite, show};
use crate::report::subject::Subject;

/// Experts of a layer that the page lists; all are in the record.
const LISTED: usize = 8;

/// The name of the lines of random draws.
const DRAWS: &str = "at random: mean, lowest, highest draw";

/// Figures of the pruning.
pub fn pruning(subjects: &[Subject]) -> Vec<Option<Figure>> {
    vec![losses(subjects)]
}

fn measured<'a>(subjects: &'a [Subject]) -> impl Iterator<Item = (&'a Subject<'a>, &'a Pruning)> {
    subjects.iter().filter_map(|s| Some((s, s.analysis.pruning.as_ref()?)))
}

fn losses(subjects: &[Subject]) -> Option<Figure> {
    let mut charts: Vec<(String, Vec<Line>)> = Vec::new();
    for (s, p) in measured(subjects) {
        let line = |name: &str, look, first: Option<f64>, of: &dyn Fn(&PruningStep) -> Option<f64>| {
            let rest = p.steps.iter().map(|step| (step.off as f64, of(step)));
            Line::new(name, look, std::iter::once((0.0, first)).chain(rest).collect())
        };
        let all = Some(p.loss);
        let lines = vec![
            line("least needed by redundancy", Look::Colour(0), all, &|step| Some(step.redundancy)),
            line("least needed by saliency", Look::Colour(1), all, &|step| Some(step.saliency)),
            line(DRAWS, Look::Control, all, &PruningStep::random_mean),
            line(DRAWS, Look::Control, None, &|step| step.random_range().map(|r| r[0])),
            line(DRAWS, Look::Control, None, &|step| step.random_range().map(|r| r[1])),
            line("all experts", Look::Chance, all, &|_| all),
        ];
        charts.push((s.tag("loss without some experts"), lines));
    }
    let all: Vec<Vec<Line>> = charts.iter().map(|c| c.1.clone()).collect();
    let x = Axis::numbers("experts of each layer that are switched off", &all);
    let y = Axis::close("nats a token", &all);
    let left_out: Vec<String> =
        measured(subjects).flat_map(|(s, p)| p.left_out.iter().map(|sentence| s.tag(sentence) + ".")).collect();
    let about = About {
        id: "pruning-loss",
        title: "The loss without the least needed experts",
        shows: format!(
            "Loss on the text, on which saliency and redundancy were measured, when so many experts are switched off in all analysed layers at once: no token can choose them, and nothing is trained anew. By redundancy, of the two experts with the most aligned Jacobians the less salient goes first; by saliency, the one that adds least. {}",
            left_out.join(" ")
        )
        .trim_end()
        .to_owned(),
        chance: "Dotted: as many experts drawn at random in each layer, mean, lowest and highest of the draws. Broken: all experts. An order that is no better than the draws tells nothing.".into(),
        source: "METHOD \u{a7}7; arXiv 2605.16349, arXiv 2510.13999",
    };
    let figure = Figure::charts(about, charts.len().max(1), &x, &y, &charts)?;
    Some(figure.with_numbers(numbers(subjects)).with_list("The least needed experts", false, least_needed(subjects)))
}

fn numbers(subjects: &[Subject]) -> maud::Markup {
    // Losses differ in the third digit.
    let loss = |x: f64| if x.is_finite() { format!("{x:.4}") } else { UNDEFINED.into() };
    let mut rows = Vec::new();
    for (s, p) in measured(subjects) {
        let mut none = vec![s.tag(&format!("0 of {}", p.experts))];
        none.extend(std::iter::repeat_n(loss(p.loss), 3));
        none.push("\u{2013}".into());
        rows.push(none);
        rows.extend(p.steps.iter().map(|step| {
            let range = step.random_range().map(|[lo, hi]| format!("{} to {}", loss(lo), loss(hi)));
            let name = s.tag(&format!("{} of {}", step.off, p.experts));
            let mean = step.random_mean().map(loss);
            let dash = |x: Option<String>| x.unwrap_or("\u{2013}".into());
            vec![name, loss(step.redundancy), loss(step.saliency), dash(mean), dash(range)]
        }));
    }
    table(&["Experts off", "by redundancy", "by saliency", "at random", "lowest to highest"], &rows)
}

fn least_needed(subjects: &[Subject]) -> maud::Markup {
    let mut rows = Vec::new();
    for (s, p) in measured(subjects) {
        let most = p.steps.iter().map(|step| step.off).max().unwrap_or(0).min(LISTED);
        for layer in &p.layers {
            rows.extend(layer.redundancy.iter().take(most).map(|r| {
                vec![
                    s.tag(&layer.layer.to_string()),
                    r.expert.to_string(),
                    r.like.map_or("\u{2013}".into(), |e| e.to_string()),
                    finite(r.alignment).map_or("\u{2013}".into(), |x| show(Some(x))),
                    finite(r.saliency).map_or("no token".into(), |x| show(Some(x))),
                ]
            }));
        }
    }
    table(&["Layer", "expert", "most like", "alignment of Jacobians (chance 0)", "saliency over the mean"], &rows)
}
