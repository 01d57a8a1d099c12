//! The part of an analysis that is added where there is a text and a model that runs: load, routed PCA, Jacobians,
//! outputs, activations, what the router follows of the input, and gradients.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::control::Controls;
use super::decoupling::{CommonBasis, gradient_share};
use super::gates::{Router, with_data};
use super::jacobian::{Experts, JacobianOptions, jacobians};
use super::load::{Choices, Sources, load};
use super::observe::{LayerView, Reading};
use super::outputs::compare;
use super::positions;
use super::prune::{order, prune};
use super::record::{Analysis, Jacobians, Of, PrunedLayer};
use super::routed::Routed;
use super::routed_pca::{PcaOptions, components, routed_pca};
use super::saliency::saliency;
use super::spectra::{Directions, Elements, Stack};
use super::tokens::{Kind, activations, experts, samples};
use super::trace::{self, LayerChoices};
use super::weights::analyze_experts;
use super::whole::{AnalysisOptions, Event, Listener, Weighed};
use crate::checkpoint::{ExpertCheckpoint, ExpertLayer};
use crate::data::sources::SourceWindows;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::{ExpertMatrix, ModelConfig};
use crate::nn::part::{ModelParts, Part, PartRef};

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
/// text. The directions are used up. A model whose parts are read when they are used is read twice, and for pruning once more for
/// each [`STATES`](crate::nn::passage::STATES) of its hidden states.
///
/// # Errors
/// [`Error::Shape`] when the model is not that of the checkpoint or its experts are not in f32, the windows are not of `seq` tokens or
/// directions are missing; [`Error::Data`] where something is not finite; [`Error::Device`]; [`Error::Checkpoint`]; [`Error::Io`].
#[allow(clippy::too_many_arguments, reason = "each is used once, by the two commands that analyse")]
pub async fn add_data(
    gpu: &Gpu,
    model: &dyn ModelParts,
    checkpoint: &ExpertCheckpoint,
    text: &DataOptions<'_>,
    options: &AnalysisOptions,
    controls: &mut Controls,
    listener: Listener<'_>,
    found: &mut Weighed,
) -> Result<()> {
    let Weighed { analysis, directions } = found;
    let (config, seed) = (model.config(), options.spectrum.seed);
    let chosen: BTreeMap<usize, &ExpertLayer> =
        options.chosen(checkpoint)?.into_iter().map(|layer| (layer.number, layer)).collect();
    if let Some(beyond) = chosen.keys().find(|&&number| number >= config.layers) {
        return Err(Error::shape("analysis", format!("{} layers", config.layers), format!("layer {beyond}")));
    }
    let source = text.windows.source_of_tokens(text.seq);
    analysis.settings.tokens = source.len();
    analysis.settings.data = Some(text.label.to_owned());
    let mut reading = Reading::new(config, text.seq, text.windows, seed)?;
    let (mut pruned, mut traced) = (Vec::new(), Vec::new());
    for part in Part::all(config).filter(|&part| part != Part::Head) {
        let layer = if let Part::Layer(number) = part { chosen.get(&number).copied() } else { None };
        match layer {
            Some(layer) => listener(Event::Begin(&format!("layer {}, at work on the text", layer.number))),
            None => listener(Event::Begin("reading the text")),
        }
        let held = model.part(part, false)?;
        let view = reading.pass(gpu, held.view()).await?;
        if let (Some(layer), None, false) = (layer, &view, source.is_empty()) {
            let got = format!("a dense layer {}", layer.number);
            return Err(Error::shape("analysis", "a model with the checkpoint's layers of experts", got));
        }
        if let Some((layer, view)) = layer.zip(view) {
            let number = layer.number;
            let directions = ExpertMatrix::ALL.map(|m| directions.remove(&(number, m)).unwrap_or_default());
            let at_work = AtWork { number, part: held.view(), view: &view, source: &source, config };
            pruned.extend(at_work.analyze(gpu, text, options, controls, directions, analysis).await?);
            analysis.keep(number, options.detail(layer));
            if text.trace.is_some() {
                traced.push(LayerChoices { layer: number, index: view.index, weight: view.weight });
            }
        }
        held.let_go(gpu).await?;
    }
    if let Some(path) = text.trace {
        trace::write(path, &traced, config.moe.top_k, &text.windows.batch.tokens, text.seq)?;
    }
    listener(Event::Begin("gradients"));
    let mut by_layer = Vec::new();
    // No layer below the lowest that is asked for.
    let last = chosen.keys().next().map_or(config.layers, |&number| number);
    let layers = (last..config.layers).rev().map(Part::Layer);
    for part in std::iter::once(Part::Head).chain(layers) {
        let held = model.part(part, true)?;
        reading.back(gpu, held.view()).await?;
        if let Part::Layer(number) = part
            && let Some(layer) = chosen.get(&number)
        {
            by_layer.push(of_gradients(gpu, held.view(), checkpoint, layer, options, controls, analysis).await?);
        }
        held.let_go(gpu).await?;
    }
    for found in by_layer.into_iter().rev() {
        analysis.similarity.extend(found.similarity);
        analysis.spectra.extend(found.spectra);
        analysis.spectra_over_experts.extend(found.spectra_over_experts);
    }
    if text.prune {
        listener(Event::Begin("the loss without some experts"));
        analysis.pruning = Some(prune(gpu, model, (text.seq, text.windows), pruned, seed).await?);
    }
    Ok(())
}

/// A layer's experts at work on a text.
struct AtWork<'a> {
    number: usize,
    part: PartRef<'a>,
    view: &'a LayerView,
    /// The source of each token.
    source: &'a [u32],
    config: &'a ModelConfig,
}

impl AtWork<'_> {
    /// Adds what is to be said of them, with the directions of their matrices; gives the order in which they could go, if it is wanted.
    async fn analyze(
        &self,
        gpu: &Gpu,
        text: &DataOptions<'_>,
        options: &AnalysisOptions,
        controls: &mut Controls,
        directions: [Vec<Directions>; 3],
        analysis: &mut Analysis,
    ) -> Result<Option<PrunedLayer>> {
        let &Self { number: layer, part, view, source, config } = self;
        let (d, top_k, experts) = (config.d_model, config.moe.top_k, config.moe.experts);
        let seed = options.spectrum.seed;
        let routed = Routed { x: &view.x, d, index: &view.index, weight: &view.weight, top_k, experts }.check()?;
        let choices = Choices { experts, top_k, index: routed.index, weight: routed.weight };
        let sources = Sources { of_token: source, names: text.names };
        analysis.load.push(load(layer, choices, Some(sources), seed));
        let pca = PcaOptions::default().r(PCA_DIMENSIONS.min(d)).seed(seed);
        analysis.routed_pca.push(routed_pca(gpu, layer, routed, pca).await?);
        let jacobians = at_tokens(gpu, part, layer, routed, text, seed).await?;
        let active = config.moe.d_shared as f64 / (config.moe.d_shared + top_k * config.moe.d_expert) as f64;
        let mut outputs = saliency(layer, view, routed, active);
        let tokens = positions::spread(text.windows.source.len(), text.seq, COMPARED, seed);
        compare(gpu, experts_of(part)?, (routed.x, &tokens), seed, &mut outputs).await?;
        // Before the pairs are reduced.
        let pruned = text.prune.then(|| order(&jacobians.mean_of_cosines, &outputs));
        analysis.jacobians.push(jacobians);
        analysis.outputs.push(outputs);
        for (matrix, directions) in ExpertMatrix::ALL.into_iter().zip(directions) {
            let kind = Kind { layer, matrix, directions };
            analysis.activations.extend(activations(gpu, part, kind, view, routed, &options.spectrum).await?);
        }
        analysis.similarity.extend(samples(gpu, layer, &view.x, [d, text.seq], &options.spectrum, controls).await?);
        gates(gpu, part, layer, view, routed, analysis).await?;
        Ok(pruned)
    }
}

/// The similarities and spectra of the gradients that a layer's experts have in `part`; their shares in the common subspaces go to
/// their rows of `analysis`.
async fn of_gradients(
    gpu: &Gpu,
    part: PartRef<'_>,
    checkpoint: &ExpertCheckpoint,
    layer: &ExpertLayer,
    options: &AnalysisOptions,
    controls: &mut Controls,
    analysis: &mut Analysis,
) -> Result<Analysis> {
    let mut record = Analysis::default();
    for matrix in ExpertMatrix::ALL {
        let Some(gradient) = part.expert_gradients(matrix) else { continue };
        let &[count, rows, columns] = gradient.dims() else { continue };
        let stack = Stack { count, rows, columns, transposed: false, elements: Elements::Device(gradient) };
        let (number, of) = (layer.number, Of::Gradients);
        let found = analyze_experts(gpu, number, matrix, of, &stack, &options.spectrum, controls).await?;
        record.similarity.extend(found.similarity);
        record.spectra.extend(found.spectra);
        // Before the next: all tables would not fit.
        record.keep(number, options.detail(layer));
        let row = analysis.decoupling.iter_mut().find(|row| row.layer == number && row.matrix == matrix);
        if let (Some(common), Some(row)) = (checkpoint.common(layer, matrix)?, row) {
            let basis = CommonBasis::given(&common.u, &common.v, [rows, columns, common.rank])?;
            row.common_gradient_share = gradient_share(gpu, &stack, &basis).await?;
        }
    }
    Ok(record)
}

/// Jacobians at tokens that are spread over the text's windows, and so over its sources, and over the positions in
/// them; the same tokens for all layers.
async fn at_tokens(
    gpu: &Gpu,
    part: PartRef<'_>,
    layer: usize,
    routed: Routed<'_>,
    text: &DataOptions<'_>,
    seed: u64,
) -> Result<Jacobians> {
    let tokens = positions::spread(text.windows.source.len(), text.seq, text.jacobians, seed);
    let x = super::activations::rows(gpu, routed.x, routed.d, tokens.iter().copied())?;
    let exact = routed.d <= EXACT_WIDTH;
    let options = JacobianOptions::default().probes((!exact).then_some(PROBES)).spectra(exact).seed(seed);
    let found = jacobians(gpu, layer, experts_of(part)?, &x, options).await?;
    let sources: BTreeSet<u32> = tokens.iter().map(|t| text.windows.source[t / text.seq]).collect();
    let positions = tokens.iter().map(|t| t % text.seq).collect();
    Ok(Jacobians { positions, window: text.seq, sources: sources.len(), ..found })
}

/// The experts of a layer.
fn experts_of(part: PartRef<'_>) -> Result<Experts<'_>> {
    let [gate, up, down] = ExpertMatrix::ALL.map(|m| experts(part, m));
    Ok(Experts { gate: gate?, up: up?, down: down? })
}

/// Adds to the layer's gates their alignment with the leading directions of its input, of which the mean is not
/// removed.
async fn gates(
    gpu: &Gpu,
    part: PartRef<'_>,
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
        let Some(router) = part.router() else { return Ok(()) };
        let router = router.to_f32().await?;
        let router = Router { elements: &router, transposed: false };
        found.data = Some(with_data(&router, routed.experts, d, &basis));
    }
    Ok(())
}
