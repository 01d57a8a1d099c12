//! The folder of a run: `config.toml`, `metrics.jsonl`, `summary.json`, `checkpoint/`, `hub/` where its model came from a Hugging
//! Face folder (the small files of that one) or has a tokenizer, `tokens.safetensors` where it has, and `run.lock`, which the process that trains in it holds.
//!
//! Finding out whether a folder can be used writes nothing; [`RunFolder::begin`] is called when everything else that can
//! fail (data, settings, device) is known to be good, so that a failed start leaves nothing behind (but an empty `run.lock`
//! where the run of an older program is resumed).

use std::fs::{self, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use same_file::Handle;

use super::accepts::too_few_steps;
use super::config::RunConfig;
use super::metrics_file::MetricsWriter;
use super::saved::{CHECKPOINT, HUB_FOLDER};
use crate::checkpoint::{locate, write_file_atomically};
use crate::error::{Error, Result};
use crate::files;

/// The file of the settings.
const CONFIG_FILE: &str = "config.toml";
/// The file that is locked for as long as a process trains in the folder. It stays: to remove it would let a third process
/// in beside one that has just opened it.
const LOCK_FILE: &str = "run.lock";

/// A folder that may hold a run, or holds one that goes on.
#[derive(Clone, Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// It did not exist when it was chosen: whoever makes it owns it.
    missing: bool,
    /// The lock's file, from [`RunFolder::hold`] until the last clone is dropped.
    lock: Arc<OnceLock<Handle>>,
}

impl RunFolder {
    fn new(dir: PathBuf, missing: bool) -> Self {
        Self { dir, missing, lock: Arc::default() }
    }

    /// A folder for a new run: one that does not exist, or is empty.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is a file, a run, or holds something else; [`Error::Io`] for a link that leads nowhere.
    pub fn create(dir: &Path) -> Result<Self> {
        if dir.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Ok(Self::new(dir.to_owned(), true));
        }
        let about = files::about(dir)?;
        if !about.is_dir() {
            let message = format!("expected a folder for the run, found {}", files::kind(&about));
            return Err(Error::checkpoint(dir, message));
        }
        if dir.join(CONFIG_FILE).exists() {
            if locate(&dir.join(CHECKPOINT)).is_err() {
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
        Ok(Self::new(dir.to_owned(), false))
    }

    /// The first `<parent>/<name>-<n>`, n = 1, 2, ..., that does not exist.
    pub fn first_free(parent: &Path, name: &str) -> Self {
        let dir = (1u64..).map(|n| parent.join(format!("{name}-{n}"))).find(|d| d.symlink_metadata().is_err());
        // The range does not end before a file system is full of folders; the name without a number is then as good.
        Self::new(dir.unwrap_or_else(|| parent.join(name)), true)
    }

    /// The folder of a run that goes on.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is not a run.
    pub fn resume(dir: &Path) -> Result<Self> {
        if !dir.join(CONFIG_FILE).is_file() {
            return Err(Error::checkpoint(dir, "expected the folder of a run to resume, found no config.toml in it"));
        }
        Ok(Self::new(dir.to_owned(), false))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the settings are.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where the tokens of the text are, where it is not of bytes.
    pub(crate) fn tokens_path(&self) -> PathBuf {
        self.dir.join("tokens.safetensors")
    }

    /// Where the lines of metrics are.
    pub(crate) fn metrics_path(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// Where the final figures are.
    pub(crate) fn summary_path(&self) -> PathBuf {
        self.dir.join("summary.json")
    }

    /// Where the checkpoint is; `checkpoint::folder` locates and replaces it under this name.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.dir.join(CHECKPOINT)
    }

    /// Where the small files are that came with the model from a Hugging Face folder.
    pub(crate) fn hub_path(&self) -> PathBuf {
        self.dir.join(HUB_FOLDER)
    }

    /// Keeps other processes from training in the folder, until the last clone of this is dropped. Where the file system has
    /// no locks nothing is kept.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another process holds it; [`Error::Io`].
    pub fn hold(&self) -> Result<()> {
        if self.lock.get().is_some() {
            return Ok(());
        }
        let path = self.dir.join(LOCK_FILE);
        if let Some(about) = fs::symlink_metadata(&path).ok().filter(|about| !about.is_file()) {
            let found = if about.is_symlink() { "a link" } else { files::kind(&about) };
            return Err(Error::checkpoint(&path, format!("expected the lock of a run, a file, found {found}")));
        }
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let handle = open.and_then(Handle::from_file).map_err(Error::io("opening", &path))?;
        match handle.as_file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::checkpoint(
                    &self.dir,
                    "another process is training in this folder; wait until it ends",
                ));
            }
            Err(TryLockError::Error(e)) => log::warn!("{}: not locked: {e}", path.display()),
        }
        // Two threads with clones of one folder: the second finds its lock held and does not come here.
        let _ = self.lock.set(handle);
        Ok(())
    }

    /// Checks that the folder is still where it was when it was [held](RunFolder::hold): nothing may be written into another
    /// one of its name.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it was removed, renamed or replaced.
    pub(crate) fn require_here(&self) -> Result<()> {
        let same = |lock: &Handle| Handle::from_path(self.dir.join(LOCK_FILE)).is_ok_and(|now| now == *lock);
        if self.lock.get().is_none_or(same) {
            return Ok(());
        }
        let message = "the run's folder was removed, renamed or replaced while the run went on (its run.lock is gone); the run ends, \
                       and what it did since its last checkpoint is lost";
        Err(Error::checkpoint(&self.dir, message))
    }

    /// Checks that something is left to do where `done` of `steps` steps are done: steps, or the summary behind the last.
    ///
    /// # Errors
    /// [`Error::Config`] where the run has ended.
    pub(crate) fn require_work(&self, done: u64, steps: u64) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Summary {
            steps: u64,
        }
        // Without one that can be read, it is to be written.
        let summary = || serde_json::from_slice::<Summary>(&files::read(&self.summary_path()).ok()?).ok();
        if done > steps || (done == steps && summary().is_some_and(|s| s.steps == steps)) {
            return Err(too_few_steps(done, steps));
        }
        Ok(())
    }

    /// Makes the folder where it is missing, [holds](RunFolder::hold) it, writes the settings, and opens the metrics behind step `last_step` (0: a new
    /// run). When that fails, what it has made is gone again.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] for settings that have no form in TOML; [`Error::Checkpoint`] when another run has
    /// made or taken the folder meanwhile.
    pub fn begin(&self, config: &RunConfig, last_step: u64) -> Result<MetricsWriter> {
        self.begin_with(config, last_step, || Ok(()))
    }

    /// As [`RunFolder::begin`], with what `files` writes: [`RunFolder::hub_path`] and [`RunFolder::tokens_path`].
    ///
    /// # Errors
    /// As [`RunFolder::begin`], and those of `files`.
    pub(crate) fn begin_with(
        &self,
        config: &RunConfig,
        last_step: u64,
        files: impl FnOnce() -> Result<()>,
    ) -> Result<MetricsWriter> {
        let text = config.to_toml()?;
        let new = last_step == 0;
        let missing: Vec<_> = self.dir.ancestors().take_while(|d| !d.as_os_str().is_empty() && !d.exists()).collect();
        let begun = self
            .make()
            .and_then(|()| self.hold())
            .and_then(|()| if new && self.config_path().exists() { Err(self.taken()) } else { Ok(()) })
            .and_then(|()| write_file_atomically(&self.config_path(), text.as_bytes()))
            .and_then(|()| files())
            .and_then(|()| MetricsWriter::open(&self.metrics_path(), last_step));
        if begun.is_err() && new && !matches!(begun, Err(Error::Checkpoint { .. })) {
            // The failure that matters is the first one. What others have put there meanwhile stays.
            let _ = fs::remove_dir_all(self.hub_path());
            let _ = fs::remove_file(self.tokens_path());
            let _ = fs::remove_file(self.config_path());
            let _ = fs::remove_file(self.dir.join(LOCK_FILE));
            missing.iter().for_each(|dir| {
                let _ = fs::remove_dir(dir);
            });
        }
        begun
    }

    fn taken(&self) -> Error {
        Error::checkpoint(&self.dir, "another run has taken this folder meanwhile; start again")
    }

    fn make(&self) -> Result<()> {
        if !self.missing {
            return Ok(());
        }
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
        }
        fs::create_dir(&self.dir).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => self.taken(),
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

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_takes_no_run() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("tiny-1");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let message = RunFolder::create(&link).unwrap_err().to_string();
        assert!(message.contains("tiny-1: a link to nowhere, which does not exist"), "{message}");
        assert_eq!(RunFolder::first_free(temp.path(), "tiny").dir(), temp.path().join("tiny-2"));
    }

    #[test]
    fn a_start_that_fails_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&temp.path().join("runs/a")).unwrap();
        let failed = folder.begin_with(&RunConfig::default(), 0, || {
            fs::create_dir(folder.hub_path()).unwrap();
            fs::write(folder.tokens_path(), "half").unwrap();
            Err(Error::Data("the disk is full".into()))
        });
        assert!(failed.unwrap_err().to_string().contains("the disk is full"));
        assert!(!temp.path().join("runs").exists());
    }

    #[test]
    fn runs_are_numbered() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(RunFolder::first_free(temp.path(), "tiny").dir(), temp.path().join("tiny-1"));
        fs::create_dir(temp.path().join("tiny-1")).unwrap();
        assert_eq!(RunFolder::first_free(temp.path(), "tiny").dir(), temp.path().join("tiny-2"));
    }
    #[test]
    fn one_process_trains_in_a_folder() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a");
        let first = RunFolder::create(&dir).unwrap();
        first.begin(&RunConfig::default(), 0).unwrap();
        let second = RunFolder::resume(&dir).unwrap();
        let message = second.hold().unwrap_err().to_string();
        assert!(message.contains("another process is training in this folder"), "{message}");
        first.hold().unwrap();
        let clone = first.clone();
        drop(first);
        assert!(second.begin(&RunConfig::default(), 1).is_err(), "as long as a clone is there");
        drop(clone);
        second.begin(&RunConfig::default(), 1).unwrap();
    }

    #[test]
    fn two_that_found_an_empty_folder_do_not_share_it() {
        let temp = tempfile::tempdir().unwrap();
        let both = [(); 2].map(|()| RunFolder::create(temp.path()).unwrap());
        both[0].begin(&RunConfig::default(), 0).unwrap();
        let before = fs::read(both[0].config_path()).unwrap();
        assert!(both[1].begin(&RunConfig { seed: 7, ..RunConfig::default() }, 0).is_err());
        let [first, second] = both;
        drop(first);
        let message = second.begin(&RunConfig { seed: 7, ..RunConfig::default() }, 0).unwrap_err().to_string();
        assert!(message.contains("another run has taken this folder"), "also when the first has ended: {message}");
        assert_eq!(fs::read(temp.path().join(CONFIG_FILE)).unwrap(), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_removed_renamed_or_replaced_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a");
        let folder = RunFolder::create(&dir).unwrap();
        folder.begin(&RunConfig::default(), 0).unwrap();
        folder.require_here().unwrap();
        fs::rename(&dir, temp.path().join("b")).unwrap();
        let message = folder.require_here().unwrap_err().to_string();
        assert!(message.contains("removed, renamed or replaced"), "{message}");
        RunFolder::create(&dir).unwrap().begin(&RunConfig::default(), 0).unwrap();
        folder.require_here().unwrap_err();
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(temp.path().join("b"), &dir).unwrap();
        folder.require_here().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        folder.require_here().unwrap_err();
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_is_not_followed_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(temp.path().to_owned(), false);
        std::os::unix::fs::symlink("other", temp.path().join(LOCK_FILE)).unwrap();
        assert!(
            folder
                .hold()
                .unwrap_err()
                .to_string()
                .contains("run.lock: expected the lock of a run, a file, found a link")
        );
        assert!(!temp.path().join("other").exists());
    }

    #[test]
    fn a_run_without_its_summary_is_not_finished() {
        let temp = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(temp.path().to_owned(), false);
        let done = |done, steps| folder.require_work(done, steps).map_err(|e| e.to_string());
        assert_eq!((done(6, 7), done(7, 7)), (Ok(()), Ok(())));
        // Of an earlier, shorter run, or damaged.
        for text in ["{\"steps\": 5, \"other\": 1}", "{\"steps\""] {
            fs::write(folder.summary_path(), text).unwrap();
            done(7, 7).unwrap();
        }
        fs::write(folder.summary_path(), "{\"steps\": 7}").unwrap();
        assert!(done(7, 7).unwrap_err().contains("expected more than the 7 steps already done, got 7"));
        assert!(done(7, 6).unwrap_err().contains("got 6"));
        done(7, 8).unwrap();
    }
}
