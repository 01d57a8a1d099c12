//! A whole checkpoint analysed from its weights, one layer after the other: what `sdmoe analyze` puts together.
//!
//! Matrices are read when they are measured, so a checkpoint needs neither its own size of memory nor of GPU memory.

use std::collections::HashMap;
use std::path::Path;

use super::control::Controls;
use super::gates::Router;
use super::pairs::Detail;
use super::record::{Analysis, Coverage, Settings, Target};
use super::spectra::{Directions, Elements, SpectrumOptions, Stack};
use super::weights::{Decoupled, KindWeights, LayerWeights, analyze_layer};
use crate::checkpoint::experts::{Common, Source};
use crate::checkpoint::{ExpertCheckpoint, ExpertLayer};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ExpertMatrix;

/// The layers that are analysed, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AnalysisOptions {
    /// Top share, singular values, seed.
    pub spectrum: SpectrumOptions,
    /// The layers, by their numbers in the model; none for all that have experts.
    pub layers: Option<Vec<usize>>,
    /// The part that is kept of the pairs of experts; none for what suits their number, [`Detail::of_experts`].
    pub pairs: Option<Detail>,
}

setters!(AnalysisOptions {
    spectrum: SpectrumOptions,
    layers: impl Into<Option<Vec<usize>>>,
    pairs: impl Into<Option<Detail>>,
});

/// A step forward, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// So many matrices more have been read.
    Matrices(usize),
    /// The name of the part that begins now.
    Begin(&'a str),
}

/// Who hears of [`Event`]s, from any thread.
pub type Listener<'a> = &'a (dyn Fn(Event<'_>) + Sync);

impl AnalysisOptions {
    /// Returns what is kept of the pairs of a layer's experts.
    pub(super) fn detail(&self, layer: &ExpertLayer) -> Detail {
        self.pairs.unwrap_or(Detail::of_experts(layer.experts))
    }

    /// The layers of a checkpoint that are wanted.
    ///
    /// # Errors
    /// [`Error::Config`] for a layer that has no experts.
    pub fn chosen<'a>(&self, checkpoint: &'a ExpertCheckpoint) -> Result<Vec<&'a ExpertLayer>> {
        let all = checkpoint.layers();
        let Some(wanted) = &self.layers else { return Ok(all.iter().collect()) };
        if let Some(missing) = wanted.iter().find(|&&n| all.iter().all(|l| l.number != n)) {
            let there: Vec<String> = all.iter().map(|l| l.number.to_string()).collect();
            let message = format!("expected layers with experts ({}), got {missing}", there.join(", "));
            return Err(Error::config("layers", message));
        }
        Ok(all.iter().filter(|l| wanted.contains(&l.number)).collect())
    }

    /// The matrices that will be read, unique parts counted beside the merged ones: the end of a progress bar.
    ///
    /// # Errors
    /// As [`AnalysisOptions::chosen`].
    pub fn matrices(&self, checkpoint: &ExpertCheckpoint) -> Result<usize> {
        let parts = |l: &ExpertLayer, m| if l.rank(m).is_some() { 2 } else { 1 };
        let of = |l: &ExpertLayer| l.experts * ExpertMatrix::ALL.into_iter().map(|m| parts(l, m)).sum::<usize>();
        Ok(self.chosen(checkpoint)?.into_iter().map(of).sum())
    }
}

/// Returns the name of a target: its folder's or file's name, and its parent's where that says only what every target's
/// says.
pub(crate) fn target_name(path: &Path, source: Source) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let common = |name: &str| match source {
        Source::Run => false,
        Source::Checkpoint => name.starts_with("checkpoint"),
        Source::HuggingFace | Source::Safetensors => name.starts_with("model.safetensors"),
    };
    let names = whole.ancestors().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let mut names = names.skip_while(|name| common(name));
    names.next().unwrap_or_else(|| "model".into())
}

/// The findings on the weights of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Weighed {
    /// The record.
    pub analysis: Analysis,
    /// The experts' directions for each layer and kind, where [`SpectrumOptions::directions`] asks for them: what
    /// [`super::data::add_data`] projects tokens on.
    pub directions: HashMap<(usize, ExpertMatrix), Vec<Directions>>,
}

/// Analyses the experts' weights of a checkpoint that was opened at `path`.
///
/// # Errors
/// [`Error::Config`] for layers that are not there; [`Error::Checkpoint`], naming file and tensor, for a number that is
/// not finite; [`Error::Device`]; [`Error::Io`].
pub async fn analyze_weights(
    gpu: &Gpu,
    path: &Path,
    checkpoint: &ExpertCheckpoint,
    options: &AnalysisOptions,
    controls: &mut Controls,
    listener: Listener<'_>,
) -> Result<Weighed> {
    let mut directions = HashMap::new();
    let chosen = options.chosen(checkpoint)?;
    let mut analysis = Analysis {
        target: target(path, checkpoint, &chosen),
        settings: settings(gpu, options),
        coverage: Coverage {
            incomplete: incomplete(checkpoint, chosen.len()),
            matrices_found: checkpoint.layers().iter().map(|l| 3 * l.experts).sum(),
            other_tensors: checkpoint.coverage().other,
            unknown_tensors: checkpoint.coverage().unknown.clone(),
            ..Coverage::default()
        },
        ..Analysis::default()
    };
    for layer in chosen {
        listener(Event::Begin(&format!("layer {}", layer.number)));
        let router = checkpoint.router(layer)?;
        for matrix in ExpertMatrix::ALL {
            let common = checkpoint.common(layer, matrix)?;
            let merged = |range: std::ops::Range<usize>, out: &mut [f32]| -> Result<()> {
                let count = range.len();
                checkpoint.read(layer, matrix, range, out)?;
                listener(Event::Matrices(count));
                Ok(())
            };
            let unique = |range: std::ops::Range<usize>, out: &mut [f32]| -> Result<()> {
                merged(range, out)?;
                common.as_ref().map_or(Ok(()), |c| c.remove_from(out))
            };
            let parts = common.as_ref().map(|c| (c, Elements::Read(&unique)));
            let kind = kind(layer, matrix, Elements::Read(&merged), parts);
            let router = router.as_deref().filter(|_| matrix == ExpertMatrix::Gate);
            let weights = LayerWeights {
                layer: layer.number,
                kinds: &[kind],
                router: router.map(|elements| Router { elements, transposed: true }),
            };
            let found = analyze_layer(gpu, &weights, &options.spectrum, controls).await?;
            analysis.similarity.extend(found.similarity);
            analysis.spectra.extend(found.spectra);
            for control in found.spectra_controls {
                if !analysis.spectra_controls.contains(&control) {
                    analysis.spectra_controls.push(control);
                }
            }
            analysis.gates.extend(found.gates);
            analysis.decoupling.extend(found.decoupling);
            directions.extend(found.directions.into_iter().map(|(matrix, d)| ((layer.number, matrix), d)));
            // Before the next: all layers' tables would not fit.
            analysis.keep(layer.number, options.detail(layer));
            analysis.coverage.matrices += layer.experts;
        }
    }
    Ok(Weighed { analysis, directions })
}

fn kind<'a>(
    layer: &ExpertLayer,
    matrix: ExpertMatrix,
    merged: Elements<'a>,
    parts: Option<(&'a Common, Elements<'a>)>,
) -> KindWeights<'a> {
    let shape = layer.shape(matrix);
    let stack = |elements| Stack {
        count: layer.experts,
        rows: shape.rows,
        columns: shape.columns,
        transposed: shape.transposed,
        elements,
    };
    // Only this program's files have decoupled parts, and those lie as METHOD has them: rows are the left side.
    let decoupled = parts.map(|(common, unique)| Decoupled {
        unique: stack(unique),
        common: &common.w_c,
        rank: common.rank,
        basis: Some([&common.u, &common.v]),
    });
    KindWeights { matrix, merged: stack(merged), decoupled }
}

/// Returns signs of experts that are not analysed: the checkpoint's gaps, and layers that are not among the `chosen`.
fn incomplete(checkpoint: &ExpertCheckpoint, chosen: usize) -> Vec<String> {
    let all = checkpoint.layers().len();
    let some = (chosen < all).then(|| format!("{chosen} of {all} layers with experts were chosen"));
    checkpoint.gaps().into_iter().chain(some).collect()
}

fn target(path: &Path, checkpoint: &ExpertCheckpoint, chosen: &[&ExpertLayer]) -> Target {
    let stack = &checkpoint.stacks()[checkpoint.stack()];
    let name = target_name(path, checkpoint.source());
    let most = |f: fn(&ExpertLayer) -> usize| chosen.iter().map(|l| f(l)).max().unwrap_or(0);
    Target {
        name: if checkpoint.stacks().len() > 1 { format!("{name} ({})", stack.label()) } else { name },
        kind: checkpoint.source().name().into(),
        family: checkpoint.family().name().into(),
        stack: stack.name.clone(),
        spectral: chosen.iter().any(|l| ExpertMatrix::ALL.into_iter().any(|m| l.rank(m).is_some())),
        layers: chosen.iter().map(|l| l.number).collect(),
        experts: most(|l| l.experts),
        d_model: most(|l| l.d_model),
        d_expert: most(|l| l.d_expert),
        step: checkpoint.step(),
    }
}

fn settings(gpu: &Gpu, options: &AnalysisOptions) -> Settings {
    let adapter = gpu.adapter();
    Settings {
        top: options.spectrum.top,
        seed: options.spectrum.seed,
        tokens: 0,
        data: None,
        adapter: format!("{} ({}, {})", adapter.name, adapter.backend, adapter.driver),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}
