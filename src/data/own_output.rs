//! Files that this program itself has written, recognised by its content, so that no run trains on the reports of
//! another one.
//!
//! A folder's name says nothing: `--out` may be any. And only the entries that the program makes there are its own;
//! what a person has put beside them is theirs.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::files;

/// The files that a run makes in its folder.
const OF_RUN: &[&str] = &[
    "config.toml",
    "config.toml.tmp",
    "metrics.jsonl",
    "summary.json",
    "summary.json.tmp",
    "run.lock",
    "checkpoint",
    "checkpoint.tmp",
    "checkpoint.old",
    "analysis",
    "hub",
    "tokens.safetensors",
    "tokens.unfinished",
];
/// Those of a folder that a model was made into before any step.
const OF_MODEL: &[&str] = &["checkpoint", "hub"];
/// The files that a report makes in its folder.
const OF_REPORT: &[&str] = &["report.html", "analysis.json", "analysis-first.json", "analysis-second.json", "figures"];

/// A run's settings are shorter than this, and a page says within its first bytes who made it.
const ENOUGH: u64 = 1 << 16;
/// Who made a page.
const GENERATOR: &str = "<meta name=\"generator\" content=\"sdmoe\">";

/// The names of the entries of `folder` that are this program's own; none where it holds neither a run nor a report.
pub(super) fn own_entries(folder: &Path) -> Vec<&'static str> {
    let run = match folder {
        run if is_run(run) => OF_RUN,
        model if is_model(model) => OF_MODEL,
        _ => &[],
    };
    let report = if is_report(folder) { OF_REPORT } else { &[] };
    [run, report].concat()
}

/// A complete `config.toml` and what a run adds to it: a file of settings alone may be anyone's.
fn is_run(folder: &Path) -> bool {
    let there = |name: &str| folder.join(name).exists();
    if !["metrics.jsonl", "checkpoint", "checkpoint.old"].into_iter().any(there) {
        return false;
    }
    let Some(settings) = beginning(&folder.join("config.toml")).and_then(|text| text.parse::<toml::Table>().ok())
    else {
        return false;
    };
    ["data", "model", "optimizer", "train", "spectral"].iter().all(|t| settings.get(*t).is_some_and(|v| v.is_table()))
}

/// A checkpoint by itself, as `sdmoe decouple` and `sdmoe upcycle` make one.
fn is_model(folder: &Path) -> bool {
    ["model.safetensors", "optimizer.safetensors"].iter().all(|name| folder.join("checkpoint").join(name).is_file())
}

fn is_report(folder: &Path) -> bool {
    beginning(&folder.join("report.html")).is_some_and(|page| page.contains(GENERATOR))
}

/// The first bytes of a regular file, as far as they are text.
fn beginning(path: &Path) -> Option<String> {
    // Most folders hold no such file; what cannot be read is not recognised, and reported where it is read as text.
    files::regular(path).ok()?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(ENOUGH).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_and_a_report_are_known_by_their_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let settings = "seed = 1\n[data]\n[model]\n[optimizer]\n[train]\n[spectral]\n";
        put("config.toml", settings);
        assert!(own_entries(dir.path()).is_empty(), "settings without a run");
        put("metrics.jsonl", "");
        assert!(own_entries(dir.path()).contains(&"checkpoint"));
        put("config.toml", "[package]\nname = \"other\"\n[model]\n");
        assert!(own_entries(dir.path()).is_empty(), "the settings of another program");
        std::fs::create_dir(dir.path().join("checkpoint")).unwrap();
        put("checkpoint/model.safetensors", "");
        put("checkpoint/optimizer.safetensors", "");
        assert_eq!(own_entries(dir.path()), OF_MODEL);
        std::fs::remove_dir_all(dir.path().join("checkpoint")).unwrap();
        put("report.html", "<!DOCTYPE html><html><head><meta name=\"generator\" content=\"other\">");
        assert!(own_entries(dir.path()).is_empty());
        put("report.html", &format!("<!DOCTYPE html><html><head>{GENERATOR}"));
        assert!(own_entries(dir.path()).contains(&"analysis.json") && !own_entries(dir.path()).contains(&"checkpoint"));
    }
}
