//! The reports of a run's steps: the lines of `metrics.jsonl`.
//!
//! Losses are in nats per token, a byte where the run has no tokenizer. A field that is not there was not measured at that step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::write_file_atomically;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::config::ExpertMatrix;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Cross-entropy on the training batch.
    pub loss: f32,
    /// Load-balance and z-loss, weighted, summed over layers.
    pub aux_loss: f32,
    /// Learning rate.
    pub lr: f32,
    /// Global norm of what the parameters receive, before clipping; 0 for a step that the loss scale has skipped.
    pub grad_norm: f32,
    /// In mixed precision the loss scale of this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// In mixed precision the steps up to this one that overflowed and were skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped_steps: Option<u32>,
    /// Bytes trained on per second, over the last stretch of steps of half a second or more; validation, spectral figures,
    /// checkpoints and steps that waited for kernels to be compiled are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Cross-entropy on the held-out part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f32>,
    /// Largest load of an expert over the even load, less 1; the worst layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_max_violation: Option<f32>,
    /// Experts without a token, over all layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_experts: Option<u32>,
    /// The entropy of the experts' load over `ln E`, of the most uneven layer: 1 is even, `ln K / ln E` is K experts that get
    /// every token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_entropy: Option<f32>,
    /// The spectral block.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub spectral: Option<SpectralMetrics>,
}

/// The spectral block of a line: means over layers and matrices, unless said otherwise. Without spectral decoupling only
/// `similarity_merged` is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SpectralMetrics {
    /// Hidden-side top-r similarity of the merged experts `W_i`, mean over pairs; none with a single expert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_merged: Option<f32>,
    /// The similarity of `W_u,i`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_unique: Option<f32>,
    /// Share of `W_u,i` inside the common basis on the model side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_model: Option<f32>,
    /// The similarity on the hidden side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift_hidden: Option<f32>,
    /// sigma_k / sigma_{k+1} of `W_c` at the last refresh: the median over layers and matrices, as a mean of ratios is that
    /// of the largest; none where half of them or more are infinite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_gap: Option<f32>,
    /// Share of the energy of `W_c` beyond rank k at the last refresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_energy_beyond_rank: Option<f32>,
    /// Largest angle between the last two bases, in radians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis_angle: Option<f32>,
    /// Share of the gradient's energy in the common part at the last refresh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_gradient_share: Option<f32>,
}

/// A side of an expert's matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Width d: input of gate and up, output of down.
    Model,
    /// Width f: the other one.
    Hidden,
}

/// Mean pairwise similarity of the experts of one layer, for one matrix and side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Similarity {
    /// The layer, from 0.
    pub layer: usize,
    /// The matrix.
    pub matrix: ExpertMatrix,
    /// The side.
    pub side: Side,
    /// The similarity of the merged experts `W_i`.
    pub merged: f32,
    /// Its standard deviation over pairs; none of a single pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_spread: Option<f32>,
    /// The similarity of the unique parts `W_u,i`; none for a matrix that is not decoupled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<f32>,
    /// Its standard deviation over pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_spread: Option<f32>,
    /// The similarity of random subspaces: r over the side's width.
    pub chance: f32,
}

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
    fn a_line_holds_what_was_measured_and_nothing_else() {
        let mut line = StepMetrics { step: 3, loss: 2.5, ..StepMetrics::default() };
        let short = r#"{"step":3,"loss":2.5,"aux_loss":0.0,"lr":0.0,"grad_norm":0.0}"#;
        assert_eq!(serde_json::to_string(&line).unwrap(), short);
        line.spectral = Some(SpectralMetrics { basis_angle: Some(0.25), ..SpectralMetrics::default() });
        line.dead_experts = Some(1);
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.ends_with(r#""dead_experts":1,"basis_angle":0.25}"#), "{text}");
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), line);
        // Read back, a block of which nothing is there is an empty one.
        assert_eq!(
            serde_json::from_str::<StepMetrics>(short).unwrap().spectral.unwrap_or_default(),
            Default::default()
        );
    }

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
