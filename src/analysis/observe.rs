//! A model at work on a text: the input, the choices, the combine weights and the outputs' norms of each layer's
//! experts, the same with permuted sequences, and the experts' gradients.

use std::ops::Range;

use super::routed::{self, permutation};
use crate::autograd::Tape;
use crate::data::sources::SourceWindows;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::spectral::square_norms;
use crate::nn::config::ModelConfig;
use crate::nn::part::{ModelParts, Part, PartRef};
use crate::nn::pass::{Mode, Pass};
use crate::nn::passage::{part_input, sequences_at_once, sequences_with_logits};
use crate::nn::router::Routed;
use crate::ops::CrossEntropy;
use crate::tensor::Tensor;

/// One layer's experts at work; tokens in the text's order.
#[derive(Clone, Debug, Default)]
pub struct LayerView {
    /// The input after its norm, `[tokens, d]`.
    pub x: Vec<f32>,
    /// The inputs of the same tokens where the tokens of each sequence are permuted.
    pub permuted: Vec<f32>,
    /// Chosen experts, `[tokens, K]`.
    pub index: Vec<u32>,
    /// Combine weights, `[tokens, K]`.
    pub weight: Vec<f32>,
    /// Norms of the chosen experts' outputs before their weights, `[tokens, K]`.
    pub norms: Vec<f32>,
    /// Squared norms of the weighted sums of the chosen experts, `[tokens]`.
    pub routed_energy: Vec<f32>,
    /// Squared norms of the shared expert's outputs, `[tokens]`; empty without one.
    pub shared_energy: Vec<f32>,
}

impl LayerView {
    /// Adds the tokens that follow.
    fn extend(&mut self, more: Self) {
        let Self { x, permuted, index, weight, norms, routed_energy, shared_energy } = more;
        self.x.extend(x);
        self.permuted.extend(permuted);
        self.index.extend(index);
        self.weight.extend(weight);
        self.norms.extend(norms);
        self.routed_energy.extend(routed_energy);
        self.shared_energy.extend(shared_energy);
    }
}

/// A model at work on a text.
#[derive(Clone, Debug)]
pub struct Observed {
    /// By layer; empty for those without experts.
    pub layers: Vec<LayerView>,
    /// The source of each token.
    pub source: Vec<u32>,
    /// Width d.
    pub d: usize,
    /// K.
    pub top_k: usize,
    /// E.
    pub experts: usize,
}

impl Observed {
    /// The routed tokens of a layer.
    pub fn routed(&self, layer: usize) -> routed::Routed<'_> {
        let view = &self.layers[layer];
        let Observed { d, top_k, experts, .. } = *self;
        routed::Routed { x: &view.x, d, index: &view.index, weight: &view.weight, top_k, experts }
    }
}

/// A text on its way through a model, part by part: forward ([`Reading::pass`]) from the embedding to the last layer, and the
/// gradient of its mean loss backward ([`Reading::back`]) from the head on. Hidden states lie on the host.
#[derive(Debug)]
pub struct Reading<'a> {
    seq: usize,
    text: &'a SourceWindows,
    d: usize,
    vocab: usize,
    /// The place in a permuted sequence holds the token of this place.
    order: Vec<usize>,
    permuted_tokens: Vec<u32>,
    /// The hidden states before each layer that was passed, and those behind the last, `[tokens, d]`.
    states: Vec<Vec<f32>>,
    /// The hidden states of the permuted text.
    permuted: Vec<f32>,
    /// The gradient of what the part before puts out, `[tokens, d]`; empty before the head.
    gradient: Vec<f32>,
}

impl<'a> Reading<'a> {
    /// Begins to read the windows of `seq` tokens, and the same with the tokens of each window permuted by `seed`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the windows are not of `seq` tokens.
    pub fn new(config: &ModelConfig, seq: usize, text: &'a SourceWindows, seed: u64) -> Result<Self> {
        let tokens = text.batch.tokens.len();
        if seq == 0 || !tokens.is_multiple_of(seq) {
            return Err(Error::shape("text", format!("windows of {seq} tokens"), format!("{tokens} tokens")));
        }
        let order = permutation(seq, seed);
        let permuted_tokens = text.batch.tokens.chunks(seq).flat_map(|s| order.iter().map(|&i| s[i])).collect();
        let (states, permuted, gradient) = (Vec::new(), Vec::new(), Vec::new());
        let (d, vocab) = (config.d_model, config.vocab);
        Ok(Self { seq, text, d, vocab, order, permuted_tokens, states, permuted, gradient })
    }

    /// The tokens of each pass through a part.
    fn ranges(&self, part: Part) -> Vec<Range<usize>> {
        let sequences = match part {
            Part::Head => sequences_with_logits(self.seq, self.vocab),
            Part::Embedding | Part::Layer(_) => sequences_at_once(self.seq),
        };
        let (at_once, all) = (sequences * self.seq, self.text.batch.tokens.len());
        (0..all).step_by(at_once).map(|first| first..(first + at_once).min(all)).collect()
    }

    /// Runs the embedding or a layer; gives what is to be seen of its experts, if it has any.
    ///
    /// # Errors
    /// The errors of the ops; [`Error::Device`].
    pub async fn pass(&mut self, gpu: &Gpu, part: PartRef<'_>) -> Result<Option<LayerView>> {
        let (d, seq) = (self.d, self.seq);
        let before = self.states.last().map_or(&[][..], Vec::as_slice);
        let (mut state, mut permuted, mut view) = (Vec::new(), Vec::new(), None);
        for range in self.ranges(part.part()) {
            let (tokens, of_range) =
                (range.len(), |x: &[f32]| x.get(range.start * d..range.end * d).map(<[f32]>::to_vec));
            let input =
                |tokens: &[u32], x| part_input(gpu, d, &tokens[range.clone()], &of_range(x).unwrap_or_default());
            let (output, seen) = forward(gpu, part, seq, &input(&self.text.batch.tokens, before)?).await?;
            state.extend(output);
            let (output, seen_permuted) =
                forward(gpu, part, seq, &input(&self.permuted_tokens, &self.permuted)?).await?;
            permuted.extend(output);
            let Some((seen, seen_permuted)) = seen.zip(seen_permuted) else { continue };
            // Back to the text's order: token order[i] stood at place i.
            let mut rows = vec![0.0; tokens * d];
            for (at, row) in seen_permuted.x.chunks(d).enumerate() {
                let token = at / seq * seq + self.order[at % seq];
                rows[token * d..(token + 1) * d].copy_from_slice(row);
            }
            view.get_or_insert_with(LayerView::default).extend(LayerView { permuted: rows, ..seen });
        }
        self.states.push(state);
        self.permuted = permuted;
        Ok(view)
    }

    /// Runs a part again and leaves the gradient of the mean loss over the windows in its gradient buffers: first the head, once the
    /// last layer was passed, then each layer from the last on.
    ///
    /// # Errors
    /// [`Error::Shape`] where the part's input is not there; as [`Reading::pass`].
    pub async fn back(&mut self, gpu: &Gpu, part: PartRef<'_>) -> Result<()> {
        let Some(state) = self.states.pop() else {
            return Err(Error::shape("gradients", "a part that was passed", format!("{:?} once more", part.part())));
        };
        let (d, batch) = (self.d, &self.text.batch);
        let total = batch.tokens.len();
        let mut gradient = Vec::with_capacity(state.len());
        for (i, range) in self.ranges(part.part()).into_iter().enumerate() {
            let mode = if i == 0 { Mode::Train } else { Mode::Accumulate };
            let (tokens, states) = (range.len(), range.start * d..range.end * d);
            let mut tape = Tape::new(gpu);
            let input = tape.variable(&Tensor::from_f32(gpu, [tokens, d], &state[states.clone()])?);
            let output = part.forward(&mut tape, &Pass::plain(part.params(), self.seq, mode), input)?.value;
            let seed = if part.part() == Part::Head {
                let targets = tape.constant(&Tensor::from_u32(gpu, [tokens], &batch.targets[range])?);
                let loss = tape.apply(CrossEntropy, &[output, targets])?;
                tape.release(&[output]);
                (loss, Tensor::from_f32(gpu, [1], &[tokens as f32 / total as f32])?)
            } else {
                let behind = self
                    .gradient
                    .get(states)
                    .ok_or_else(|| Error::shape("gradients", "the head first", format!("{:?}", part.part())))?;
                (output, Tensor::from_f32(gpu, [tokens, d], behind)?)
            };
            let gradients = tape.backward(&[seed])?;
            match gradients.of(input) {
                Some(dx) => gradient.extend(dx.to_f32().await?),
                None => gradient.extend(std::iter::repeat_n(0.0, tokens * d)),
            }
        }
        self.gradient = gradient;
        Ok(())
    }
}

/// Runs the model on the windows, and again with the tokens of each window permuted by `seed`.
///
/// # Errors
/// [`Error::Shape`] when the windows are not of `seq` tokens; [`Error::Device`].
pub async fn observe(
    gpu: &Gpu,
    model: &dyn ModelParts,
    seq: usize,
    text: &SourceWindows,
    seed: u64,
) -> Result<Observed> {
    let config = model.config();
    let mut layers = vec![LayerView::default(); config.layers];
    let mut reading = Reading::new(config, seq, text, seed)?;
    for part in Part::all(config).filter(|&part| part != Part::Head) {
        let held = model.part(part, false)?;
        if let (Part::Layer(layer), Some(view)) = (part, reading.pass(gpu, held.view()).await?) {
            layers[layer] = view;
        }
        held.let_go(gpu).await?;
    }
    let (d, top_k, experts) = (config.d_model, config.moe.top_k, config.moe.experts);
    Ok(Observed { layers, source: text.source_of_tokens(seq), d, top_k, experts })
}

async fn forward(gpu: &Gpu, part: PartRef<'_>, seq: usize, input: &Tensor) -> Result<(Vec<f32>, Option<LayerView>)> {
    let mut tape = Tape::new(gpu).keeping();
    let input = tape.constant(input);
    let output = part.forward(&mut tape, &Pass::plain(part.params(), seq, Mode::Inference), input)?;
    let state = tape.value(output.value).to_f32().await?;
    let Some((input, Routed { weights, routing, outputs, .. })) = output.routed else { return Ok((state, None)) };
    let mut view = LayerView {
        x: tape.value(input).to_f32().await?,
        index: routing.index.to_u32().await?,
        weight: tape.value(weights).to_f32().await?,
        ..LayerView::default()
    };
    if let Some(outputs) = outputs {
        let pairs = row_energies(tape.value(outputs.pairs)).await?;
        let slot = routing.slot.to_u32().await?;
        view.norms = slot.into_iter().map(|row| pairs[row as usize].sqrt()).collect();
        view.routed_energy = row_energies(tape.value(outputs.sum)).await?;
        if let Some(shared) = outputs.shared {
            view.shared_energy = row_energies(tape.value(shared)).await?;
        }
    }
    Ok((state, Some(view)))
}

/// Squared norms of the rows.
async fn row_energies(x: &Tensor) -> Result<Vec<f32>> {
    square_norms(&x.reshape([x.rows(), 1, x.cols()])?, 0)?.to_f32().await
}
