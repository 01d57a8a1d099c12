//! The report of a run at its end: the content of `summary.json`. Losses are in nats per token, which is a byte where the run has no
//! tokenizer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::write_file_atomically;
use crate::error::{Error, Result};
use crate::train::metrics::Similarity;
use crate::train::warnings::Warning;

/// The content of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Summary {
    /// Final cross-entropy on the held-out part.
    pub val_loss: f32,
    /// `val_loss / ln 2`, over the bytes that a held-out token stands for.
    pub bits_per_byte: f32,
    /// Tokens trained on per second, without validation, spectral figures, checkpoints and the steps that waited for kernels
    /// to be compiled. Of the last session that trained, where the run was resumed.
    pub tokens_per_second: f64,
    /// Steps done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Trainable parameters.
    pub parameters: u64,
    /// Parameters that one token uses.
    pub active_parameters: u64,
    /// The adapter's name.
    pub adapter: String,
    /// Most GPU memory held at a time.
    pub peak_gpu_bytes: u64,
    /// Similarity of the experts, per layer, matrix and side.
    pub similarity: Vec<Similarity>,
    /// Findings that are doubtful in the settings and in what training measured, each told once.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

impl Summary {
    /// Writes the summary, replacing an older one whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::io("writing", path)(e.into()))?;
        write_file_atomically(path, format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::config::ExpertMatrix;
    use crate::train::metrics::Side;
    use crate::train::warnings::Kind;

    #[test]
    fn the_summary_has_the_names_that_the_documents_promise() {
        let similarity = Similarity {
            layer: 0,
            matrix: ExpertMatrix::Gate,
            side: Side::Hidden,
            merged: 0.5,
            merged_spread: Some(0.25),
            unique: Some(0.1),
            unique_spread: None,
            chance: 0.0625,
        };
        let summary = Summary {
            val_loss: 2.0,
            bits_per_byte: 2.0 / std::f32::consts::LN_2,
            tokens_per_second: 1.0,
            steps: 1,
            tokens: 1,
            parameters: 1,
            active_parameters: 1,
            adapter: "llvmpipe".into(),
            peak_gpu_bytes: 1,
            similarity: vec![similarity],
            warnings: vec![Warning { kind: Kind::DeadExperts, step: Some(1), message: "one".into() }],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("summary.json");
        summary.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
        let compact = text.split_whitespace().collect::<String>();
        let expected = r#"{"layer":0,"matrix":"gate","side":"hidden","merged":0.5,"merged_spread":0.25,"unique":0.1,"chance":0.0625}"#;
        assert!(compact.contains(expected), "{text}");
        let expected = r#""warnings":[{"kind":"dead_experts","step":1,"message":"one"}]"#;
        assert!(compact.contains(expected), "{text}");
    }
}
