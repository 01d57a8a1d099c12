//! The last section: settings, coverage, words and sources.

use maud::{Markup, html};

use super::number::{percent, thousands};
use super::subject::Subject;
use crate::analysis::pairs::MANY;

/// Names of tensors that the page lists; all are in the record.
const LISTED: usize = 50;

/// The section.
pub fn section(subjects: &[Subject]) -> Markup {
    html! {
        section id="method" {
            h2 { "How it was measured" }
            @for s in subjects { (settings(s)) }
            h3 { "Words" }
            p { "Chance is the value that random subspaces of the same sizes have in the mean (the null). The control is the same measurement where there is nothing to find: Gaussian matrices of the same sizes, random groups of tokens of the same sizes, permuted sources. Of the two, the larger counts. What follows \u{b1} is a standard deviation: over pairs of experts, or over experts; of a control over its pairs or draws. The words in the verdict are for (similarity \u{2212} chance) / (1 \u{2212} chance):" }
            div.wide.whole {
                table.words {
                    tbody {
                        tr { th scope="row" { "below 0.03" } td { "no more than chance (below \u{2212}0.03: less than chance)" } }
                        tr { th scope="row" { "0.03 to 0.15" } td { "a little more than chance" } }
                        tr { th scope="row" { "0.15 to 0.5" } td { "clearly more than chance" } }
                        tr { th scope="row" { "0.5 and more" } td { "most of the subspace" } }
                    }
                }
            }
            p.hint { "Undefined (grey cells, gaps in lines) is what has no value: an expert without tokens, too few tokens for a subspace, a router row of zeros. Values under the pointer are rounded; the numbers are in analysis.json." }
            @if subjects.iter().any(|s| s.analysis.target.experts > MANY) {
                p.hint { "Of more than " (MANY) " experts in a layer, maps show blocks of neighbouring experts: the mean of their pairs, or the largest. An expert beside itself does not count. The most alike pairs are listed below the maps." }
            }
            h3 { "Sources" }
            p {
                "METHOD is the project\u{2019}s page of definitions, docs/method.md. "
                a href="https://arxiv.org/abs/2602.12556" { "arXiv 2602.12556" } ": SD-MoE: Spectral Decomposition for Effective Expert Specialization. "
                a href="https://arxiv.org/abs/2605.16349" { "arXiv 2605.16349" } ": Geometric Asymmetry in MoE Specialization."
            }
        }
    }
}

fn settings(s: &Subject) -> Markup {
    let (a, c) = (s.analysis, &s.analysis.coverage);
    let data = match &a.settings.data {
        Some(path) => format!("{path}, {} tokens", a.settings.tokens),
        None => "none: only weights were looked at".into(),
    };
    let facts = [
        ("Target", format!("{} ({}, names of {})", a.target.name, a.target.kind, a.target.family)),
        ("Analysed", format!("{} of {} expert matrices", thousands(c.matrices), thousands(c.matrices_found))),
        (
            "Other tensors",
            format!(
                "{} that belong to no expert, {} not understood",
                thousands(c.other_tensors),
                thousands(c.unknown_tensors.len())
            ),
        ),
        ("Top part", format!("{} of the directions, rounded up", percent(a.settings.top))),
        ("Data", data),
        ("Seed", a.settings.seed.to_string()),
        ("Adapter", a.settings.adapter.clone()),
        ("Version", a.settings.version.clone()),
    ];
    html! {
        h3 { (if s.name.is_empty() { "Settings and coverage".to_owned() } else { s.name.clone() }) }
        div.wide.whole {
            table.facts { tbody { @for (name, value) in &facts { tr { th scope="row" { (name) } td { (value) } } } } }
        }
        @if !c.unknown_tensors.is_empty() {
            details {
                summary { "Tensors that are not understood" }
                p {
                    @for (i, name) in c.unknown_tensors.iter().take(LISTED).enumerate() { @if i > 0 { ", " } code { (name) } }
                    @if c.unknown_tensors.len() > LISTED { " and " (c.unknown_tensors.len() - LISTED) " more, all in analysis.json" }
                }
            }
        }
    }
}
