//! The file `metrics.jsonl`, one line a step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::metrics::StepMetrics;
use crate::checkpoint::write_file_atomically;
use crate::error::{Error, Result};
use crate::files;

/// Appends whole lines to `metrics.jsonl`.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    path: PathBuf,
}

impl MetricsWriter {
    /// Opens the file and keeps the lines up to step `last_step`; what a stopped run wrote after its last checkpoint, and a
    /// line that it could not finish, are dropped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, last_step: u64) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            let text = String::from_utf8_lossy(&files::read(path)?).into_owned();
            let step = |line: &str| serde_json::from_str::<StepMetrics>(line).ok().map(|m| m.step);
            let keep = |line: &&str| line.ends_with('\n') && step(line).is_some_and(|s| s <= last_step);
            let kept: String = text.split_inclusive('\n').take_while(keep).collect();
            if kept.len() != text.len() {
                write_file_atomically(path, kept.as_bytes())?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("opening", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The last line of the file, where it is a whole one.
    pub fn last(&self) -> Option<StepMetrics> {
        let text = files::read(&self.path).ok()?;
        serde_json::from_slice(text.trim_ascii_end().rsplit(|b| *b == b'\n').next()?).ok()
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`Error::Io`]; a part of the line that a full disk has taken is then removed.
    pub fn write(&mut self, line: &StepMetrics) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::io("writing", &self.path)(e.into()))?;
        // One call a line, without a buffer: a reader sees whole lines, and there is nothing left to flush.
        let before = self.file.metadata().map_err(Error::io("reading", &self.path))?.len();
        self.file.write_all(format!("{text}\n").as_bytes()).map_err(|e| {
            // The failure that matters is `e`; a torn line is dropped when the run is resumed.
            let _ = self.file.set_len(before);
            Error::io("writing", &self.path)(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_drops_the_lines_after_the_checkpoint_and_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |step| StepMetrics { step, ..StepMetrics::default() };
        let mut writer = MetricsWriter::open(&path, 0).unwrap();
        assert_eq!(writer.last(), None);
        (1..=4).for_each(|s| writer.write(&line(s)).unwrap());
        assert_eq!(writer.last().map(|line| line.step), Some(4));
        // Whole but for its line end.
        writer.file.write_all(b"{\"step\":5}").unwrap();
        for (last, expected) in [(9, vec![1, 2, 3, 4, 10]), (2, vec![1, 2, 10])] {
            MetricsWriter::open(&path, last).unwrap().write(&line(10)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let steps: Vec<u64> = text.lines().map(|l| serde_json::from_str::<StepMetrics>(l).unwrap().step).collect();
            assert_eq!(steps, expected);
        }
    }
}
