//! The curves of a run, from its `metrics.jsonl`.

use std::path::Path;

use super::record::Training;
use crate::checkpoint::{ExpertCheckpoint, ExpertLayer};
use crate::error::{Error, Result};
use crate::linalg::statistics::mean;
use crate::nn::config::ExpertMatrix;
use crate::optim::spectral::similarity::{leading, similarity_chance};
use crate::train::metrics::StepMetrics;

/// Reads the metrics at `path`, of the run that wrote `checkpoint`; a line that the run could not finish is left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Checkpoint`] for a whole line that is none of a run's.
pub fn training(path: &Path, checkpoint: &ExpertCheckpoint) -> Result<Training> {
    let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
    let mut found = nulls(checkpoint.layers());
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        let line: StepMetrics = serde_json::from_str(line).map_err(|e| {
            Error::checkpoint(path, format!("line {}: expected the metrics of a step: {e}", number + 1))
        })?;
        let spectral = line.spectral.unwrap_or_default();
        let finite = |x: Option<f32>| x.filter(|x| x.is_finite()).map(f64::from);
        found.step.push(line.step);
        found.loss.push(finite(Some(line.loss)));
        found.val_loss.push(finite(line.val_loss));
        found.similarity_merged.push(finite(spectral.similarity_merged));
        found.similarity_unique.push(finite(spectral.similarity_unique));
        found.drift_model.push(finite(spectral.drift_model));
        found.drift_hidden.push(finite(spectral.drift_hidden));
        found.load_max_violation.push(finite(line.load_max_violation));
    }
    Ok(found)
}

/// Returns what chance gives for the curves: means over layers and matrices, as the curves themselves.
fn nulls(layers: &[ExpertLayer]) -> Training {
    let each = || layers.iter().flat_map(|l| ExpertMatrix::ALL.map(|m| (l, m)));
    let inputs =
        |l: &ExpertLayer, m| if m == ExpertMatrix::Down { (l.d_expert, l.d_model) } else { (l.d_model, l.d_expert) };
    let chance = |(l, matrix): (&ExpertLayer, ExpertMatrix)| {
        let (m, n) = inputs(l, matrix);
        similarity_chance(matrix, m, n, leading(m, n)).hidden
    };
    let drift = |width: fn(&ExpertLayer) -> usize| {
        mean(each().filter_map(|(l, m)| Some((l.rank(m)? as f64 / width(l) as f64).sqrt())))
    };
    Training {
        null_similarity: mean(each().map(chance)),
        null_drift_model: drift(|l| l.d_model),
        null_drift_hidden: drift(|l| l.d_expert),
        ..Training::default()
    }
}
