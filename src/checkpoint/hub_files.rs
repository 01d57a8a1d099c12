//! The small files of a Hugging Face folder beside its weights, which a run of this program keeps so that its model can be
//! written back as what it was, and its text read.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The file that says what the model is.
const MODEL: &str = "config.json";

/// The tokenizer itself.
const TOKENIZER: &str = "tokenizer.json";

/// The files that are kept, where there are such.
const NAMES: &[&str] = &[
    MODEL,
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
        Self::contents(Self::paths(folder))
    }

    /// Reads a tokenizer, whose file may have another name than `tokenizer.json`, with the files of its folder but `config.json`.
    ///
    /// # Errors
    /// As [`HubFiles::read`].
    pub fn of_tokenizer(file: &Path) -> Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = Self::paths_without_model(folder).into_iter().filter(|(name, _)| *name != TOKENIZER);
        Self::contents(std::iter::once((TOKENIZER, file.to_owned())).chain(beside))
    }

    fn contents(paths: impl IntoIterator<Item = (&'static str, PathBuf)>) -> Result<Self> {
        let read = |(name, path): (&'static str, PathBuf)| Ok((name, files::read_at_most(&path, MAX_FILE)?));
        Ok(Self { files: paths.into_iter().map(read).collect::<Result<_>>()? })
    }

    /// The files that `folder` has, with their names.
    pub fn paths(folder: &Path) -> Vec<(&'static str, PathBuf)> {
        let all = NAMES.iter().map(|&name| (name, folder.join(name)));
        all.filter(|(_, path)| path.symlink_metadata().is_ok()).collect()
    }

    /// As [`HubFiles::paths`], without the file that says what the model is.
    pub fn paths_without_model(folder: &Path) -> Vec<(&'static str, PathBuf)> {
        Self::paths(folder).into_iter().filter(|(name, _)| *name != MODEL).collect()
    }

    /// Without the file that says what the model is.
    pub fn without_model(mut self) -> Self {
        self.files.retain(|(name, _)| *name != MODEL);
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
