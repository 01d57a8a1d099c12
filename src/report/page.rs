//! The page: one file that needs nothing else.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;

use super::colour;
use super::difference;
use super::figure::{Choice, Figure, table};
use super::method;
use super::sections::{self, Section};
use super::subject::{Subject, subjects};
use super::svg;
use super::verdict::{Verdict, verdict};
use super::warnings;
use crate::analysis::record::Analysis;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The data that the script reads.
#[derive(Serialize)]
struct Data<'a> {
    scale: String,
    figures: BTreeMap<&'a str, &'a Choice>,
}

/// The page and the figures in it, as SVG by name.
#[derive(Debug)]
pub struct Rendered {
    /// `report.html`.
    pub page: String,
    /// Name without ending, and content.
    pub figures: Vec<(String, String)>,
}

/// Renders one analysis, or two side by side.
pub fn render(analyses: &[&Analysis]) -> Rendered {
    let subjects = subjects(analyses);
    let first = sections::first_screen(&subjects);
    let sections = sections::all(&subjects);
    let all: Vec<&Figure> = first.iter().chain(sections.iter().flat_map(|s| &s.figures)).collect();
    let page = page(&subjects, &first, &sections, &all);
    Rendered { page: page.into_string(), figures: all.iter().map(|f| (f.id.clone(), f.file())).collect() }
}

fn page(subjects: &[Subject], first: &[Figure], sections: &[Section], all: &[&Figure]) -> Markup {
    let names: Vec<&str> = subjects.iter().map(|s| s.analysis.target.name.as_str()).collect();
    let title = format!("{} \u{2013} how specialised are the experts?", names.join(" against "));
    let figures = all.iter().filter_map(|f| Some((f.id.as_str(), f.choice.as_ref()?))).collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="sdmoe";
                title { (title) }
                // The page's own colours come second: they know of dark screens and of paper.
                style { (PreEscaped(svg::STYLE)) (PreEscaped(STYLE)) }
            }
            body {
                header { (head(subjects, &verdict(subjects))) }
                main {
                    (warnings::section(subjects))
                    div.figures { @for f in first { (f.html()) } }
                    @if let [a, b] = subjects { (difference::section(a, b)) }
                    (contents(subjects, sections))
                    @for s in sections { (section(s)) }
                    (method::section(subjects))
                }
                div id="tip" role="status" hidden="hidden" {}
                script type="application/json" id="data" { (PreEscaped(json(&Data { scale: colour::scale(), figures }))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn head(subjects: &[Subject], verdict: &Verdict) -> Markup {
    html! {
        @for s in subjects {
            p.what { (describe(s)) }
            @for other in &s.analysis.coverage.other_stacks {
                p.what { "Layers of " (other.name) ": " a href=(format!("{}/{}", other.folder, super::PAGE)) { "a report of their own" } }
            }
        }
        @for headline in &verdict.headlines {
            @if subjects.len() > 1 { h1.two { (headline) } } @else { h1 { (headline) } }
        }
        div.verdict { @for s in &verdict.sentences { p { (s) } } }
        @if !verdict.glance.is_empty() {
            div.wide.whole.glance {
                (table(&["Top part, mean over layers and matrices", "similarity", "chance", "control", "in words"], &verdict.glance))
            }
        }
        @if !verdict.tiles.is_empty() {
            dl.tiles {
                @for t in &verdict.tiles {
                    div { dt { (t.what) } dd { (t.value) } @if !t.beside.is_empty() { dd { (t.beside) } } }
                }
            }
        }
    }
}

/// `runs/baseline, a run at step 600: 4 layers of 8 experts, 128 x 256`.
fn describe(s: &Subject) -> String {
    let t = &s.analysis.target;
    let kind = match t.kind.as_str() {
        "run" => "a run",
        "checkpoint" => "a checkpoint",
        "hugging_face" => "a Hugging Face checkpoint",
        "safetensors" => "a safetensors file",
        other => other,
    };
    let step = t.step.map(|step| format!(" at step {step}")).unwrap_or_default();
    let decoupled = if t.spectral { ", decoupled (W = W_c + W_u)" } else { "" };
    let text = format!(
        "{}, {kind}{step}: {} MoE {} of {} experts, {} \u{d7} {}{decoupled}",
        t.name,
        t.layers.len(),
        if t.layers.len() == 1 { "layer" } else { "layers" },
        t.experts,
        t.d_model,
        t.d_expert
    );
    if s.name.is_empty() || s.name == t.name { text } else { format!("{}: {text}", s.name) }
}

fn contents(subjects: &[Subject], sections: &[Section]) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul {
                @if subjects.len() > 1 { li { a href="#difference" { "Differences" } } }
                @for s in sections { @if !s.figures.is_empty() { li { a href=(format!("#{}", s.id)) { (s.question) } } } }
                li { a href="#method" { "How it was measured" } }
            }
        }
    }
}

fn section(s: &Section) -> Markup {
    html! {
        section id=(s.id) {
            h2 { (s.question) }
            @if s.figures.is_empty() {
                p.hint { "Not measured: " (s.option) "." }
            }
            div.figures { @for f in &s.figures { (f.html()) } }
        }
    }
}

/// JSON that cannot end the script element it stands in.
fn json(data: &Data) -> String {
    // What the page is made of always serialises: strings, finite numbers and maps by strings.
    let text = serde_json::to_string(data).unwrap_or_default();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
