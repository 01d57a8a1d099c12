//! The part of an analysis that is added where there is a text and a model that runs: load, routed PCA, Jacobians,
//! outputs, activations, what the router follows of the input, and gradients.

use std::collections::BTreeSet;
use std::path::Path;

use super::control::Controls;
use super::decoupling::{CommonBasis, gradient_share};
use super::gates::{Router, with_data};
use super::jacobian::{Experts, JacobianOptions, jacobians};
use super::load::{Choices, Sources, load};
use super::observe::{LayerView, gradients, observe};
use super::outputs::compare;
use super::positions;
use super::prune::{order, prune};
use super::record::{Analysis, Jacobians, Of};
use super::routed::Routed;
use super::routed_pca::{PcaOptions, components, routed_pca};
use super::saliency::saliency;
use super::spectra::{Elements, Stack};
use super::tokens::{Kind, activations, experts, samples};
use super::trace;
use super::weights::analyze_experts;
use super::whole::{AnalysisOptions, Event, Listener, Weighed};
use crate::checkpoint::ExpertCheckpoint;
use crate::data::sources::SourceWindows;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ExpertMatrix;
use crate::nn::model::Model;

/// Up to this width they are exact; beyond it they are probed, and have no spectra.
const EXACT_WIDTH: usize = 512;
/// Probes of a token: the cosine of two Jacobians is then good to 0.1 at worst, of which the mean over tokens takes
/// most.
const PROBES: usize = 64;
/// Tokens at which experts' outputs are compared: a mean of so many cosines is good to a few per cent of their spread.
const COMPARED: usize = 256;
/// Dimensions of the subspaces that routed PCA compares: enough to hold more than the mean's neighbours, few enough for
/// an expert with a dozen tokens.
const PCA_DIMENSIONS: usize = 8;

/// The text to look at.
#[derive(Clone, Copy, Debug)]
pub struct DataOptions<'a> {
    /// Tokens of a sequence.
    pub seq: usize,
    /// Whole sequences, with their sources.
    pub windows: &'a SourceWindows,
    /// The sources' names.
    pub names: &'a [String],
    /// The name of the text in the report.
    pub label: &'a str,
    /// Tokens at which Jacobians are taken, a few dozen.
    pub jacobians: usize,
    /// The file for the choices of each token, if they are wanted ([`trace::write`]).
    pub trace: Option<&'a Path>,
    /// Whether the loss without the least needed experts is wanted: some 16 further forward passes.
    pub prune: bool,
}

/// Adds to what the weights in `checkpoint` gave, with their directions, what the same weights in `model` do with a
/// text. The directions are used up.
///
/// # Errors
/// [`Error::Shape`] when the model is not that of the checkpoint, the windows are not of `seq` tokens or directions are
/// missing; [`Error::Data`] where something is not finite; [`Error::Device`]; [`Error::Checkpoint`]; [`Error::Io`].
#[allow(clippy::too_many_arguments, reason = "each is used once, by the two commands that analyse")]
pub async fn add_data(
    gpu: &Gpu,
    model: &Model,
    checkpoint: &ExpertCheckpoint,
    text: &DataOptions<'_>,
    options: &AnalysisOptions,
    controls: &mut Controls,
    listener: Listener<'_>,
    found: &mut Weighed,
) -> Result<()> {
    let Weighed { analysis, directions } = found;
    let (config, seed) = (model.config(), options.spectrum.seed);
    let chosen = options.chosen(checkpoint)?;
    if let Some(beyond) = chosen.iter().find(|l| l.number >= config.layers) {
        return Err(Error::shape("analysis", format!("{} layers", config.layers), format!("layer {}", beyond.number)));
    }
    listener(Event::Begin("reading the text"));
    let observed = observe(gpu, model, text.seq, text.windows, seed).await?;
    if let Some(path) = text.trace {
        let layers: Vec<usize> = chosen.iter().map(|l| l.number).collect();
        trace::write(path, &observed, &layers, &text.windows.batch.tokens, text.seq)?;
    }
    analysis.settings.tokens = observed.source.len();
    analysis.settings.data = Some(text.label.to_owned());
    let sources = Sources { of_token: &observed.source, names: text.names };
    let mut pruned = Vec::new();
    for (layer, detail) in chosen.iter().map(|l| (l.number, options.detail(l))) {
        listener(Event::Begin(&format!("layer {layer}, at work on the text")));
        let (view, routed) = (&observed.layers[layer], observed.routed(layer).check()?);
        let Routed { experts: count, top_k, index, weight, .. } = routed;
        let choices = Choices { experts: count, top_k, index, weight };
        analysis.load.push(load(layer, choices, Some(sources), seed));
        let pca = PcaOptions::default().r(PCA_DIMENSIONS.min(routed.d)).seed(seed);
        analysis.routed_pca.push(routed_pca(gpu, layer, routed, pca).await?);
        let jacobians = at_tokens(gpu, model, layer, routed, text, seed).await?;
        let active = config.moe.d_shared as f64 / (config.moe.d_shared + top_k * config.moe.d_expert) as f64;
        let mut outputs = saliency(layer, view, routed, active);
        let tokens = positions::spread(text.windows.source.len(), text.seq, COMPARED, seed);
        compare(gpu, experts_of(model, layer)?, (routed.x, &tokens), seed, &mut outputs).await?;
        if text.prune {
            // Before the pairs are reduced.
            pruned.push(order(&jacobians.mean_of_cosines, &outputs));
        }
        analysis.jacobians.push(jacobians);
        analysis.outputs.push(outputs);
        for matrix in ExpertMatrix::ALL {
            let kind = Kind { layer, matrix, directions: directions.remove(&(layer, matrix)).unwrap_or_default() };
            analysis.activations.extend(activations(gpu, model, kind, view, routed, &options.spectrum).await?);
        }
        let widths = [routed.d, text.seq];
        analysis.similarity.extend(samples(gpu, layer, &view.x, widths, &options.spectrum, controls).await?);
        gates(gpu, model, layer, view, routed, analysis).await?;
        analysis.keep(layer, detail);
    }
    if text.prune {
        listener(Event::Begin("the loss without some experts"));
        analysis.pruning = Some(prune(gpu, model, (text.seq, text.windows), pruned, seed).await?);
    }
    listener(Event::Begin("gradients"));
    gradients(gpu, model, text.seq, text.windows)?;
    for layer in chosen {
        for matrix in ExpertMatrix::ALL {
            let Some(gradient) = model.expert_gradients(layer.number, matrix) else { continue };
            let &[count, rows, columns] = gradient.dims() else { continue };
            let elements = Elements::Device(gradient);
            let stack = Stack { count, rows, columns, transposed: false, elements };
            let of = Of::Gradients;
            let found = analyze_experts(gpu, layer.number, matrix, of, &stack, &options.spectrum, controls).await?;
            analysis.similarity.extend(found.similarity);
            analysis.spectra.extend(found.spectra);
            analysis.keep(layer.number, options.detail(layer));
            let mut rows_of = analysis.decoupling.iter_mut();
            let row = rows_of.find(|row| row.layer == layer.number && row.matrix == matrix);
            if let (Some(common), Some(row)) = (checkpoint.common(layer, matrix)?, row) {
                let basis = CommonBasis::given(&common.u, &common.v, [rows, columns, common.rank])?;
                row.common_gradient_share = gradient_share(gpu, &stack, &basis).await?;
            }
        }
    }
    Ok(())
}

/// Jacobians at tokens that are spread over the text's windows, and so over its sources, and over the positions in
/// them; the same tokens for all layers.
async fn at_tokens(
    gpu: &Gpu,
    model: &Model,
    layer: usize,
    routed: Routed<'_>,
    text: &DataOptions<'_>,
    seed: u64,
) -> Result<Jacobians> {
    let tokens = positions::spread(text.windows.source.len(), text.seq, text.jacobians, seed);
    let x = super::activations::rows(gpu, routed.x, routed.d, tokens.iter().copied())?;
    let exact = routed.d <= EXACT_WIDTH;
    let options = JacobianOptions::default().probes((!exact).then_some(PROBES)).spectra(exact).seed(seed);
    let found = jacobians(gpu, layer, experts_of(model, layer)?, &x, options).await?;
    let sources: BTreeSet<u32> = tokens.iter().map(|t| text.windows.source[t / text.seq]).collect();
    let positions = tokens.iter().map(|t| t % text.seq).collect();
    Ok(Jacobians { positions, window: text.seq, sources: sources.len(), ..found })
}

/// The experts of a layer.
fn experts_of(model: &Model, layer: usize) -> Result<Experts<'_>> {
    let [gate, up, down] = ExpertMatrix::ALL.map(|m| experts(model, layer, m));
    Ok(Experts { gate: gate?, up: up?, down: down? })
}

/// Adds to the layer's gates their alignment with the leading directions of its input, of which the mean is not
/// removed.
async fn gates(
    gpu: &Gpu,
    model: &Model,
    layer: usize,
    view: &LayerView,
    routed: Routed<'_>,
    analysis: &mut Analysis,
) -> Result<()> {
    let Some(found) = analysis.gates.iter_mut().find(|g| g.layer == layer) else { return Ok(()) };
    let (tokens, d) = (routed.tokens(), routed.d);
    let all = Routed { x: &view.x, d, index: &vec![0; tokens], weight: &vec![1.0; tokens], top_k: 1, experts: 1 };
    let options = PcaOptions::default().r(found.r).centred(false);
    let input = components(gpu, all, options).await?.into_iter().flatten().next();
    if let Some(basis) = input.and_then(|c| c.basis) {
        let Some(router) = model.router(layer) else { return Ok(()) };
        let router = router.to_f32().await?;
        let router = Router { elements: &router, transposed: false };
        found.data = Some(with_data(&router, routed.experts, d, &basis));
    }
    Ok(())
}
