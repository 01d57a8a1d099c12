//! The report as a table for the terminal.

use super::measures::{Measure, measures};
use super::number::{finite, largest, pooled, show, thousands};
use super::subject::{SIDES, Subject, side, subjects};
use super::verdict::verdict;
use crate::analysis::record::{Analysis, Of, Part};
use crate::nn::config::ExpertMatrix;
use crate::train::progress::plain;

/// Tensors listed here.
const LISTED: usize = 20;

/// The verdict, the similarities by matrix and side, and the other measures; lines of 80 columns but for the verdict.
pub fn terminal_table(analysis: &Analysis) -> String {
    let subjects = subjects(&[analysis]);
    let s = &subjects[0];
    let c = &analysis.coverage;
    let mut lines = vec![verdict(&subjects).headlines.join(" ")];
    lines.push(format!(
        "Analysed {} of {} expert matrices; {} other tensors, {} not understood.",
        thousands(c.matrices),
        thousands(c.matrices_found),
        thousands(c.other_tensors),
        thousands(c.unknown_tensors.len())
    ));
    lines.extend(c.unknown_tensors.iter().take(LISTED).map(|name| format!("  not understood: {name}")));
    if let Some(more) = c.unknown_tensors.len().checked_sub(LISTED).filter(|n| *n > 0) {
        lines.push(format!("  and {} more, all in {}", thousands(more), super::RECORD));
    }
    let other = |o: &crate::analysis::record::OtherStack| {
        format!("  layers of {}: a report of their own, in {}", super::svg::shorten(&o.name, 32), o.folder)
    };
    lines.extend(c.other_stacks.iter().map(other));
    lines.push(String::new());
    lines.extend(similarity(s));
    let all = measures(s);
    let others: Vec<_> =
        all.iter().filter(|m| !m.what.starts_with("Similarity of") || m.what.contains("routed")).collect();
    if !others.is_empty() {
        lines.push(String::new());
        lines.push(row("", &["mean", "\u{b1}", "chance", "control"].map(str::to_owned)));
        let cells = |m: &Measure| [show(m.value), cell(m.spread), cell(m.null), cell(m.control)];
        lines.extend(others.iter().map(|m| row(&m.what, &cells(m))));
    }
    lines.extend(analysis.pruning.iter().flat_map(|p| p.left_out.iter().cloned()));
    // Names of folders and tensors may hold anything.
    let lines: Vec<_> = lines.iter().map(|line| plain(line)).collect();
    (lines.join("\n") + "\n").replace('\u{a0}', " ")
}

/// Returns the value as text; one that is not there is a dash.
fn cell(x: Option<f64>) -> String {
    finite(x).map_or("\u{2013}".into(), |_| show(x))
}

fn row(name: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|c| format!("{c:>8}")).collect();
    format!("{name:<48}{cells}").trim_end().to_owned()
}

fn similarity(s: &Subject) -> Vec<String> {
    let heads = ["mean", "\u{b1}", "worst", "layer", "chance", "control"].map(str::to_owned);
    let line = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|c| format!("{c:>8}")).collect();
        format!("{name:<30}{cells}").trim_end().to_owned()
    };
    let mut lines = vec![line("similarity of the top part", &heads)];
    for of in [Of::Weights, Of::Unique, Of::Gradients] {
        for m in ExpertMatrix::ALL {
            for on in SIDES {
                let rows: Vec<_> = s.rows(of, Part::Top).filter(|r| r.matrix == m && r.side == on).collect();
                if rows.is_empty() {
                    continue;
                }
                let mean = |f: fn(&crate::analysis::record::Similarity) -> Option<f64>| {
                    super::number::mean(rows.iter().map(|r| f(r)))
                };
                let most = largest(rows.iter().map(|r| r.mean_offdiag));
                let layer = rows.iter().find(|r| most.is_some() && finite(r.mean_offdiag) == most);
                lines.push(line(
                    &format!("{}, {}, {}", s.of(of), m.name(), side(on)),
                    &[
                        show(mean(|r| r.mean_offdiag)),
                        cell(pooled(rows.iter().map(|r| (r.mean_offdiag, r.spread)))),
                        show(most),
                        layer.map_or("\u{2013}".into(), |r| r.layer.to_string()),
                        show(mean(|r| Some(r.null))),
                        cell(mean(|r| r.control)),
                    ],
                ));
            }
        }
    }
    lines
}
