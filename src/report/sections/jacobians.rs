//! Whether experts compute different functions.

use super::pairs::{Measure, SOURCE, heat_maps, trend};
use super::spectra::{control, spread};
use crate::analysis::record::Jacobians;
use crate::report::figure::{About, Figure};
use crate::report::lines::{Axis, Line, Look};
use crate::report::number::{mean, smallest};
use crate::report::subject::{Subject, graded, layers};

fn jacobian_rows(s: &Subject) -> Vec<(usize, Jacobians)> {
    s.analysis.jacobians.iter().map(|j| (j.layer, j.clone())).collect()
}

/// `32 tokens of 3 sources, spread over positions 2 to 125 of windows of 128`, as far as that is known.
fn tokens(j: &Jacobians) -> String {
    let mut text = format!("{} tokens", j.tokens);
    if j.sources > 0 {
        text += &format!(" of {} {}", j.sources, if j.sources == 1 { "source" } else { "sources" });
    }
    if let (Some(first), Some(last)) = (j.positions.iter().min(), j.positions.iter().max()) {
        text += &format!(", spread over positions {first} to {last} of windows of {}", j.window);
    }
    text
}

/// Figures of the Jacobians.
pub fn jacobians(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let how = |s: &Subject| {
        let j = s.analysis.jacobians.first()?;
        let kind = j.probes.map_or("exact".into(), |p| format!("by {p} random probes a token"));
        Some(s.tag(&format!("{kind}, at {}", tokens(j))))
    };
    let how: Vec<String> = subjects.iter().filter_map(how).collect();
    let cosines = "The cosine of two experts' Jacobians d expert(x) / dx: 1 is the same local function up to a factor.";
    let heat = About {
        id: "jacobians-pairs",
        title: "Alignment of every pair of experts",
        shows: format!(
            "{cosines} Mean of the cosines over tokens, or the cosine of the mean Jacobians. Measured: {}.",
            how.join("; ")
        ),
        chance: "Independent functions have 0; the control is experts with Gaussian weights of the same norms.".into(),
        source: SOURCE,
    };
    let measures = [
        Measure {
            name: "mean of cosines",
            pairs: |j: &Jacobians| &j.mean_of_cosines,
            null: |j| Some(j.null),
            control: |j| j.control,
        },
        Measure { name: "cosine of means", pairs: |j| &j.cosine_of_means, null: |j| Some(j.null), control: |_| None },
    ];
    let over = About {
        id: "jacobians-trend",
        title: "Alignment over the layers",
        shows: format!("{cosines} Mean over pairs of experts."),
        chance: "Broken: 0. Dotted: experts with Gaussian weights of the same norms, for the mean of cosines.".into(),
        source: SOURCE,
    };
    let rank = About {
        id: "jacobians-rank",
        title: "Effective rank of the Jacobians",
        shows: format!(
            "Mean over tokens and experts: about how many directions of the input an expert responds to. Measured: {}.",
            how.join("; ")
        ),
        chance: "Dotted: experts with Gaussian weights of the same norms. A Jacobian with even singular values has d."
            .into(),
        source: SOURCE,
    };
    vec![
        heat_maps(heat, subjects, "Jacobians", jacobian_rows, &measures),
        trend(
            over,
            subjects,
            "cosine",
            jacobian_rows,
            &[
                ("mean of cosines", Look::Colour(0), |j| j.mean_offdiag),
                ("cosine of means", Look::Colour(0), |j| j.means_offdiag),
                ("chance", Look::Chance, |j| Some(j.null)),
                ("control", Look::Control, |j| j.control),
            ],
        ),
        jacobian_spectra(subjects, &how.join("; ")),
        trend(
            rank,
            subjects,
            "effective rank",
            jacobian_rows,
            &[
                ("mean of experts", Look::Colour(0), |j| mean(j.effective_rank.iter().copied())),
                ("control", Look::Control, |j| j.effective_rank_control),
            ],
        ),
    ]
}

fn jacobian_spectra(subjects: &[Subject], how: &str) -> Option<Figure> {
    let all_layers = layers(subjects);
    let line = |j: &Jacobians| {
        let values = j.relative_spectrum();
        let points = spread(values.len()).into_iter().map(|i| ((i + 1) as f64, Some(values[i])));
        graded(j.layer, &all_layers, points.collect())
    };
    let gaussian =
        |s: &Subject| control(&s.analysis.jacobians.iter().map(|j| &j.spectrum_control[..]).collect::<Vec<_>>());
    let lines = |s: &Subject| s.analysis.jacobians.iter().map(line).chain(gaussian(s)).collect();
    let charts: Vec<(String, Vec<Line>)> = subjects.iter().map(|s| (s.tag("Jacobians"), lines(s))).collect();
    let points = || charts.iter().flat_map(|c| &c.1).flat_map(|l| &l.points);
    let least = smallest(points().map(|p| p.1.filter(|y| *y > 0.0))).unwrap_or(0.1).clamp(1e-3, 0.5);
    let x = Axis::logarithmic("singular direction", (1.0, points().map(|p| p.0).fold(2.0, f64::max)));
    let y = Axis::logarithmic("s\u{2c7c} / s\u{2081}", (least, 1.0));
    let about = About {
        id: "jacobians-spectra",
        title: "Singular spectra of the Jacobians",
        shows: format!(
            "Singular values over the largest, mean over tokens and experts, one line a layer. Measured: {how}."
        ),
        chance: "Dotted: experts with Gaussian weights of the same norms, mean over the layers.".into(),
        source: SOURCE,
    };
    Figure::by_layer(about, 2, (&x, &y), &charts, &all_layers, None)
}
