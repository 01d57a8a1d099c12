//! Whether experts get different tokens.

use super::pairs::{Measure, SOURCE, heat_maps, trend};
use crate::analysis::record::RoutedPca;
use crate::report::figure::{About, Figure};
use crate::report::lines::Look;
use crate::report::number::{finite, mean};
use crate::report::subject::Subject;

fn pca_rows(s: &Subject) -> Vec<(usize, RoutedPca)> {
    s.analysis.routed_pca.iter().map(|p| (p.layer, p.clone())).collect()
}

/// Figures of the routed PCA.
pub fn routed_pca(subjects: &[Subject]) -> Vec<Option<Figure>> {
    let heat = About {
        id: "pca-pairs",
        title: "Subspaces of the tokens of every pair of experts",
        shows: "Leading principal components of the hidden states that each expert gets, weighted by its combine weights: their similarity, or their Grassmann distance (geodesic |t|, chordal |sin t|, projection sin t_max of the principal angles t). Experts with too few tokens are grey.".into(),
        chance: "For the similarity r / d, and the control of random groups of tokens of the same sizes: the experts of one layer see the same kind of text, so the control matters more. For the chordal distance sqrt(r (1 \u{2212} r / d)); for the geodesic the control alone.".into(),
        source: SOURCE,
    };
    let measures = [
        Measure {
            name: "similarity",
            pairs: |p: &RoutedPca| &p.similarity,
            null: |p| Some(p.null),
            control: |p| p.control,
        },
        Measure {
            name: "geodesic distance",
            pairs: |p| &p.geodesic,
            null: |_| None,
            // The record holds it over the largest distance, sqrt(r) pi / 2.
            control: |p| finite(p.control_geodesic).map(|g| g * (p.r as f64).sqrt() * std::f64::consts::FRAC_PI_2),
        },
        Measure {
            name: "chordal distance",
            pairs: |p| &p.chordal,
            null: |p| Some((p.r as f64 * (1.0 - p.null)).max(0.0).sqrt()),
            control: |_| None,
        },
        Measure { name: "projection distance", pairs: |p| &p.projection, null: |_| None, control: |_| None },
    ];
    let similarity = About {
        id: "pca-similarity",
        title: "Similarity over the layers",
        shows: "Mean over pairs of experts of the similarity of their tokens' subspaces.".into(),
        chance: "Broken: r / d. Dotted: random groups of tokens of the same sizes.".into(),
        source: SOURCE,
    };
    let distance = About {
        id: "pca-distance",
        title: "Geodesic distance over the layers",
        shows: "Mean over pairs of experts, over its largest value: 0 is the same subspace, 1 an orthogonal one."
            .into(),
        chance: "Dotted: random groups of tokens of the same sizes.".into(),
        source: SOURCE,
    };
    let variance = About {
        id: "pca-variance",
        title: "Explained variance over the layers",
        shows: "Share of the variance of an expert's tokens in the compared components, mean over experts.".into(),
        chance: "No null: it describes one expert's tokens and compares none.".into(),
        source: SOURCE,
    };
    let ranks = About {
        id: "pca-rank",
        title: "Effective rank over the layers",
        shows: "How many directions an expert's tokens fill: participation ratio and exp of the entropy, mean over experts.".into(),
        chance: "No null: it describes one expert's tokens and compares none. Even variances have d.".into(),
        source: SOURCE,
    };
    vec![
        heat_maps(heat, subjects, "routed tokens", pca_rows, &measures),
        trend(
            similarity,
            subjects,
            "similarity",
            pca_rows,
            &[
                ("routed tokens", Look::Colour(0), |p| p.mean_offdiag),
                ("chance", Look::Chance, |p| Some(p.null)),
                ("control", Look::Control, |p| p.control),
            ],
        ),
        trend(
            distance,
            subjects,
            "distance over its largest",
            pca_rows,
            &[
                ("routed tokens", Look::Colour(0), |p| p.mean_geodesic),
                ("control", Look::Control, |p| p.control_geodesic),
            ],
        ),
        trend(
            variance,
            subjects,
            "share of the variance",
            pca_rows,
            &[("mean of experts", Look::Colour(0), |p| mean(p.explained_variance.iter().copied()))],
        ),
        trend(
            ranks,
            subjects,
            "directions",
            pca_rows,
            &[
                ("participation ratio", Look::Colour(0), |p| mean(p.participation_ratio.iter().copied())),
                ("entropy", Look::Colour(0), |p| mean(p.effective_rank.iter().copied())),
            ],
        ),
    ]
}
