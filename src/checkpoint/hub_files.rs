//! The small files of a Hugging Face folder beside its weights, which a run of this program keeps so that its model can be
//! written back as what it was, and its text read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The tokenizer itself.
const TOKENIZER: &str = "tokenizer.json";

/// The files that are kept, where there are such.
const NAMES: &[&str] = &[
    "config.json",
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
];

/// The longest of them that is read, bytes: as the longest tokenizer.
const MAX_FILE: u64 = 200_000_000;

/// Names and contents of such files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubFiles {
    files: Vec<(&'static str, Vec<u8>)>,
}

impl HubFiles {
    /// Reads the files that `folder` has.
    ///
    /// # Errors
    /// [`Error::Io`] names one that cannot be read, or is too long.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |(name, path): (&'static str, PathBuf)| Ok((name, files::read_at_most(&path, MAX_FILE)?));
        Ok(Self { files: Self::paths(folder).into_iter().map(read).collect::<Result<_>>()? })
    }

    /// Reads a tokenizer, whose file may have another name than `tokenizer.json`, with the files of its folder but `config.json`.
    ///
    /// # Errors
    /// As [`HubFiles::read`].
    pub fn of_tokenizer(file: &Path) -> Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = Self::paths(folder).into_iter().filter(|(name, _)| !["config.json", TOKENIZER].contains(name));
        let mut files = vec![(TOKENIZER, files::read_at_most(file, MAX_FILE)?)];
        for (name, path) in beside {
            files.push((name, files::read_at_most(&path, MAX_FILE)?));
        }
        Ok(Self { files })
    }

    /// The files that `folder` has, with their names.
    pub fn paths(folder: &Path) -> Vec<(&'static str, PathBuf)> {
        let all = NAMES.iter().map(|&name| (name, folder.join(name)));
        all.filter(|(_, path)| path.symlink_metadata().is_ok()).collect()
    }

    /// Without the file that says what the model is.
    pub fn without_model(mut self) -> Self {
        self.files.retain(|(name, _)| *name != "config.json");
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes them into the new folder `folder`; nothing is made where there are none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(Error::io("creating", folder))?;
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::write(&path, content).map_err(Error::io("writing", &path))?;
        }
        Ok(())
    }
}
