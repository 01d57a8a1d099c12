//! Text by source: which file or folder each byte came from, for asking which expert prefers what.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::batches::{Batch, Validation};
use super::corpus;
use super::own_output::own_entries;
use super::text::{STANDARD_INPUT, whole};
use super::tokens::Tokens;
use crate::error::{Error, Result};

/// A named piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name of the file or folder.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Windows of several sources, and the source of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceWindows {
    /// Whole windows behind each other.
    pub batch: Batch,
    /// For each window the number of its source.
    pub source: Vec<u32>,
}

impl SourceWindows {
    /// For each token of the windows of `seq` tokens the number of its source.
    pub fn source_of_tokens(&self, seq: usize) -> Vec<u32> {
        self.source.iter().flat_map(|&source| std::iter::repeat_n(source, seq)).collect()
    }
}

/// The sources of `paths`: each path is one, also where it is named twice; of a single folder each entry is one that
/// holds text. No path: the project's own sources, as one.
///
/// # Errors
/// As [`corpus::read`].
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let one = |path: &Path| Ok(Source { name: name(path), bytes: corpus::read(&[path.to_owned()])?.bytes });
    match paths {
        [] => Ok(vec![Source { name: "sdmoe".into(), bytes: corpus::read(&[])?.bytes }]),
        [folder] if folder.is_dir() => {
            let mut entries = Vec::new();
            let own = own_entries(folder);
            for entry in std::fs::read_dir(folder).map_err(Error::io("reading", folder))? {
                let path = entry.map_err(Error::io("reading", folder))?.path();
                let name = name(&path);
                if !name.starts_with('.') && name != "target" && !own.contains(&&*name) {
                    entries.push(path);
                }
            }
            entries.sort();
            // An entry without a byte of text is no source; a folder without any is an error, which `corpus` words.
            let sources: Vec<Source> = entries.iter().filter_map(|path| one(path).ok()).collect();
            if sources.is_empty() { Ok(vec![one(folder)?]) } else { Ok(sources) }
        }
        paths => {
            let mut met = BTreeSet::new();
            paths.iter().filter(|path| met.insert(whole(path))).map(|path| one(path)).collect()
        }
    }
}

fn name(path: &Path) -> String {
    if path.as_os_str() == STANDARD_INPUT {
        return "standard input".into();
    }
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// As [`windows_of`], of the sources' bytes.
///
/// # Errors
/// [`Error::Data`] when no source has `seq + 1` bytes.
pub fn windows(sources: &[Source], windows: usize, seq: usize) -> Result<SourceWindows> {
    let bytes: Vec<Tokens<'_>> = sources.iter().map(|source| Tokens::from(&source.bytes)).collect();
    windows_of(&bytes, windows, seq)
}

/// About `windows` windows of `seq` tokens, the same number from each source that has one, evenly spaced within it.
///
/// # Errors
/// [`Error::Data`] when no source has `seq + 1` tokens.
pub fn windows_of(sources: &[Tokens<'_>], windows: usize, seq: usize) -> Result<SourceWindows> {
    let long = |tokens: &Tokens<'_>| tokens.len() > seq;
    let count = sources.iter().filter(|tokens| long(tokens)).count();
    if count == 0 {
        let most = sources.iter().map(Tokens::len).max().unwrap_or(0);
        let (needed, unit) = (seq + 1, sources.first().map_or("bytes", Tokens::unit));
        let message = format!("the text to analyse: expected a source of at least {needed} {unit}, got {most}");
        return Err(Error::Data(message));
    }
    let each = windows.div_ceil(count).max(1);
    let mut found = SourceWindows { batch: Batch { tokens: Vec::new(), targets: Vec::new() }, source: Vec::new() };
    for (number, &tokens) in sources.iter().enumerate().filter(|(_, tokens)| long(tokens)) {
        for batch in Validation::new(tokens, 1, seq, each)?.iter() {
            found.batch.tokens.extend(batch.tokens);
            found.batch.targets.extend(batch.targets);
            found.source.push(number as u32);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_a_folder_is_a_source() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("b.txt", "bbb"), ("a/one.rs", "11"), ("a/two.rs", "2"), (".hidden", "x"), ("empty", "")] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sources = read(&[dir.path().to_owned()]).unwrap();
        let found: Vec<_> = sources.iter().map(|s| (s.name.as_str(), s.bytes.as_slice())).collect();
        assert_eq!(found, [("a", b"112".as_slice()), ("b.txt", b"bbb")]);
        let named = read(&["b.txt", "a", "b.txt"].map(|n| dir.path().join(n))).unwrap();
        assert_eq!(named.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["b.txt", "a"]);
    }

    #[test]
    fn windows_are_shared_evenly_by_the_sources_that_are_long_enough() {
        let source = |name: &str, n: usize| Source { name: name.into(), bytes: vec![n as u8; n] };
        let sources = [source("a", 100), source("short", 4), source("c", 50)];
        let found = windows(&sources, 6, 4).unwrap();
        assert_eq!(found.source, [0, 0, 0, 2, 2, 2]);
        assert_eq!((found.batch.tokens.len(), found.batch.tokens[0], found.batch.tokens[12]), (24, 100, 50));
        assert!(windows(&sources[1..2], 6, 4).unwrap_err().to_string().contains("at least 5 bytes, got 4"));
    }
}
