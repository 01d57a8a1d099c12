//! The figures of an analysis in one list: means over layers, matrices and experts.

use super::number::{brief, finite, largest, mean, percent, pooled, show, with_spread};
use super::subject::{SIDES, Shared, Subject, side};
use crate::analysis::record::{Decoupling, Gates, Jacobians, Load, Of, Outputs, Part, RoutedPca};

/// One figure of a subject, for tiles, tables and the terminal.
#[derive(Debug)]
pub struct Measure {
    /// Its name.
    pub what: String,
    /// Its mean over what was measured.
    pub value: Option<f64>,
    /// Standard deviation over pairs of experts, or experts.
    pub spread: Option<f64>,
    /// The value that chance gives, where that is what to compare with.
    pub null: Option<f64>,
    /// The value that the control gives.
    pub control: Option<f64>,
    /// Standard deviation of the control over its draws or pairs.
    pub control_spread: Option<f64>,
}

impl Measure {
    fn new(what: impl Into<String>, value: Option<f64>, null: Option<f64>, control: Option<f64>) -> Self {
        Self { what: what.into(), value, spread: None, null, control, control_spread: None }
    }

    /// A similarity of experts.
    pub fn similarity(what: String, x: Shared) -> Self {
        Self::new(what, x.mean, x.null, x.control).spread(x.spread, x.control_spread)
    }

    /// Returns the same measure with the deviations of the value and of its control.
    fn spread(self, spread: Option<f64>, control_spread: Option<f64>) -> Self {
        Self { spread, control_spread, ..self }
    }

    /// `± 0.12, chance 0.016, control 0.017 ± 0.011`, or what there is of it.
    pub fn beside(&self) -> String {
        let spread = finite(self.spread).map(|s| format!("\u{b1} {}", brief(Some(s))));
        let chance = finite(self.null).map(|x| format!("chance {}", show(Some(x))));
        let control = finite(self.control).map(|x| format!("control {}", with_spread(Some(x), self.control_spread)));
        let parts: Vec<String> = [spread, chance, control].into_iter().flatten().collect();
        parts.join(", ")
    }
}

/// The figures of one subject, means over layers, matrices and experts; only what was measured.
pub fn measures(s: &Subject) -> Vec<Measure> {
    let a = s.analysis;
    let top = percent(a.settings.top);
    let mut all = Vec::new();
    for part in [Part::Top, Part::Tail] {
        for of in [Of::Weights, Of::Unique, Of::Gradients] {
            for on in SIDES {
                let name = if part == Part::Top { format!("top {top}") } else { "tail".into() };
                if s.rows(of, part).any(|r| r.side == on) {
                    let x = s.shared(of, part, on);
                    all.push(Measure::similarity(format!("Similarity of {}, {name}, {}", of_plain(of), side(on)), x));
                }
            }
        }
    }
    let spectra = || a.spectra.iter().filter(|x| x.of == Of::Weights && x.expert.is_some());
    if spectra().next().is_some() {
        let control = mean(spectra().map(|x| x.energy_top_control));
        all.push(Measure::new(
            format!("Energy in the top {top}, weights"),
            mean(spectra().map(|x| Some(x.energy_top))),
            None,
            control,
        ));
        let stable = mean(spectra().map(|x| Some(x.stable_rank)));
        let control = mean(spectra().map(|x| x.stable_rank_control));
        all.push(Measure::new("Stable rank, weights", stable, None, control));
    }
    if !a.gates.is_empty() {
        let own = mean(a.gates.iter().flat_map(|g| g.own.iter().copied()));
        let (null, control) = (mean(a.gates.iter().map(|g| Some(g.null))), mean(a.gates.iter().map(|g| g.control)));
        let measure = Measure::new("Router vector on its own expert's directions", own, null, control);
        let spread = pooled(a.gates.iter().map(|g| (mean(g.own.iter().copied()), g.spread)));
        all.push(measure.spread(spread, pooled(a.gates.iter().map(|g| (g.control, g.control_spread)))));
        let of = |f: fn(&Gates) -> Option<f64>| mean(a.gates.iter().map(f));
        let specificity = of(|g| g.mean_specificity);
        let measure = Measure::new(
            "Router specificity (mean own / mean others)",
            specificity,
            Some(1.0),
            of(|g| g.specificity_control),
        );
        let draws = a.gates.iter().map(|g| (g.specificity_control, g.specificity_control_spread));
        all.push(measure.spread(None, pooled(draws)));
        let (rank, null) = (of(|g| g.stable_rank), of(|g| g.stable_rank_null));
        if rank.is_some() {
            all.push(Measure::new("Stable rank of the router", rank, null, of(|g| g.stable_rank_control)));
        }
    }
    if !a.jacobians.is_empty() {
        let of = |f: fn(&Jacobians) -> Option<f64>| mean(a.jacobians.iter().map(f));
        let measure =
            Measure::new("Cosine of expert Jacobians", of(|j| j.mean_offdiag), of(|j| Some(j.null)), of(|j| j.control));
        let spread = pooled(a.jacobians.iter().map(|j| (j.mean_offdiag, j.spread)));
        all.push(measure.spread(spread, pooled(a.jacobians.iter().map(|j| (j.control, j.control_spread)))));
    }
    if !a.routed_pca.is_empty() {
        let of = |f: fn(&RoutedPca) -> Option<f64>| mean(a.routed_pca.iter().map(f));
        // Tokens of one layer are alike whoever gets them: only random groups of them are a comparison.
        let measure =
            Measure::new("Similarity of routed tokens' subspaces", of(|p| p.mean_offdiag), None, of(|p| p.control));
        let spread = pooled(a.routed_pca.iter().map(|p| (p.mean_offdiag, p.spread)));
        all.push(measure.spread(spread, pooled(a.routed_pca.iter().map(|p| (p.control, p.control_spread)))));
    }
    if !a.load.is_empty() {
        let of = |f: fn(&Load) -> Option<f64>| mean(a.load.iter().map(f));
        all.push(Measure::new(
            "Load: E max f \u{2212} 1, worst layer",
            largest(a.load.iter().map(|l| Some(l.max_violation))),
            Some(0.0),
            None,
        ));
        all.push(Measure::new(
            "Experts without a token",
            Some(a.load.iter().map(|l| l.dead).sum::<usize>() as f64),
            None,
            None,
        ));
        if a.load.iter().any(|l| l.mutual_information.is_some()) {
            let measure = Measure::new(
                "Information of source on expert (nats)",
                of(|l| l.mutual_information),
                of(|l| l.null),
                of(|l| l.control),
            );
            all.push(measure.spread(None, pooled(a.load.iter().map(|l| (l.control, l.control_spread)))));
        }
    }
    if !a.outputs.is_empty() {
        all.extend(outputs(&a.outputs));
    }
    if let Some(p) = &a.pruning {
        all.push(Measure::new("Loss on the text (nats a token)", Some(p.loss), None, None));
        for step in &p.steps {
            for (by, loss) in [("redundancy", step.redundancy), ("saliency", step.saliency)] {
                let name = format!("Loss added without {} of {}, by {by}", step.off, p.experts);
                let random = step.random_mean().map(|random| random - p.loss);
                let measure = Measure::new(name, Some(loss - p.loss), None, random);
                all.push(measure.spread(None, step.random_spread()));
            }
        }
    }
    if !a.decoupling.is_empty() {
        let of = |f: fn(&Decoupling) -> Option<f64>| mean(a.decoupling.iter().map(f));
        all.push(Measure::new("Drift, model side", of(|d| Some(d.drift_model)), of(|d| Some(d.null_model)), None));
        all.push(Measure::new("Drift, hidden side", of(|d| Some(d.drift_hidden)), of(|d| Some(d.null_hidden)), None));
    }
    if let Some(t) = &a.training {
        let last = t.val_loss.iter().rev().copied().find_map(finite);
        all.push(Measure::new("Validation loss at the end (nats per token)", last, None, None));
    }
    all
}

/// Measures of what experts add to the output.
fn outputs(rows: &[Outputs]) -> Vec<Measure> {
    let of = |f: fn(&Outputs) -> Option<f64>| mean(rows.iter().map(f));
    let saliency = mean(rows.iter().map(|o| o.over_mean(o.saliency_spread)));
    let by_chance = mean(rows.iter().map(|o| o.over_mean(o.null_saliency_spread)));
    let cosine = Measure::new(
        "Cosine of expert outputs",
        of(|o| o.mean_cosine),
        of(|o| Some(o.null_cosine)),
        of(|o| o.cosine_control),
    );
    let spread = pooled(rows.iter().map(|o| (o.mean_cosine, o.cosine_spread)));
    let control = pooled(rows.iter().map(|o| (o.cosine_control, o.cosine_control_spread)));
    let mut all = vec![
        cosine.spread(spread, control),
        Measure::new("Spread of saliency over experts (/ its mean)", saliency, by_chance, None),
    ];
    if rows.iter().any(|o| o.shared_share.is_some()) {
        let (share, null) = (of(|o| o.shared_share), of(|o| o.null_shared_share));
        all.push(Measure::new("Share of the shared expert in the output", share, null, None));
    }
    all
}

fn of_plain(of: Of) -> &'static str {
    match of {
        Of::Weights => "weights (merged where decoupled)",
        Of::Unique => "unique parts W_u",
        Of::Gradients => "gradients",
        Of::Activations => "activations",
    }
}
