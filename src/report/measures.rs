//! The figures of an analysis in one list: means over layers, matrices and experts.

use super::number::{finite, largest, mean, median, percent, show};
use super::subject::{SIDES, Subject, side};
use crate::analysis::record::{Decoupling, Jacobians, Load, Of, Part, RoutedPca};

/// One figure of a subject, for tiles, tables and the terminal.
#[derive(Debug)]
pub struct Measure {
    /// What it is.
    pub what: String,
    /// Its mean over what was measured.
    pub value: Option<f64>,
    /// What chance gives.
    pub null: Option<f64>,
    /// What the control gives.
    pub control: Option<f64>,
}

impl Measure {
    fn new(what: impl Into<String>, value: Option<f64>, null: Option<f64>, control: Option<f64>) -> Self {
        Self { what: what.into(), value, null, control }
    }

    /// `chance 0.016, control 0.017`, or what there is of it.
    pub fn beside(&self) -> String {
        let named = [("chance", self.null), ("control", self.control)];
        let parts: Vec<String> =
            named.iter().filter(|(_, x)| finite(*x).is_some()).map(|(n, x)| format!("{n} {}", show(*x))).collect();
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
                    all.push(Measure::new(
                        format!("Similarity of {}, {name}, {}", of_plain(of), side(on)),
                        x.mean,
                        x.null,
                        x.control,
                    ));
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
        all.push(Measure::new("Stable rank, weights", mean(spectra().map(|x| Some(x.stable_rank))), None, None));
    }
    if !a.gates.is_empty() {
        let own = mean(a.gates.iter().flat_map(|g| g.own.iter().copied()));
        let (null, control) = (mean(a.gates.iter().map(|g| Some(g.null))), mean(a.gates.iter().map(|g| g.control)));
        all.push(Measure::new("Router vector on its own expert's directions", own, null, control));
        let specificity = median(a.gates.iter().flat_map(|g| g.specificity.iter().copied()));
        all.push(Measure::new("Router specificity (own over others, median)", specificity, Some(1.0), None));
    }
    if !a.jacobians.is_empty() {
        let of = |f: fn(&Jacobians) -> Option<f64>| mean(a.jacobians.iter().map(f));
        all.push(Measure::new(
            "Cosine of expert Jacobians",
            of(|j| j.mean_offdiag),
            of(|j| Some(j.null)),
            of(|j| j.control),
        ));
    }
    if !a.routed_pca.is_empty() {
        let of = |f: fn(&RoutedPca) -> Option<f64>| mean(a.routed_pca.iter().map(f));
        all.push(Measure::new(
            "Similarity of routed tokens' subspaces",
            of(|p| p.mean_offdiag),
            of(|p| Some(p.null)),
            of(|p| p.control),
        ));
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
            all.push(Measure::new(
                "Information of source on expert (nats)",
                of(|l| l.mutual_information),
                of(|l| l.null),
                of(|l| l.control),
            ));
        }
    }
    if !a.decoupling.is_empty() {
        let of = |f: fn(&Decoupling) -> Option<f64>| mean(a.decoupling.iter().map(f));
        all.push(Measure::new("Drift, model side", of(|d| Some(d.drift_model)), of(|d| Some(d.null_model)), None));
        all.push(Measure::new("Drift, hidden side", of(|d| Some(d.drift_hidden)), of(|d| Some(d.null_hidden)), None));
    }
    if let Some(t) = &a.training {
        let last = t.val_loss.iter().rev().copied().find_map(finite);
        all.push(Measure::new("Validation loss at the end (nats per byte)", last, None, None));
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
