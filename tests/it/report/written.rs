//! The files of a report: the same for the same record, replaced as a whole, or left alone.

use std::fs;
use std::path::Path;

use super::{files, markup, report};
use crate::common::plant::{BASELINE, LARGE, SMALL};
use sdmoe::Error;
use sdmoe::analysis::record::Analysis;
use sdmoe::report::{terminal_table, write};

#[test]
fn the_same_record_gives_the_same_bytes_and_the_record_reads_back() {
    let (a, b) = (BASELINE.analysis("a"), SMALL.analysis("b"));
    let ((one, _), (two, _)) = (report(&[&a, &b]), report(&[&a, &b]));
    let written = files(one.path());
    assert_eq!(written, files(two.path()));
    for (name, analysis) in [("analysis-first.json", &a), ("analysis-second.json", &b)] {
        assert!(serde_json::from_slice::<Analysis>(&written[Path::new(name)]).unwrap() == *analysis, "{name}");
    }
}

#[test]
fn an_empty_record_is_a_page_too() {
    let (_dir, page) = report(&[&Analysis::default()]);
    assert!(page.contains("No similarity of experts is defined"));
    roxmltree::Document::parse(&markup(&page)).unwrap();
    let (_dir, page) = report(&[&Analysis::default(), &LARGE.analysis("large")]);
    assert!(page.contains("cannot be compared"));
    assert!(terminal_table(&Analysis::default()).contains("No similarity"));
}

#[test]
fn a_new_report_takes_the_place_of_the_old_one_and_leaves_others_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    let own = dir.path().join("figures/own.svg");
    fs::write(&own, "<svg xmlns=\"http://www.w3.org/2000/svg\"/>").unwrap();
    fs::write(dir.path().join("metrics.jsonl"), "{}").unwrap();
    assert!(dir.path().join("figures/drift.svg").exists());
    write(dir.path(), &BASELINE.analysis("other")).unwrap();
    assert!(!dir.path().join("figures/drift.svg").exists());
    assert!(own.exists() && dir.path().join("metrics.jsonl").exists());
    assert!(files(dir.path()).keys().all(|p| !p.to_str().unwrap().contains("tmp")));
}

#[test]
fn a_report_that_was_interrupted_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    // Killed before the page was in its place, or before anything was.
    fs::create_dir(dir.path().join(".report.tmp")).unwrap();
    fs::rename(dir.path().join("report.html"), dir.path().join(".report.tmp/29")).unwrap();
    fs::remove_file(dir.path().join("analysis.json")).unwrap();
    write(dir.path(), &SMALL.analysis("whole")).unwrap();
    let early = tempfile::tempdir().unwrap();
    fs::create_dir(early.path().join(".report.tmp")).unwrap();
    fs::write(early.path().join(".report.tmp/0"), "<svg").unwrap();
    write(early.path(), &SMALL.analysis("whole")).unwrap();
    assert!(files(early.path()).keys().all(|p| !p.to_str().unwrap().contains("tmp")));
    // What others keep there is not for this program to remove.
    fs::create_dir(early.path().join(".report.tmp")).unwrap();
    fs::write(early.path().join(".report.tmp/mine"), "").unwrap();
    assert!(matches!(write(early.path(), &SMALL.analysis("whole")), Err(Error::Checkpoint { .. })));
}

#[test]
fn a_report_that_cannot_be_written_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Others' files, or a folder, where the page, the record or a figure should be.
    for (taken, report) in [("report.html/x", false), ("analysis.json", false), ("figures/drift.svg", true)] {
        if report {
            write(dir.path(), &BASELINE.analysis("old")).unwrap();
        }
        let taken = dir.path().join(taken);
        fs::create_dir_all(taken.parent().unwrap()).unwrap();
        fs::write(&taken, "old").unwrap();
        let before = files(dir.path());
        assert!(matches!(write(dir.path(), &SMALL.analysis("small")), Err(Error::Checkpoint { .. })), "{taken:?}");
        assert_eq!(files(dir.path()), before);
        fs::remove_dir_all(dir.path()).unwrap();
        fs::create_dir(dir.path()).unwrap();
    }
    // A file where the folder should be.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(write(&file, &SMALL.analysis("small")), Err(Error::Io { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"");
    // A folder that only the report needs is not left behind.
    let missing = file.join("deeper");
    assert!(write(&missing, &SMALL.analysis("small")).is_err() && !missing.exists());
}
