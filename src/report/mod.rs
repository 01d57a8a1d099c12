//! The report of an analysis: `report.html`, its figures as SVG, `analysis.json`, `keep.json` where it was asked which
//! experts could go, and a table for the terminal.
//!
//! The page is one file: style, script and data are inside, nothing is loaded. Charts are SVG written here; without the
//! script they are all there as first chosen, with it heat maps can be chosen among and values show under the pointer.
//! The same analysis gives the same bytes. Text from files is escaped by the templates (`maud`) or, in the script's
//! data, by JSON with `<` written as `\u003c`.

mod axis;
mod blocks;
mod colour;
mod difference;
mod figure;
mod files;
mod heat;
mod keep;
mod legend;
mod line;
mod lines;
mod measures;
mod method;
mod number;
mod page;
mod sections;
mod sheet;
mod subject;
mod svg;
mod terminal;
mod verdict;
mod warnings;

use std::path::{Path, PathBuf};

use crate::analysis::record::Analysis;
use crate::error::{Error, Result};

pub use files::check;
#[cfg(feature = "cli")]
pub(crate) use number::thousands;
pub use terminal::terminal_table;

/// The page.
pub const PAGE: &str = "report.html";
/// The record beside the page.
pub const RECORD: &str = "analysis.json";
/// The records beside the page of a comparison.
pub const RECORDS: [&str; 2] = ["analysis-first.json", "analysis-second.json"];
/// The experts to keep, where it was asked which could go.
pub const KEEP: &str = "keep.json";
/// The names of these files of a comparison.
pub const KEEPS: [&str; 2] = ["keep-first.json", "keep-second.json"];
/// The folder of the figures.
pub const FIGURES: &str = "figures";

/// Writes the report of one analysis into `dir`, which is created where it is missing.
///
/// # Errors
/// As [`check`]; [`Error::Io`]. What was in `dir` is then as before.
pub fn write(dir: &Path, analysis: &Analysis) -> Result<()> {
    write_report(dir, &[([RECORD, KEEP], analysis)])
}

/// Writes the report of two analyses side by side: a baseline and what is compared with it.
///
/// # Errors
/// As [`check`]; [`Error::Io`]. What was in `dir` is then as before.
pub fn write_comparison(dir: &Path, first: &Analysis, second: &Analysis) -> Result<()> {
    write_report(dir, &[([RECORDS[0], KEEPS[0]], first), ([RECORDS[1], KEEPS[1]], second)])
}

fn write_report(dir: &Path, analyses: &[([&str; 2], &Analysis)]) -> Result<()> {
    let records: Vec<&Analysis> = analyses.iter().map(|(_, a)| *a).collect();
    let rendered = page::render(&records);
    let mut outputs: Vec<files::Output> = Vec::new();
    for (name, svg) in rendered.figures {
        outputs.push((PathBuf::from(FIGURES).join(name + ".svg"), svg.into_bytes()));
    }
    for &([name, keep], analysis) in analyses {
        let mut text = serde_json::to_vec(analysis).map_err(|e| Error::io("writing", &dir.join(name))(e.into()))?;
        text.push(b'\n');
        outputs.push((PathBuf::from(name), text));
        outputs.extend(keep::file(dir, keep, analysis)?);
    }
    // Last: where the page is, everything is.
    outputs.push((PathBuf::from(PAGE), rendered.page.into_bytes()));
    files::write_all(dir, &outputs)
}
