//! The decoder-only language model: embedding, layers of attention and experts, final norm, head.
//!
//! `x += attn(norm(x)); x += moe(norm(x))` in each layer, then `logits = norm(x) H` with `H` the embedding transposed or a
//! matrix of its own.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::routing::{Routing, update_bias};
use crate::linalg::random::fill_normal;
use crate::nn::attention::AttentionLayer;
use crate::nn::config::{ExpertMatrix, ModelConfig, Precision};
use crate::nn::moe::MoeLayer;
use crate::nn::params::{Group, ParamBuilder, ParamId, ParamSet};
use crate::nn::pass::Pass;
use crate::nn::size;
use crate::ops::{Add, Embedding, MatMul, RmsNorm, RotaryTable};
use crate::tensor::{DType, Tensor};

/// Standard deviation of the embedding and the router at the start: small, so that first logits and first routing are
/// close to uniform.
const SMALL_STD: f32 = 0.02;

#[derive(Debug)]
struct Layer {
    attn_norm: ParamId,
    attn: AttentionLayer,
    moe_norm: ParamId,
    moe: MoeLayer,
    /// The biases that balancing has learnt, `[E]`; only there if it is on.
    bias: Option<Tensor>,
}

/// The model: its parameters and how they are used.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    params: ParamSet,
    /// The frequencies of rotary positions; none in a model without buffers.
    rotary: Option<RotaryTable>,
    embed: ParamId,
    layers: Vec<Layer>,
    final_norm: ParamId,
    head: Option<ParamId>,
}

/// The outputs of a forward pass.
#[non_exhaustive]
pub struct Output {
    /// `[tokens, vocab]`.
    pub logits: Var,
    /// Auxiliary losses of all layers, `[1]` each; none in inference.
    pub losses: Vec<Var>,
    /// Each layer's routing.
    pub routings: Vec<Routing>,
    /// The tokens of each layer's experts; on a [`Tape::keeping`] tape their values can be read.
    pub experts: Vec<ExpertVars>,
}

/// The tokens that one layer's experts got.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ExpertVars {
    /// The layer's input after its norm, `[tokens, d_model]`.
    pub input: Var,
    /// Combine weights, `[tokens, K]`.
    pub weights: Var,
}

impl Model {
    /// A model with zeroed parameters; [`Model::init`] or a checkpoint fills them.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes, [`Error::Device`] when the adapter cannot hold it.
    pub fn new(gpu: &Gpu, config: &ModelConfig) -> Result<Self> {
        Self::with_precision(gpu, config, Precision::F32)
    }

    /// As [`Model::new`]; with f16 copies of the matrices where `precision` has them ([`ParamSet::write`]).
    ///
    /// # Errors
    /// As [`Model::new`], and [`Error::Device`] when the adapter lacks f16.
    pub fn with_precision(gpu: &Gpu, config: &ModelConfig, precision: Precision) -> Result<Self> {
        config.validate()?;
        size::fits(config, gpu.device().limits().max_buffer_size)?;
        let mut params = ParamBuilder::default();
        let mut model = Self::registered(&mut params, config);
        model.params = params.build_for(gpu, precision)?;
        model.rotary = Some(RotaryTable::new(gpu, config.head_dim, config.rope_theta.into())?);
        if config.moe.balance_bias > 0.0 {
            for layer in &mut model.layers {
                layer.bias = Some(Tensor::persistent(gpu, [config.moe.experts], DType::F32)?);
            }
        }
        Ok(model)
    }

    /// Names and shapes of the parameters in a checkpoint, which need no device.
    pub fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let mut params = ParamBuilder::default();
        Self::registered(&mut params, config);
        params.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect()
    }

    /// The model before it has buffers.
    fn registered(params: &mut ParamBuilder, config: &ModelConfig) -> Self {
        let d = config.d_model;
        let embed = params.add("embed.weight", Group::Decay, &[config.vocab, d]);
        let mut layers = Vec::new();
        for l in 0..config.layers {
            let name = format!("layers.{l}");
            layers.push(Layer {
                attn_norm: params.add(format!("{name}.attn_norm.weight"), Group::NoDecay, &[d]),
                attn: AttentionLayer::new(params, &format!("{name}.attn"), config),
                moe_norm: params.add(format!("{name}.moe_norm.weight"), Group::NoDecay, &[d]),
                moe: MoeLayer::new(params, &format!("{name}.moe"), l, config),
                bias: None,
            });
        }
        let final_norm = params.add("final_norm.weight", Group::NoDecay, &[d]);
        let head = (!config.tied_head).then(|| params.add("head.weight", Group::Decay, &[d, config.vocab]));
        Self { config: config.clone(), params: ParamSet::default(), rotary: None, embed, layers, final_norm, head }
    }

    /// Draws the parameters: norms 1, embedding and router with a small deviation, every other matrix `[in, out]` with
    /// `1 / sqrt(in)`, the outputs of attention and experts divided by `sqrt(2 layers)` more so that the residual stream
    /// keeps its scale.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn init(&self, seed: u64) -> Result<()> {
        let depth = (2.0 * self.config.layers as f32).sqrt();
        for (stream, param) in self.params.iter().enumerate() {
            let dims = param.value.dims();
            let fan_in = dims[dims.len().saturating_sub(2)] as f32;
            let name = param.name.as_str();
            let std = if param.group == Group::NoDecay {
                crate::kernels::elementwise::fill(&param.value, 1.0)?;
                continue;
            } else if name.starts_with("embed") || name.ends_with("router") {
                SMALL_STD
            } else if name.ends_with("wo") || name.ends_with(".down") {
                1.0 / (fan_in.sqrt() * depth)
            } else {
                1.0 / fan_in.sqrt()
            };
            fill_normal(&param.value, seed, stream as u32, std)?;
        }
        self.params.update_copies()
    }

    /// The settings.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parameters.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Parameters that one token meets: all but the experts it does not visit.
    pub fn active_parameters(&self) -> usize {
        let routed: usize =
            self.layers.iter().flat_map(|layer| layer.moe.experts()).map(|id| self.params.get(id).value.numel()).sum();
        self.params.numel() - routed + routed / self.config.moe.experts * self.config.moe.top_k
    }

    /// The routed experts' merged matrices of one kind in layer `layer`, `[E, m, n]`.
    pub fn experts(&self, layer: usize, matrix: ExpertMatrix) -> &Tensor {
        &self.params.get(self.layers[layer].moe.experts()[matrix as usize]).value
    }

    /// The gradients of those matrices, `[E, m, n]`.
    #[cfg(feature = "analysis")]
    pub(crate) fn expert_gradients(&self, layer: usize, matrix: ExpertMatrix) -> &Tensor {
        &self.params.get(self.layers[layer].moe.experts()[matrix as usize]).gradient
    }

    /// The router of layer `layer`, `[d_model, E]`.
    pub fn router(&self, layer: usize) -> &Tensor {
        &self.params.get(self.layers[layer].moe.router()).value
    }

    /// State beside the parameters, with its names in checkpoints: the balance biases.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |(l, layer): (usize, &Layer)| Some((format!("layers.{l}.moe.balance_bias"), layer.bias.clone()?));
        self.layers.iter().enumerate().filter_map(named).collect()
    }

    /// `tokens: u32 [batch * seq]`, whole sequences behind each other.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tokens are not whole sequences; what the ops return.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, tokens: &Tensor) -> Result<Output> {
        if pass.seq == 0 || tokens.numel() == 0 || !tokens.numel().is_multiple_of(pass.seq) {
            return Err(Error::shape("model", format!("sequences of {} tokens", pass.seq), format!("{tokens:?}")));
        }
        let config = &self.config;
        let rotary = self.rotary.as_ref();
        let rotary = rotary.ok_or_else(|| Error::shape("model", "a model with buffers", "one without"))?;
        let norm = RmsNorm { eps: config.norm_eps };
        let tokens = tape.constant(tokens);
        let embed = pass.param(tape, self.embed);
        let mut x = tape.apply(Embedding, &[embed, tokens])?;
        let (mut losses, mut routings, mut experts) = (Vec::new(), Vec::new(), Vec::new());
        let add = |tape: &mut Tape, x, branch| {
            let sum = tape.apply(Add, &[x, branch])?;
            tape.release(&[x, branch]);
            Ok(sum)
        };
        for layer in &self.layers {
            let weight = pass.param(tape, layer.attn_norm);
            let normed = tape.apply_recomputed(norm, &[x, weight])?;
            let mixed = layer.attn.forward(tape, pass, config, rotary, normed)?;
            tape.release(&[normed]);
            x = add(tape, x, mixed)?;
            let weight = pass.param(tape, layer.moe_norm);
            let normed = tape.apply_recomputed(norm, &[x, weight])?;
            let moe = layer.moe.forward(tape, pass, &config.moe, layer.bias.as_ref(), normed)?;
            tape.release(&[normed]);
            x = add(tape, x, moe.output)?;
            losses.extend(moe.losses);
            routings.push(moe.routing);
            experts.push(ExpertVars { input: normed, weights: moe.weights });
        }
        let weight = pass.param(tape, self.final_norm);
        let normed = tape.apply_recomputed(norm, &[x, weight])?;
        tape.release(&[x]);
        let logits = match self.head {
            Some(head) => {
                let head = pass.param(tape, head);
                tape.apply(MatMul { trans_b: false }, &[normed, head])?
            }
            None => tape.apply(MatMul { trans_b: true }, &[normed, embed])?,
        };
        tape.release(&[normed]);
        Ok(Output { logits, losses, routings, experts })
    }

    /// Moves the balance biases of layer `layer`, if balancing by bias is on, towards the experts that got too little:
    /// `counts: u32 [E]`, tokens of each expert in the whole step.
    ///
    /// # Errors
    /// [`Error::Shape`] when the counts do not fit; [`Error::Device`].
    pub fn balance(&self, layer: usize, counts: &Tensor) -> Result<()> {
        match self.layers.get(layer).and_then(|l| l.bias.as_ref()) {
            Some(bias) => update_bias(bias, counts, self.config.moe.balance_bias),
            None => Ok(()),
        }
    }
}
