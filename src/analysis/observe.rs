//! A model at work on a text: the input, the choices, the combine weights and the outputs' norms of each layer's
//! experts, the same with permuted sequences, and the experts' gradients.

use super::routed::{Routed, permutation};
use crate::autograd::Tape;
use crate::data::sources::SourceWindows;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::spectral::square_norms;
use crate::nn::model::Model;
use crate::nn::pass::{Mode, Pass};
use crate::ops::CrossEntropy;
use crate::tensor::Tensor;

/// Tokens of one forward pass, at least one sequence.
const AT_ONCE: usize = 4096;

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
    pub fn routed(&self, layer: usize) -> Routed<'_> {
        let view = &self.layers[layer];
        let Observed { d, top_k, experts, .. } = *self;
        Routed { x: &view.x, d, index: &view.index, weight: &view.weight, top_k, experts }
    }
}

/// Runs the model on the windows, and again with the tokens of each window permuted by `seed`.
///
/// # Errors
/// [`crate::Error::Shape`] when the windows are not of `seq` tokens; [`crate::Error::Device`].
pub async fn observe(gpu: &Gpu, model: &Model, seq: usize, text: &SourceWindows, seed: u64) -> Result<Observed> {
    let config = model.config();
    let (d, top_k, experts) = (config.d_model, config.moe.top_k, config.moe.experts);
    let mut layers = vec![LayerView::default(); config.layers];
    let order = permutation(seq, seed);
    let with_experts = config.moe_layers();
    for tokens in text.batch.tokens.chunks((AT_ONCE / seq).max(1) * seq) {
        for (&number, seen) in with_experts.iter().zip(forward(gpu, model, seq, tokens).await?) {
            let layer = &mut layers[number];
            layer.x.extend(seen.x);
            layer.index.extend(seen.index);
            layer.weight.extend(seen.weight);
            layer.norms.extend(seen.norms);
            layer.routed_energy.extend(seen.routed_energy);
            layer.shared_energy.extend(seen.shared_energy);
        }
        let permuted: Vec<u32> = tokens.chunks(seq).flat_map(|s| order.iter().map(|&i| s[i])).collect();
        for (&number, seen) in with_experts.iter().zip(forward(gpu, model, seq, &permuted).await?) {
            let layer = &mut layers[number];
            // Back to the text's order: token order[i] stood at place i.
            let mut rows = vec![0.0; seen.x.len()];
            for (at, row) in seen.x.chunks(d).enumerate() {
                let token = at / seq * seq + order[at % seq];
                rows[token * d..(token + 1) * d].copy_from_slice(row);
            }
            layer.permuted.extend(rows);
        }
    }
    let source = text.source.iter().flat_map(|&s| std::iter::repeat_n(s, seq)).collect();
    Ok(Observed { layers, source, d, top_k, experts })
}

async fn forward(gpu: &Gpu, model: &Model, seq: usize, tokens: &[u32]) -> Result<Vec<LayerView>> {
    let mut tape = Tape::new(gpu).keeping();
    let pass = Pass::plain(model.params(), seq, Mode::Inference);
    let output = model.forward(&mut tape, &pass, &Tensor::from_u32(gpu, [tokens.len()], tokens)?)?;
    let mut layers = Vec::new();
    for (vars, routing) in output.experts.iter().zip(&output.routings) {
        let mut view = LayerView {
            x: tape.value(vars.input).to_f32().await?,
            index: routing.index.to_u32().await?,
            weight: tape.value(vars.weights).to_f32().await?,
            ..LayerView::default()
        };
        if let Some(outputs) = vars.outputs {
            let pairs = row_energies(tape.value(outputs.pairs)).await?;
            let slot = routing.slot.to_u32().await?;
            view.norms = slot.into_iter().map(|row| pairs[row as usize].sqrt()).collect();
            view.routed_energy = row_energies(tape.value(outputs.sum)).await?;
            if let Some(shared) = outputs.shared {
                view.shared_energy = row_energies(tape.value(shared)).await?;
            }
        }
        layers.push(view);
    }
    Ok(layers)
}

/// Squared norms of the rows.
async fn row_energies(x: &Tensor) -> Result<Vec<f32>> {
    square_norms(&x.reshape([x.rows(), 1, x.cols()])?, 0)?.to_f32().await
}

/// Leaves the gradient of the mean loss over the windows in the model's gradient buffers.
///
/// # Errors
/// As [`observe`].
pub(crate) fn gradients(gpu: &Gpu, model: &Model, seq: usize, text: &SourceWindows) -> Result<()> {
    let at_once = (AT_ONCE / seq).max(1) * seq;
    let total = text.batch.tokens.len();
    for (i, (tokens, targets)) in text.batch.tokens.chunks(at_once).zip(text.batch.targets.chunks(at_once)).enumerate()
    {
        let mode = if i == 0 { Mode::Train } else { Mode::Accumulate };
        let mut tape = Tape::new(gpu);
        let pass = Pass::plain(model.params(), seq, mode);
        let output = model.forward(&mut tape, &pass, &Tensor::from_u32(gpu, [tokens.len()], tokens)?)?;
        let targets = tape.constant(&Tensor::from_u32(gpu, [targets.len()], targets)?);
        let loss = tape.apply(CrossEntropy, &[output.logits, targets])?;
        tape.release(&[output.logits]);
        let share = Tensor::from_f32(gpu, [1], &[tokens.len() as f32 / total as f32])?;
        drop(tape.backward(&[(loss, share)])?);
    }
    Ok(())
}
