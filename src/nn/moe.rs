//! The Mixture-of-Experts layer: router, routed SwiGLU experts, shared expert.
//!
//! `moe(x)_t = sum_j w_tj expert_{i_tj}(x_t) + gate(x_t) shared(x_t)`.
//! Every routed pair is computed (dropless); which expert a row belongs to never leaves the device.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::config::{ModelConfig, SharedGate};
use crate::nn::experts::{ExpertSizes, Experts};
use crate::nn::linear::Linear;
use crate::nn::params::{Init, ParamBuilder};
use crate::nn::pass::{Mode, Pass};
use crate::nn::router::{ExpertOutputs, Routed, Router};
use crate::nn::swiglu::SwiGluLayer;
use crate::ops::{Add, SigmoidGate};

/// The layer.
#[derive(Clone, Debug)]
pub struct MoeLayer {
    router: Router,
    experts: Experts,
    shared: Option<SwiGluLayer>,
    /// `[d_model, 1]`.
    shared_gate: Option<Linear>,
}

/// The outputs of the layer.
pub struct MoeOutput {
    /// `[tokens, d_model]`.
    pub output: Var,
    /// Who went where.
    pub routed: Routed,
}

impl MoeLayer {
    /// Registers the parameters under `prefix`. `layer` counts the layers that have experts.
    pub fn new(params: &mut ParamBuilder, prefix: &str, layer: usize, config: &ModelConfig) -> Self {
        let (d, moe, depth) = (config.d_model, &config.moe, config.depth_scale());
        let names = ["router", "balance_bias"].map(|name| format!("{prefix}.{name}"));
        let router = Router::new(params, names, layer, d, moe);
        let sizes = ExpertSizes { experts: moe.experts, d_model: d, hidden: moe.d_expert };
        let experts = Experts::new(params, &format!("{prefix}.experts"), sizes, depth);
        let shared = format!("{prefix}.shared");
        let shared = (moe.d_shared > 0).then(|| SwiGluLayer::new(params, &shared, d, moe.d_shared, depth));
        let gated = moe.d_shared > 0 && moe.shared_gate == SharedGate::Sigmoid;
        let gate = format!("{prefix}.shared_gate");
        let shared_gate = gated.then(|| Linear::scoring(params, gate, [d, 1], Init::fan_in(d)));
        Self { router, experts, shared, shared_gate }
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The router, to change its settings.
    pub(super) fn router_mut(&mut self) -> &mut Router {
        &mut self.router
    }

    /// The routed experts.
    pub fn experts(&self) -> &Experts {
        &self.experts
    }

    /// `x: [tokens, d_model]`.
    ///
    /// # Errors
    /// The errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, x: Var) -> Result<MoeOutput> {
        let mut routed = self.router.forward(tape, pass, x)?;
        let [pairs, mut output] = self.experts.forward(tape, pass, &routed, x)?;
        let mut outputs = ExpertOutputs { pairs, sum: output, shared: None };
        if let Some(shared) = self.shared {
            let (own, shared) = (output, self.shared_output(tape, pass, &shared, x)?);
            outputs.shared = Some(shared);
            output = tape.apply(Add, &[own, shared])?;
            tape.release(&[own, shared]);
        }
        routed.outputs = Some(outputs);
        tape.release(&[routed.logits]);
        if pass.mode == Mode::Inference || !self.router.balances_with_others() {
            tape.release(&[routed.scores]);
        }
        Ok(MoeOutput { output, routed })
    }

    fn shared_output(&self, tape: &mut Tape, pass: &Pass<'_>, shared: &SwiGluLayer, x: Var) -> Result<Var> {
        let output = shared.forward(tape, pass, x)?;
        let Some(gate) = self.shared_gate else { return Ok(output) };
        let logit = gate.forward_f32(tape, pass, x)?;
        let gated = tape.apply(SigmoidGate, &[output, logit])?;
        tape.release(&[output, logit]);
        Ok(gated)
    }
}
