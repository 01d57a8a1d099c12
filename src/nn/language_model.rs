//! The interface between models and those who train, evaluate and run them.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::routing::Routing;
use crate::nn::params::ParamSet;
use crate::nn::pass::Pass;
use crate::nn::router::{ExpertOutputs, Routed};
use crate::tensor::Tensor;

/// A model that gives logits of the next token. A [`Trainer`](crate::Trainer) takes any.
pub trait LanguageModel {
    /// The parameters.
    fn params(&self) -> &ParamSet;

    /// `tokens: u32 [batch * pass.seq]`, whole sequences behind each other.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the tokens are not whole sequences; the errors of the ops.
    fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, tokens: &Tensor) -> Result<Output>;

    /// The layers with experts.
    fn experts(&self) -> ExpertCount;

    /// Called after a step with the tokens that each expert of a layer (counted among those with experts) got, `u32 [E]`, for
    /// models that balance by moving a bias.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the counts do not fit; [`crate::Error::Device`].
    fn balance(&self, _layer: usize, _counts: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// The number of layers with experts, and their experts. All zero in a model without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertCount {
    /// Layers with experts.
    pub layers: usize,
    /// Experts of each.
    pub experts: usize,
    /// Experts that a token visits, *K*.
    pub top_k: usize,
}

/// The outputs of a forward pass.
#[non_exhaustive]
pub struct Output {
    /// `[tokens, vocab]`, or `[1, vocab]` where the pass wants the last token's only.
    pub logits: Var,
    /// Auxiliary losses of all layers, `[1]` each; none in inference.
    pub losses: Vec<Var>,
    /// The routing of each layer that has experts.
    pub routings: Vec<Routing>,
    /// The tokens of each layer's experts; on a [`Tape::keeping`] tape their values can be read.
    pub experts: Vec<ExpertVars>,
    /// The intermediate results of all layers; on a [`Tape::keeping`] tape their values can be read.
    pub layers: Vec<LayerVars>,
}

impl Output {
    /// Logits and nothing else; further fields can be set.
    pub fn new(logits: Var) -> Self {
        Self { logits, losses: Vec::new(), routings: Vec::new(), experts: Vec::new(), layers: Vec::new() }
    }

    /// Adds what a layer's router has decided about the tokens of `input`, `[tokens, d_model]`.
    pub fn routed(&mut self, input: Var, routed: Routed) {
        self.losses.extend(routed.losses);
        self.routings.push(routed.routing);
        let Routed { logits, scores, weights, outputs, .. } = routed;
        self.experts.push(ExpertVars { input, logits, scores, weights, outputs });
    }
}

/// The tokens that one layer's experts got.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ExpertVars {
    /// The layer's input after its norm, `[tokens, d_model]`.
    pub input: Var,
    /// The router's logits, `[tokens, E]`.
    pub logits: Var,
    /// Softmax or sigmoid of the logits, `[tokens, E]`.
    pub scores: Var,
    /// Combine weights, `[tokens, K]`.
    pub weights: Var,
    /// The results of the experts, where they ran.
    pub outputs: Option<ExpertOutputs>,
}

/// The intermediate results of one layer, `[tokens, d_model]` each.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LayerVars {
    /// The input of the feed-forward network, after its norm.
    pub ffn_input: Var,
    /// The output of the feed-forward network.
    pub ffn_output: Var,
    /// The residual stream behind the layer.
    pub output: Var,
}
