//! Warnings about the runs: settings without effect or with harm, and what training measured.

use maud::{Markup, html};

use super::subject::Subject;
use crate::train::warnings::Warning;

/// A list of the runs' warnings; nothing where there are none.
pub fn section(subjects: &[Subject]) -> Markup {
    let of = |s: &Subject| s.analysis.training.as_ref().map(|t| t.warnings.clone()).unwrap_or_default();
    let all: Vec<(&str, Warning)> =
        subjects.iter().flat_map(|s| of(s).into_iter().map(|w| (s.name.as_str(), w))).collect();
    html! {
        @if !all.is_empty() {
            section id="warnings" {
                h2 { "What to be wary of" }
                ul {
                    @for (name, warning) in &all {
                        li { @if subjects.len() > 1 { (name) ": " } (warning.message) }
                    }
                }
            }
        }
    }
}
