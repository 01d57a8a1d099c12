//! The report: complete, well-formed, escaped, self-contained, of bounded size, and the same for the same record.

mod page;
mod size;
mod words;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sdmoe::analysis::record::Analysis;
use sdmoe::report::{write, write_comparison};

/// All files below `dir`, by their paths in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn report(analyses: &[&Analysis]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    match analyses {
        [a] => write(dir.path(), a),
        [a, b] => write_comparison(dir.path(), a, b),
        _ => panic!("one or two"),
    }
    .unwrap();
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    (dir, page)
}

/// The page without the script, its data, and what XML does not know: the doctype and `meta` without an end.
fn markup(page: &str) -> String {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    let mut text = String::new();
    for (open, close) in [("<meta", ">"), ("<script", "</script>")] {
        while let Some(start) = rest.find(open) {
            let end = start + rest[start..].find(close).unwrap() + close.len();
            text.push_str(&rest[..start]);
            rest = &rest[end..];
        }
    }
    text + rest
}

/// The data that the script reads.
fn data(page: &str) -> serde_json::Value {
    let open = "<script type=\"application/json\" id=\"data\">";
    let start = page.find(open).unwrap() + open.len();
    let text = &page[start..start + page[start..].find("</script>").unwrap()];
    serde_json::from_str(text).unwrap()
}

/// Digits of packed cells.
const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
