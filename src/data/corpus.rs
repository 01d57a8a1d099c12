//! The corpus: the bytes of files and folders, joined in a fixed order, with the last part held out for validation.
//!
//! No decoding: any bytes will do. Must not depend on anything but the named files: no user-wide ignore file, no order of
//! the file system.

use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

use crate::error::{Error, Result};

/// The project's own sources and documents, joined by the build script.
static OWN_SOURCES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/own_sources.bin"));

/// Bytes to train on and bytes held out.
#[derive(Clone, Debug)]
pub struct Corpus {
    bytes: Vec<u8>,
    split: usize,
    description: String,
}

/// Text read from files: its bytes and, for a person, where they came from.
#[derive(Clone, Debug)]
pub struct Text {
    /// All files, joined.
    pub bytes: Vec<u8>,
    /// Where from, e.g. `3 files`.
    pub description: String,
}

/// Reads files and folders; with no path, the project's own sources, which are part of the program.
///
/// Folders are walked in the order of the file names; hidden files, `target` folders, what a `.gitignore` inside the
/// folder excludes, and files with a NUL byte are passed over. A file that is named itself is taken whatever it holds.
///
/// # Errors
/// [`Error::Io`] for what cannot be read, [`Error::Data`] when there is not one byte.
pub fn read(paths: &[PathBuf]) -> Result<Text> {
    if paths.is_empty() {
        let description = "sdmoe's own sources and documents".to_owned();
        return Ok(Text { bytes: OWN_SOURCES.to_vec(), description });
    }
    let (mut bytes, mut files, mut binary) = (Vec::new(), 0usize, 0usize);
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(Error::io("reading", path))?;
        if !metadata.is_dir() {
            bytes.extend(std::fs::read(path).map_err(Error::io("reading", path))?);
            files += 1;
            continue;
        }
        for file in walk(path)? {
            let content = std::fs::read(&file).map_err(Error::io("reading", &file))?;
            if content.contains(&0) {
                binary += 1;
            } else {
                bytes.extend(content);
                files += 1;
            }
        }
    }
    let skipped = if binary > 0 { format!(" ({binary} binary passed over)") } else { String::new() };
    let description = format!("{files} file{}{skipped}", if files == 1 { "" } else { "s" });
    if bytes.is_empty() {
        let names = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Data(format!("{names}: expected text, got no bytes in {description}")));
    }
    Ok(Text { bytes, description })
}

/// The files below a folder, sorted by name within each folder.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let walker = WalkBuilder::new(folder)
        .standard_filters(false)
        .hidden(true)
        .git_ignore(true)
        .require_git(false)
        .follow_links(true)
        .filter_entry(|e| e.depth() == 0 || e.file_name() != "target" || !e.path().is_dir())
        .sort_by_file_name(Ord::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walker {
        let entry = entry.map_err(|e| Error::Io {
            action: "reading",
            path: folder.to_owned(),
            source: std::io::Error::other(e.to_string()),
        })?;
        if entry.file_type().is_some_and(|t| t.is_file()) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

impl Corpus {
    /// Reads `paths` (none: the project's own sources) and holds out the last `validation_fraction` of the bytes.
    ///
    /// # Errors
    /// As [`read`].
    pub fn load(paths: &[PathBuf], validation_fraction: f64) -> Result<Self> {
        let text = read(paths)?;
        Ok(Self::from_bytes(text.bytes, validation_fraction, text.description))
    }

    /// A corpus from bytes that are already there.
    pub fn from_bytes(bytes: Vec<u8>, validation_fraction: f64, description: String) -> Self {
        let held_out = (bytes.len() as f64 * validation_fraction.clamp(0.0, 1.0)).round() as usize;
        let split = bytes.len() - held_out.min(bytes.len());
        Self { bytes, split, description }
    }

    /// The bytes to train on.
    pub fn train(&self) -> &[u8] {
        &self.bytes[..self.split]
    }

    /// The bytes held out.
    pub fn validation(&self) -> &[u8] {
        &self.bytes[self.split..]
    }

    /// Where the bytes came from, and how many, for a person.
    pub fn description(&self) -> String {
        let (train, held_out) = (self.train().len(), self.validation().len());
        format!("{}: {train} bytes to train on, {held_out} held out", self.description)
    }

    /// FNV-1a over the bytes and the split: tells whether a resumed run sees the data that it was started with.
    pub fn fingerprint(&self) -> u64 {
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3);
        let split = (self.split as u64).to_le_bytes();
        split.iter().chain(&self.bytes).fold(0xCBF2_9CE4_8422_2325, |h, b| step(h, *b))
    }

    /// Checks that both parts hold at least one sequence and the byte after it.
    ///
    /// # Errors
    /// [`Error::Data`] with what is needed and what there is.
    pub fn require(&self, seq: usize) -> Result<()> {
        require(self.train(), seq, "the part to train on")?;
        require(self.validation(), seq, "the held-out part (data.validation_fraction)")
    }
}

/// Checks that `bytes` hold one sequence and the byte after it.
///
/// # Errors
/// [`Error::Data`] with what is needed and what there is.
pub fn require(bytes: &[u8], seq: usize, part: &str) -> Result<()> {
    let (got, needed) = (bytes.len(), seq + 1);
    if got < needed {
        return Err(Error::Data(format!(
            "{part} is shorter than one sequence: expected at least {needed} bytes (seq + 1), got {got}"
        )));
    }
    Ok(())
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
            ("a/z.txt", b"Z"),
            ("a/y.txt", b"Y"),
            ("c.bin", b"C\0"),
            (".git/config", b"G"),
            (".hidden", b"H"),
            ("target/x.txt", b"T"),
            (".gitignore", b"skipped\n"),
            ("skipped", b"S"),
        ]);
        let text = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(text.bytes, b"YZB");
        assert_eq!(text.description, "3 files (1 binary passed over)");
    }

    #[test]
    fn a_file_that_is_named_is_taken_whatever_it_holds() {
        let dir = folder(&[(".c.bin", b"C\0\xff")]);
        assert_eq!(read(&[dir.path().join(".c.bin")]).unwrap().bytes, b"C\0\xff");
    }

    #[test]
    fn the_last_part_is_held_out() {
        let corpus = Corpus::from_bytes((0..100).collect(), 0.1, String::new());
        assert_eq!((corpus.train().len(), corpus.validation()), (90, &(90..100).collect::<Vec<u8>>()[..]));
        corpus.require(9).unwrap();
        let message = corpus.require(10).unwrap_err().to_string();
        assert!(message.contains("at least 11 bytes (seq + 1), got 10"), "{message}");
        assert_ne!(corpus.fingerprint(), Corpus::from_bytes((0..100).collect(), 0.2, String::new()).fingerprint());
    }

    #[test]
    fn the_project_itself_is_the_default() {
        let corpus = Corpus::load(&[], 0.1).unwrap();
        corpus.require(512).unwrap();
        assert!(!corpus.train().contains(&b'\r'));
    }

    #[test]
    fn nothing_to_read_is_an_error_that_names_the_path() {
        let dir = folder(&[("empty.txt", b"")]);
        let missing = dir.path().join("missing");
        assert!(read(&[missing]).unwrap_err().to_string().contains("missing"));
        assert!(read(&[dir.path().join("empty.txt")]).unwrap_err().to_string().contains("empty.txt"));
    }
}
