//! The folder of a run: `config.toml`, `metrics.jsonl`, `summary.json` and `checkpoint/`.
//!
//! Finding out whether a folder can be used writes nothing; [`RunFolder::begin`] is called when everything else that can
//! fail (data, settings, device) is known to be good, so that a failed start leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use super::config::RunConfig;
use super::metrics::MetricsWriter;
use crate::checkpoint::{locate, write_file_atomically};
use crate::error::{Error, Result};

/// The file of the settings.
const CONFIG_FILE: &str = "config.toml";

/// A folder that may hold a run, or holds one that goes on.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// It did not exist when it was chosen: whoever makes it owns it.
    missing: bool,
}

impl RunFolder {
    /// A folder for a new run: one that does not exist, or is empty.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is a file, a run, or holds something else.
    pub fn create(dir: &Path) -> Result<Self> {
        if !dir.exists() {
            return Ok(Self { dir: dir.to_owned(), missing: true });
        }
        if !dir.is_dir() {
            return Err(Error::checkpoint(dir, "expected a folder for the run, found a file"));
        }
        if dir.join(CONFIG_FILE).exists() {
            if locate(&dir.join("checkpoint")).is_err() {
                let message = "holds a run that ended before its first checkpoint; delete it, or choose another --out";
                return Err(Error::checkpoint(dir, message));
            }
            let message =
                format!("already holds a run; go on with --resume {}, or choose another --out", dir.display());
            return Err(Error::checkpoint(dir, message));
        }
        if fs::read_dir(dir).map_err(Error::io("reading", dir))?.next().is_some() {
            let message = "exists, is not empty and is not a run (it has no config.toml); choose another --out";
            return Err(Error::checkpoint(dir, message));
        }
        Ok(Self { dir: dir.to_owned(), missing: false })
    }

    /// The first `<parent>/<name>-<n>`, n = 1, 2, ..., that does not exist.
    pub fn first_free(parent: &Path, name: &str) -> Self {
        let dir = (1u64..).map(|n| parent.join(format!("{name}-{n}"))).find(|d| !d.exists());
        // The range does not end before a file system is full of folders; the name without a number is then as good.
        Self { dir: dir.unwrap_or_else(|| parent.join(name)), missing: true }
    }

    /// The folder of a run that goes on.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not a run.
    pub fn resume(dir: &Path) -> Result<Self> {
        if !dir.join(CONFIG_FILE).is_file() {
            return Err(Error::checkpoint(dir, "expected the folder of a run to resume, found no config.toml in it"));
        }
        Ok(Self { dir: dir.to_owned(), missing: false })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the settings are.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where the lines of metrics are.
    pub fn metrics_path(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// Where the final figures are.
    pub fn summary_path(&self) -> PathBuf {
        self.dir.join("summary.json")
    }

    /// Where the checkpoint is; give this name to the functions of [`crate::checkpoint::folder`].
    pub fn checkpoint_path(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// Makes the folder where it is missing, writes the settings, and opens the metrics behind step `last_step` (0: a new
    /// run). When that fails, what it has made is gone again.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] for settings that have no form in TOML; [`Error::Checkpoint`] when another run has
    /// made the folder meanwhile.
    pub fn begin(&self, config: &RunConfig, last_step: u64) -> Result<MetricsWriter> {
        let text = config.to_toml()?;
        let new = !self.dir.exists();
        let missing: Vec<_> = self.dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
        let begun = self
            .make()
            .and_then(|()| write_file_atomically(&self.config_path(), text.as_bytes()))
            .and_then(|()| MetricsWriter::open(&self.metrics_path(), last_step));
        if begun.is_err() && new && !matches!(begun, Err(Error::Checkpoint { .. })) {
            // The failure that matters is the first one. What others have put there meanwhile stays.
            let _ = fs::remove_file(self.config_path());
            missing.iter().for_each(|dir| {
                let _ = fs::remove_dir(dir);
            });
        }
        begun
    }

    fn make(&self) -> Result<()> {
        if !self.missing {
            return Ok(());
        }
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
        }
        fs::create_dir(&self.dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::checkpoint(&self.dir, "another run has taken this folder meanwhile; start again")
            }
            _ => Error::io("creating", &self.dir)(e),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_or_empty_folder_takes_a_new_run() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("runs/a");
        let folder = RunFolder::create(&dir).unwrap();
        assert!(!dir.exists(), "looking writes nothing");
        assert!(RunFolder::resume(&dir).unwrap_err().to_string().contains("no config.toml"));
        folder.begin(&RunConfig::default(), 0).unwrap();
        assert_eq!(RunConfig::from_file(&folder.config_path(), None).unwrap(), RunConfig::default());
        assert_eq!(RunFolder::resume(&dir).unwrap().dir(), dir);
        assert!(RunFolder::create(&dir).unwrap_err().to_string().contains("before its first checkpoint"));
        assert!(folder.begin(&RunConfig::default(), 0).unwrap_err().to_string().contains("another run"));
        fs::create_dir(folder.checkpoint_path()).unwrap();
        assert!(RunFolder::create(&dir).unwrap_err().to_string().contains("--resume"));
        assert!(RunFolder::create(&temp.path().join("runs")).unwrap_err().to_string().contains("not a run"));
        assert!(RunFolder::create(&folder.config_path()).unwrap_err().to_string().contains("found a file"));
        fs::create_dir(temp.path().join("empty")).unwrap();
        RunFolder::create(&temp.path().join("empty")).unwrap();
    }

    #[test]
    fn runs_are_numbered() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(RunFolder::first_free(temp.path(), "tiny").dir(), temp.path().join("tiny-1"));
        fs::create_dir(temp.path().join("tiny-1")).unwrap();
        assert_eq!(RunFolder::first_free(temp.path(), "tiny").dir(), temp.path().join("tiny-2"));
    }
}
