//! Text from files and folders, in a fixed order; any bytes will do, nothing is decoded.
//!
//! Must not depend on anything but what is named: no user-wide ignore file, no order of the file system. What is passed
//! over is counted, and reported in [`Text::description`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ignore::WalkBuilder;

use super::own_output::own_entries;
use crate::error::{Error, Result};
use crate::files;

/// The project's own sources and documents, joined by the build script.
static OWN_SOURCES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/own_sources.bin"));
/// The length of each of them.
static OWN_LENGTHS: &[usize] = include!(concat!(env!("OUT_DIR"), "/own_lengths.rs"));

/// The path that stands for standard input.
pub(super) const STANDARD_INPUT: &str = "-";

/// Text read from files: its bytes and, for a person, where they came from.
#[derive(Clone, Debug)]
pub struct Text {
    /// All files, joined.
    pub bytes: Vec<u8>,
    /// The length of each file.
    pub lengths: Vec<usize>,
    /// Where from, e.g. `3 files`.
    pub description: String,
}

/// The files that were not taken, and why.
#[derive(Debug, Default)]
struct PassedOver {
    binary: usize,
    links: usize,
    special: usize,
    /// Folders of this program's own runs and reports.
    own: usize,
    /// Files that were met before.
    twice: usize,
}

impl PassedOver {
    /// In brackets, with a space before them; nothing where all was taken.
    fn description(&self) -> String {
        let count =
            |n: usize, one: &str, many: &str| (n > 0).then(|| format!("{n} {}", if n == 1 { one } else { many }));
        let parts = [
            count(self.binary, "binary", "binary"),
            count(self.own, "folder of sdmoe's own runs and reports", "folders of sdmoe's own runs and reports"),
            count(self.links, "link that leads nowhere", "links that lead nowhere"),
            count(self.special, "pipe or device", "pipes or devices"),
        ];
        let passed = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let passed = if passed.is_empty() { passed } else { passed + " passed over" };
        let twice = count(self.twice, "named twice counts once", "named more than once count once");
        let all = [Some(passed).filter(|p| !p.is_empty()), twice].into_iter().flatten().collect::<Vec<_>>();
        if all.is_empty() { String::new() } else { format!(" ({})", all.join("; ")) }
    }
}

/// Reads files and folders; `-` is standard input; with no path, the project's own sources, which are part of the
/// program.
///
/// Folders are walked in the order of the file names. Passed over are hidden files, `target` folders, what a
/// `.gitignore` inside the folder excludes, files with a NUL byte, pipes and devices, links that lead nowhere or in a
/// circle, and what this program has itself written: its runs and reports, whatever their folders are called. A file
/// that is named itself is taken whatever it holds. A file that is met twice counts once.
///
/// # Errors
/// [`Error::Io`] for what cannot be read, and for a pipe or a device that is named itself; [`Error::Data`] when there
/// is not one byte.
pub fn read(paths: &[PathBuf]) -> Result<Text> {
    if paths.is_empty() {
        let description = "sdmoe's own sources and documents".to_owned();
        return Ok(Text { bytes: OWN_SOURCES.to_vec(), lengths: OWN_LENGTHS.to_vec(), description });
    }
    let (mut bytes, mut lengths, mut passed) = (Vec::new(), Vec::new(), PassedOver::default());
    let mut met = BTreeSet::new();
    for path in paths {
        let mut take = |content: Vec<u8>| {
            lengths.push(content.len());
            bytes.extend(content);
        };
        if path.as_os_str() == STANDARD_INPUT {
            if met.insert(path.clone()) {
                take(standard_input()?);
            } else {
                passed.twice += 1;
            }
            continue;
        }
        let about = files::about(path)?;
        if about.is_dir() {
            for file in walk(path, &mut passed)? {
                if !met.insert(whole(&file)) {
                    passed.twice += 1;
                    continue;
                }
                let content = std::fs::read(&file).map_err(Error::io("reading", &file))?;
                if content.contains(&0) { passed.binary += 1 } else { take(content) }
            }
        } else if !about.is_file() {
            let found = files::kind(&about);
            let message = format!("expected a file or a folder, found {found}; `--data -` reads standard input");
            return Err(Error::io("reading", path)(std::io::Error::other(message)));
        } else if met.insert(whole(path)) {
            take(std::fs::read(path).map_err(Error::io("reading", path))?);
        } else {
            passed.twice += 1;
        }
    }
    let s = if lengths.len() == 1 { "" } else { "s" };
    let description = match paths {
        [one] if one.as_os_str() == STANDARD_INPUT => "standard input".to_owned(),
        _ => format!("{} file{s}{}", lengths.len(), passed.description()),
    };
    if bytes.is_empty() {
        let names = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Data(format!("{names}: expected text, got no bytes in {description}")));
    }
    Ok(Text { bytes, lengths, description })
}

/// All that standard input has.
fn standard_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map_err(Error::io("reading", Path::new("standard input")))?;
    Ok(bytes)
}

/// A path that two names of one file have in common.
pub(super) fn whole(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// By folder: the entries that are this program's own, and whether one was met.
type Own = BTreeMap<PathBuf, (Vec<&'static str>, bool)>;

/// The files below a folder, sorted by name within each folder.
fn walk(folder: &Path, passed: &mut PassedOver) -> Result<Vec<PathBuf>> {
    let own: Arc<Mutex<Own>> = Arc::default();
    let seen = own.clone();
    let is_own = move |path: &Path| {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (names, met) = seen.entry(parent.to_owned()).or_insert_with(|| (own_entries(parent), false));
        let found = names.iter().any(|own| name == *own);
        *met |= found;
        found
    };
    let walker = WalkBuilder::new(folder)
        .standard_filters(false)
        .hidden(true)
        .git_ignore(true)
        .require_git(false)
        .follow_links(true)
        .filter_entry(move |e| {
            e.depth() == 0 || !((e.file_name() == "target" && e.path().is_dir()) || is_own(e.path()))
        })
        .sort_by_file_name(Ord::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walker {
        match entry {
            Ok(entry) if entry.file_type().is_some_and(|t| t.is_file()) => files.push(entry.into_path()),
            Ok(entry) if entry.file_type().is_some_and(|t| t.is_dir()) => {}
            Ok(_) => passed.special += 1,
            Err(e) if leads_nowhere(&e) => passed.links += 1,
            Err(e) => return Err(Error::io("reading", folder)(std::io::Error::other(e.to_string()))),
        }
    }
    passed.own += own.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|(_, met)| *met).count();
    Ok(files)
}

/// Whether the search of the folders met a link to what does not exist, or to a folder that it is in.
fn leads_nowhere(e: &ignore::Error) -> bool {
    match e {
        ignore::Error::Loop { .. } => true,
        ignore::Error::WithDepth { err, .. } => leads_nowhere(err),
        ignore::Error::WithPath { path, err } => {
            let denied = err.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
            leads_nowhere(err) || (!denied && path.is_symlink() && std::fs::metadata(path).is_err())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn folders_are_joined_in_name_order_without_hidden_binary_ignored_and_built_files() {
        let dir = folder(&[
            ("b.txt", b"B"),
            ("a/z.txt", b"ZZ"),
            ("a/y.txt", b"Y"),
            ("c.bin", b"C\0"),
            (".git/config", b"G"),
            (".hidden", b"H"),
            ("target/x.txt", b"T"),
            (".gitignore", b"skipped\n"),
            ("skipped", b"S"),
        ]);
        let text = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!((&text.bytes[..], &text.lengths[..]), (&b"YZZB"[..], &[1, 2, 1][..]));
        assert_eq!(text.description, "3 files (1 binary passed over)");
    }

    #[test]
    fn a_file_that_is_named_is_taken_whatever_it_holds() {
        let dir = folder(&[(".c.bin", b"C\0\xff")]);
        assert_eq!(read(&[dir.path().join(".c.bin")]).unwrap().bytes, b"C\0\xff");
    }

    #[test]
    fn a_file_that_is_met_twice_counts_once() {
        let dir = folder(&[("a/x.txt", b"X"), ("y.txt", b"Y")]);
        let at = |name: &str| dir.path().join(name);
        let text = read(&[at("a/x.txt"), at("a/../a/x.txt"), dir.path().to_owned(), at("y.txt")]).unwrap();
        assert_eq!(text.bytes, b"XY");
        assert_eq!(text.description, "2 files (3 named more than once count once)");
        assert_eq!(read(&[at("y.txt"), at("y.txt")]).unwrap().description, "1 file (1 named twice counts once)");
    }

    #[test]
    fn what_the_program_wrote_is_passed_over_and_what_lies_beside_it_taken() {
        let settings = b"[data]\n[model]\n[optimizer]\n[train]\n[spectral]\n";
        let page = b"<html><meta name=\"generator\" content=\"sdmoe\">";
        let dir = folder(&[
            ("a.txt", b"A"),
            ("any name/config.toml", settings),
            ("any name/metrics.jsonl", b"{}"),
            ("any name/analysis/report.html", page),
            ("any name/notes.txt", b"N"),
            ("texts/report.html", page),
            ("texts/analysis.json", b"{}"),
            ("texts/figures/x.svg", b"<svg>"),
            ("texts/b.txt", b"B"),
            ("settings/config.toml", b"mine"),
        ]);
        let text = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(text.bytes, b"ANmineB");
        assert_eq!(text.description, "4 files (2 folders of sdmoe's own runs and reports passed over)");
        // The same where such a folder is named itself.
        assert_eq!(read(&[dir.path().join("texts")]).unwrap().bytes, b"B");
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_pipes_and_sockets_are_passed_over_and_refused_where_they_are_named() {
        use std::os::unix::fs::symlink;
        let dir = folder(&[("a.txt", b"A"), ("b/b.txt", b"B")]);
        let at = |name: &str| dir.path().join(name);
        symlink("nothing", at("nowhere")).unwrap();
        symlink("circle", at("circle")).unwrap();
        symlink("..", at("b/up")).unwrap();
        symlink("a.txt", at("c.txt")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let text = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(text.bytes, b"AB");
        let passed = "3 links that lead nowhere, 3 pipes or devices passed over; 1 named twice counts once";
        assert_eq!(text.description, format!("2 files ({passed})"));
        let refused = |name: &str| read(&[at(name)]).unwrap_err().to_string();
        assert!(
            refused("pipe").contains("pipe: expected a file or a folder, found a named pipe"),
            "{}",
            refused("pipe")
        );
        assert!(refused("zero").contains("zero: expected a file or a folder, found a device"));
        assert!(refused("nowhere").contains("nowhere: a link to nothing, which does not exist"));
        assert!(refused("circle").contains("circle: a link that cannot be followed"));
    }

    #[test]
    fn nothing_to_read_is_an_error_that_names_the_path() {
        let dir = folder(&[("empty.txt", b"")]);
        let missing = dir.path().join("missing");
        assert!(read(&[missing]).unwrap_err().to_string().contains("missing"));
        assert!(read(&[dir.path().join("empty.txt")]).unwrap_err().to_string().contains("empty.txt"));
    }

    #[test]
    fn the_lengths_of_the_own_sources_are_those_of_their_files() {
        let text = read(&[]).unwrap();
        assert_eq!(text.lengths.iter().sum::<usize>(), text.bytes.len());
        assert!(text.lengths.len() > 100);
    }
}
