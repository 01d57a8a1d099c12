//! Joins the project's sources and documents into one file, the corpus that `sdmoe train` uses without `--data`, and writes
//! the length of each beside it: the end of every one is held out.
//!
//! Baked into the binary, so that an installed `sdmoe` trains on the same text wherever it is started.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Collects the text files below `path`, in the order of their names.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        for entry in entries {
            let text = entry.extension().is_some_and(|e| ["rs", "wgsl", "md"].iter().any(|t| e == *t));
            if text || entry.is_dir() {
                collect(&entry, files)?;
            }
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for root in ["README.md", "docs", "shaders", "src"] {
        let root = Path::new(root);
        if root.exists() {
            println!("cargo::rerun-if-changed={}", root.display());
            collect(root, &mut files)?;
        }
    }
    let (mut corpus, mut lengths) = (Vec::new(), Vec::new());
    for file in &files {
        let before = corpus.len();
        // A checkout with CRLF line ends trains on the same bytes.
        corpus.extend(fs::read(file)?.into_iter().filter(|b| *b != b'\r'));
        lengths.push(corpus.len() - before);
    }
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    fs::write(out.join("own_lengths.rs"), format!("&{lengths:?}"))?;
    fs::write(out.join("own_sources.bin"), corpus)
}
