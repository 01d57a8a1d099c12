//! The router: which experts a token visits, with what weight, and the losses that balance them.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::elementwise::axpby;
use crate::kernels::grouped::tile_rows;
use crate::kernels::routing::{Routing, route, update_bias};
use crate::kernels::routing_groups::{GroupChoice, keep_groups};
use crate::nn::config::{BalanceScope, MoeConfig};
use crate::nn::linear::Linear;
use crate::nn::params::{Init, ParamBuilder, ParamId, ParamSet, StateId};
use crate::nn::pass::{Mode, Pass};
use crate::ops::{Bias, CombineWeights, LoadBalance, RouterScores, ZLoss};
use crate::tensor::Tensor;

/// Scores of experts from a linear layer, the choice of K experts a token, and their weights.
#[derive(Clone, Debug)]
pub struct Router {
    /// The number of the layer among those with experts.
    layer: usize,
    linear: Linear,
    /// The bias of the choice, `[E]`, where there is one.
    bias: Option<StateId>,
    config: MoeConfig,
}

/// The decisions of a router about the tokens of a pass.
pub struct Routed {
    /// The output of the linear layer, `[tokens, E]`; far below all others for experts that are switched off.
    pub logits: Var,
    /// Softmax or sigmoid of the logits, `[tokens, E]`.
    pub scores: Var,
    /// Combine weights, `[tokens, K]`.
    pub weights: Var,
    /// The chosen experts, and each expert's tokens.
    pub routing: Routing,
    /// Auxiliary losses, `[1]` each, their weights applied.
    pub losses: Vec<Var>,
    /// The results of the experts, once they have run.
    pub outputs: Option<ExpertOutputs>,
}

/// The results of one layer's experts.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ExpertOutputs {
    /// Each expert's output for the tokens that chose it, before its weight, `[capacity, d_model]`: row `slot[t, j]` of
    /// the routing belongs to the j-th choice of token t.
    pub pairs: Var,
    /// The weighted sum of each token's routed experts, `[tokens, d_model]`.
    pub sum: Var,
    /// The output of the shared expert, its gate applied, `[tokens, d_model]`; none where there is no such expert.
    pub shared: Option<Var>,
}

impl Router {
    /// Registers the linear layer under `name`, with a start so small that the first routing is close to uniform, and the bias
    /// of the choice under `bias` where `config` has one. `layer` counts the layers that have experts.
    pub fn new(
        params: &mut ParamBuilder,
        [name, bias]: [String; 2],
        layer: usize,
        d_model: usize,
        config: &MoeConfig,
    ) -> Self {
        let linear = Linear::scoring(params, name, [d_model, config.experts], Init::Normal(super::SMALL_STD));
        let bias = config.biases_choice().then(|| params.add_state(bias, &[config.experts]));
        Self { layer, linear, bias, config: config.clone() }
    }

    /// The weight, `[d_model, E]`.
    pub fn weight(&self) -> ParamId {
        self.linear.weight()
    }

    /// Changes the weight of the load-balance loss.
    pub(super) fn set_balance_loss(&mut self, weight: f32) {
        self.config.balance_loss = weight;
    }

    /// `x: [tokens, d_model]`. Choices and logits are in f32 whatever the activations are stored in.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<Routed> {
        let config = &self.config;
        let mut logits = self.linear.forward_f32(tape, pass, x)?;
        let mask = pass.mask.and_then(|mask| mask.of(self.layer));
        if let Some(mask) = mask {
            let (all, mask) = (logits, tape.constant(mask));
            logits = tape.apply(Bias, &[all, mask])?;
            tape.release(&[all, mask]);
        }
        let scores = tape.apply(RouterScores { score: config.score }, &[logits])?;
        let top_k = pass.top_k.unwrap_or(config.top_k);
        let bias = self.bias.map(|id| pass.params.state(id));
        let masked = match (bias, mask) {
            // A score is at least 0: the logit alone does not keep an expert from being chosen.
            (Some(bias), Some(mask)) => {
                let sum = bias.duplicate()?;
                axpby(1.0, mask, 1.0, &sum)?;
                Some(sum)
            }
            _ => mask.cloned(),
        };
        let routing = self.choose(tape.value(scores), masked.as_ref().or(bias), top_k)?;
        let index = tape.constant(&routing.index);
        let combine = CombineWeights { renormalize: config.renormalize, scaling: config.scaling };
        let weights = tape.apply(combine, &[scores, index])?;
        tape.release(&[index]);
        let mut losses = Vec::new();
        if pass.mode != Mode::Inference {
            if config.balance_loss > 0.0 && !self.balances_with_others() {
                losses.push(self.balance_loss(tape, scores, &routing.groups.counts, config.balance_loss)?);
            }
            if config.z_loss > 0.0 {
                losses.push(tape.apply(ZLoss { coefficient: config.z_loss }, &[logits])?);
            }
        }
        Ok(Routed { logits, scores, weights, routing, losses, outputs: None })
    }

    /// Whether the load-balance loss is one over all layers: then the scores are needed until the last of them.
    pub(super) fn balances_with_others(&self) -> bool {
        self.config.balance_loss > 0.0 && self.config.balance_scope == BalanceScope::Model
    }

    /// This layer's part in the load-balance loss over `layers` layers, with the `counts` of the tokens of all of them. As
    /// transformers has it, where `f_e` adds up to K and not to 1.
    ///
    /// # Errors
    /// The errors of the op.
    pub(super) fn balance_part(&self, tape: &mut Tape, scores: Var, counts: &Tensor, layers: usize) -> Result<Var> {
        // Both means are over the tokens of all layers: one factor for the counts, one for the scores.
        let coefficient = self.config.balance_loss * self.config.top_k as f32 / (layers * layers) as f32;
        self.balance_loss(tape, scores, counts, coefficient)
    }

    fn balance_loss(&self, tape: &mut Tape, scores: Var, counts: &Tensor, coefficient: f32) -> Result<Var> {
        let counts = tape.constant(counts);
        tape.apply(LoadBalance { coefficient, top_k: self.config.top_k }, &[scores, counts])
    }

    fn choose(&self, scores: &Tensor, bias: Option<&Tensor>, top_k: usize) -> Result<Routing> {
        let (config, tile_rows) = (&self.config, tile_rows(scores.gpu()));
        if config.groups == 1 {
            return route(scores, bias, top_k, tile_rows);
        }
        let choice = GroupChoice { groups: config.groups, kept: config.groups_kept, score: config.group_score };
        route(&keep_groups(scores, bias, choice)?, None, top_k, tile_rows)
    }

    /// Moves the bias of the choice, if balancing by bias is on, towards the experts that got too little: `counts: u32 [E]`,
    /// tokens of each expert in the whole step.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the counts do not fit; [`crate::Error::Device`].
    pub(super) fn balance(&self, params: &ParamSet, counts: &Tensor) -> Result<()> {
        match self.bias {
            Some(id) if self.config.balance_bias > 0.0 => {
                update_bias(params.state(id), counts, self.config.balance_bias)
            }
            _ => Ok(()),
        }
    }
}
