//! The intermediate results of a forward pass, by name.

use crate::autograd::Tape;
use crate::error::Result;
use crate::nn::language_model::LanguageModel;
use crate::nn::pass::{Mode, Pass};
use crate::tensor::Tensor;

/// The intermediate results of a forward pass, by name, in the order in which they were computed. `l` is the layer's number in
/// the model, T the tokens, d the model's width, E the experts, K those of a token.
///
/// | name | shape | what it is |
/// |---|---|---|
/// | `layers.l.ffn_input` | `[T, d]` | the input of the feed-forward network, after its norm |
/// | `layers.l.router.logits` | `[T, E]` | the router's logits, of a layer with experts |
/// | `layers.l.router.scores` | `[T, E]` | their softmax or sigmoid |
/// | `layers.l.router.experts` | u32 `[T, K]` | the chosen experts, the best first |
/// | `layers.l.router.weights` | `[T, K]` | their combine weights |
/// | `layers.l.experts` | `[T, d]` | the weighted sum of the routed experts |
/// | `layers.l.shared` | `[T, d]` | the output of the shared expert, its gate applied, where there is one |
/// | `layers.l.ffn_output` | `[T, d]` | the output of the feed-forward network |
/// | `layers.l.output` | `[T, d]` | the residual stream behind the layer |
/// | `logits` | `[T, vocab]` | the logits of the next token |
///
/// A model of one's own has those that its [`Output`](crate::nn::language_model::Output) names.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    entries: Vec<(String, Tensor)>,
}

impl Trace {
    /// The result called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find(|(own, _)| *own == name).map(|(_, tensor)| tensor)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.entries.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// Runs `model` on `tokens: u32 [batch * seq]`, whole sequences of `seq` tokens, without gradients and keeps what it computes on the
/// way. All of it is on the device at once, until the trace is dropped.
///
/// # Errors
/// As [`LanguageModel::forward`].
pub fn trace(model: &dyn LanguageModel, tokens: &Tensor, seq: usize) -> Result<Trace> {
    let mut tape = Tape::new(tokens.gpu()).keeping();
    let pass = Pass::plain(model.params(), seq, Mode::Inference);
    let output = model.forward(&mut tape, &pass, tokens)?;
    let mut entries = Vec::new();
    let numbers: Vec<usize> = (0..output.routings.len()).map(|i| model.params().expert_layer(i)).collect();
    for l in 0..output.layers.len().max(numbers.last().map_or(0, |last| last + 1)) {
        let mut add = |name: &str, tensor: &Tensor| entries.push((format!("layers.{l}.{name}"), tensor.clone()));
        let layer = output.layers.get(l);
        if let Some(layer) = layer {
            add("ffn_input", tape.value(layer.ffn_input));
        }
        if let Some(i) = numbers.iter().position(|number| *number == l) {
            let experts = output.experts.get(i);
            if let Some(experts) = experts {
                add("router.logits", tape.value(experts.logits));
                add("router.scores", tape.value(experts.scores));
            }
            add("router.experts", &output.routings[i].index);
            if let Some(experts) = experts {
                add("router.weights", tape.value(experts.weights));
            }
            if let Some(outputs) = experts.and_then(|experts| experts.outputs) {
                add("experts", tape.value(outputs.sum));
                if let Some(shared) = outputs.shared {
                    add("shared", tape.value(shared));
                }
            }
        }
        if let Some(layer) = layer {
            add("ffn_output", tape.value(layer.ffn_output));
            add("output", tape.value(layer.output));
        }
    }
    entries.push(("logits".into(), tape.value(output.logits).clone()));
    Ok(Trace { entries })
}
