//! The experts to keep, as a file of its own for whoever prunes the model.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::Output;
use crate::analysis::record::{Analysis, PrunedLayer, Pruning, PruningStep, Target};
use crate::error::{Error, Result};

/// The content of the file; `target` comes first, by which reports know their files.
#[derive(Serialize)]
struct Keep<'a> {
    target: &'a Target,
    /// Experts of a layer.
    experts: usize,
    /// Tokens that were looked at.
    tokens: usize,
    /// The loss with all experts, nats a token.
    loss: f64,
    /// One for each number of experts and order.
    sets: Vec<Set<'a>>,
}

#[derive(Serialize)]
struct Set<'a> {
    /// Experts of each layer that are switched off.
    off: usize,
    /// `redundancy` or `saliency`.
    by: &'static str,
    /// The loss without them.
    loss: f64,
    /// The losses without as many at random.
    random: &'a [f64],
    layers: Vec<Kept>,
}

#[derive(Serialize)]
struct Kept {
    /// The layer's number in the model.
    layer: usize,
    /// Its experts to keep, rising.
    keep: Vec<usize>,
}

/// The file `name` of an analysis that asked which experts could go; none of others.
///
/// # Errors
/// [`Error::Io`] when a number cannot be written.
pub fn file(dir: &Path, name: &str, analysis: &Analysis) -> Result<Option<Output>> {
    let Some(pruning) = &analysis.pruning else { return Ok(None) };
    let keep = Keep {
        target: &analysis.target,
        experts: pruning.experts,
        tokens: analysis.settings.tokens,
        loss: pruning.loss,
        sets: pruning.steps.iter().flat_map(|step| sets(pruning, step)).collect(),
    };
    let mut text = serde_json::to_vec(&keep).map_err(|e| Error::io("writing", &dir.join(name))(e.into()))?;
    text.push(b'\n');
    Ok(Some((PathBuf::from(name), text)))
}

fn sets<'a>(pruning: &Pruning, step: &'a PruningStep) -> [Set<'a>; 2] {
    let set = |by, loss, keep: fn(&PrunedLayer, usize) -> Vec<usize>| {
        let kept = |l: &PrunedLayer| Kept { layer: l.layer, keep: keep(l, step.off) };
        Set { off: step.off, by, loss, random: &step.random, layers: pruning.layers.iter().map(kept).collect() }
    };
    [
        set("redundancy", step.redundancy, PrunedLayer::kept_by_redundancy),
        set("saliency", step.saliency, PrunedLayer::kept_by_saliency),
    ]
}
