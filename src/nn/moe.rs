//! The Mixture-of-Experts layer: router, routed SwiGLU experts, shared expert, auxiliary losses.
//!
//! `moe(x)_t = sum_j w_tj expert_{i_tj}(x_t) + gate(x_t) shared(x_t)` with `expert(x) = (silu(x W_gate) * (x W_up)) W_down`.
//! Every routed pair is computed (dropless); which expert a row belongs to never leaves the device.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::kernels::grouped::tile_rows;
use crate::kernels::routing::{Routing, route};
use crate::nn::config::{ExpertMatrix, ModelConfig, MoeConfig, SharedGate};
use crate::nn::params::{Group, ParamBuilder, ParamId};
use crate::nn::pass::{Mode, Pass};
use crate::ops::{
    Add, Combine, CombineWeights, ExpertMatMul, LoadBalance, MatMul, Permute, RouterScores, SigmoidGate, SwiGlu, ZLoss,
};
use crate::tensor::Tensor;

/// The layer's parameters.
#[derive(Clone, Copy, Debug)]
pub struct MoeLayer {
    layer: usize,
    router: ParamId,
    experts: [ParamId; 3],
    shared: Option<[ParamId; 3]>,
    shared_gate: Option<ParamId>,
}

/// The outputs of the layer.
pub struct MoeOutput {
    /// `[tokens, d_model]`.
    pub output: Var,
    /// Auxiliary losses, `[1]` each, their weights applied.
    pub losses: Vec<Var>,
    /// Who went where.
    pub routing: Routing,
    /// Combine weights, `[tokens, K]`.
    pub weights: Var,
}

impl MoeLayer {
    /// Registers the parameters of layer `layer` under `prefix`.
    pub fn new(params: &mut ParamBuilder, prefix: &str, layer: usize, config: &ModelConfig) -> Self {
        let (d, moe) = (config.d_model, &config.moe);
        let router = params.add(format!("{prefix}.router"), Group::Decay, &[d, moe.experts]);
        let experts = ExpertMatrix::ALL.map(|matrix| {
            let (m, n) = expert_shape(matrix, d, moe.d_expert);
            params.add(format!("{prefix}.experts.{}", matrix.name()), Group::Experts(matrix), &[moe.experts, m, n])
        });
        let shared = (moe.d_shared > 0).then(|| {
            ExpertMatrix::ALL.map(|matrix| {
                let (m, n) = expert_shape(matrix, d, moe.d_shared);
                params.add(format!("{prefix}.shared.{}", matrix.name()), Group::Decay, &[m, n])
            })
        });
        let gated = moe.d_shared > 0 && moe.shared_gate == SharedGate::Sigmoid;
        let shared_gate = gated.then(|| params.add(format!("{prefix}.shared_gate"), Group::Decay, &[d, 1]));
        Self { layer, router, experts, shared, shared_gate }
    }

    /// The router, `[d_model, E]`.
    pub fn router(&self) -> ParamId {
        self.router
    }

    /// The routed experts' matrices in the order of [`ExpertMatrix::ALL`], `[E, m, n]` each.
    pub fn experts(&self) -> [ParamId; 3] {
        self.experts
    }

    /// `x: [tokens, d_model]`. `bias: [E]` is added to the scores where experts are chosen, and only there.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(
        &self,
        tape: &mut Tape,
        pass: &Pass<'_>,
        config: &MoeConfig,
        bias: Option<&Tensor>,
        x: Var,
    ) -> Result<MoeOutput> {
        // Choices and logits in f32 whatever the activations are stored in.
        let router = pass.master(tape, self.router);
        let logits = tape.apply(MatMul { trans_b: false }, &[x, router])?;
        let scores = tape.apply(RouterScores { score: config.score }, &[logits])?;
        let routing = route(tape.value(scores), bias, config.top_k, tile_rows(tape.gpu()))?;
        let index = tape.constant(&routing.index);
        let slot = tape.constant(&routing.slot);
        let source = tape.constant(&routing.source);
        let combine = CombineWeights { renormalize: config.renormalize, scaling: config.scaling };
        let weights = tape.apply(combine, &[scores, index])?;

        let grouped = tape.apply_recomputed(Permute, &[x, source, slot])?;
        let expert = |tape: &mut Tape, matrix: ExpertMatrix, x: Var| {
            let w = pass.param(tape, self.experts[matrix as usize]);
            let token_space = (pass.token_space)(self.layer, matrix)?;
            let product = ExpertMatMul { token_space, ..ExpertMatMul::new(routing.groups.clone()) };
            match matrix {
                ExpertMatrix::Gate | ExpertMatrix::Up => tape.apply(product, &[x, w]),
                ExpertMatrix::Down => tape.apply_recomputed(product, &[x, w]),
            }
        };
        let gate = expert(tape, ExpertMatrix::Gate, grouped)?;
        let up = expert(tape, ExpertMatrix::Up, grouped)?;
        tape.release(&[grouped]);
        let hidden = tape.apply_recomputed(SwiGlu, &[gate, up])?;
        tape.release(&[gate, up]);
        let down = expert(tape, ExpertMatrix::Down, hidden)?;
        tape.release(&[hidden]);
        let mut output = tape.apply(Combine, &[down, weights, slot, source])?;
        tape.release(&[down, weights, slot, source, index]);
        if let Some(shared) = self.shared {
            let (routed, shared) = (output, self.shared_expert(tape, pass, shared, x)?);
            output = tape.apply(Add, &[routed, shared])?;
            tape.release(&[routed, shared]);
        }

        let mut losses = Vec::new();
        if pass.mode != Mode::Inference {
            if config.balance_loss > 0.0 {
                let counts = tape.constant(&routing.groups.counts);
                let op = LoadBalance { coefficient: config.balance_loss, top_k: config.top_k };
                losses.push(tape.apply(op, &[scores, counts])?);
            }
            if config.z_loss > 0.0 {
                losses.push(tape.apply(ZLoss { coefficient: config.z_loss }, &[logits])?);
            }
        }
        tape.release(&[logits, scores]);
        Ok(MoeOutput { output, losses, routing, weights })
    }

    fn shared_expert(&self, tape: &mut Tape, pass: &Pass<'_>, shared: [ParamId; 3], x: Var) -> Result<Var> {
        let product = |tape: &mut Tape, id, x| {
            let w = pass.param(tape, id);
            tape.apply(MatMul { trans_b: false }, &[x, w])
        };
        let gate = product(tape, shared[0], x)?;
        let up = product(tape, shared[1], x)?;
        let hidden = tape.apply_recomputed(SwiGlu, &[gate, up])?;
        tape.release(&[gate, up]);
        let output = product(tape, shared[2], hidden)?;
        tape.release(&[hidden]);
        match self.shared_gate {
            None => Ok(output),
            Some(id) => {
                let w = pass.master(tape, id);
                let logit = tape.apply(MatMul { trans_b: false }, &[x, w])?;
                let gated = tape.apply(SigmoidGate, &[output, logit])?;
                tape.release(&[output, logit]);
                Ok(gated)
            }
        }
    }
}

/// Rows and columns of an expert's matrix.
pub fn expert_shape(matrix: ExpertMatrix, d_model: usize, hidden: usize) -> (usize, usize) {
    match matrix {
        ExpertMatrix::Gate | ExpertMatrix::Up => (d_model, hidden),
        ExpertMatrix::Down => (hidden, d_model),
    }
}
