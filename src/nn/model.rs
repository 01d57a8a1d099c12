//! The decoder-only language model: embedding, layers of attention and feed-forward networks, final norm, head.
//!
//! `x += attn(norm(x)); x += ffn(norm(x))` in each layer, then `logits = norm(x) H` with `H` the embedding transposed or a
//! matrix of its own.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::routing::sum_counts;
use crate::nn::block::Block;
use crate::nn::config::{ExpertMatrix, ModelConfig, Precision};
use crate::nn::language_model::{ExpertCount, LanguageModel, LayerVars, Output};
use crate::nn::linear::Linear;
use crate::nn::moe::MoeLayer;
use crate::nn::norm::Norm;
use crate::nn::params::{ParamBuilder, ParamId, ParamSet};
use crate::nn::part::{HeldPart, ModelParts, Part, PartRef, add_embedding, add_head, embedded, score};
use crate::nn::pass::{Mode, Pass};
use crate::nn::size;
use crate::ops::{Reshape, Slice};
use crate::tensor::{DType, Tensor};

/// The model: its parameters and how they are used.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    params: ParamSet,
    embed: ParamId,
    blocks: Vec<Block>,
    final_norm: Norm,
    head: Option<Linear>,
}

impl Model {
    /// A model with zeroed parameters; [`Model::init`] or a checkpoint fills them.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes, [`Error::Device`] when the adapter cannot hold it.
    pub fn new(gpu: &Gpu, config: &ModelConfig) -> Result<Self> {
        Self::with_precision(gpu, config, Precision::F32)
    }

    /// As [`Model::new`], for generation and evaluation alone: without buffers for gradients, which take as much memory as the
    /// weights.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn for_inference(gpu: &Gpu, config: &ModelConfig) -> Result<Self> {
        Self::for_inference_in(gpu, config, |_| DType::F32)
    }

    /// As [`Model::for_inference`], matrices in the types that `dtype` gives by their names, see
    /// [`ParamBuilder::build_for_inference_in`].
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn for_inference_in(gpu: &Gpu, config: &ModelConfig, dtype: impl Fn(&str) -> DType) -> Result<Self> {
        config.validate()?;
        Self::built(config, |params| params.build_for_inference_in(gpu, dtype))
    }

    /// As [`Model::new`]; with f16 copies of the matrices where `precision` has them ([`ParamSet::write`]).
    ///
    /// # Errors
    /// As [`Model::new`], and [`Error::Device`] when the adapter lacks f16.
    pub fn with_precision(gpu: &Gpu, config: &ModelConfig, precision: Precision) -> Result<Self> {
        config.validate()?;
        size::fits(config, gpu.device().limits().max_buffer_size)?;
        Self::built(config, |params| params.build_for(gpu, precision))
    }

    fn built(config: &ModelConfig, build: impl FnOnce(ParamBuilder) -> Result<ParamSet>) -> Result<Self> {
        let mut params = ParamBuilder::default();
        let mut model = Self::registered(&mut params, config);
        model.params = build(params)?;
        Ok(model)
    }

    /// Names and shapes of the parameters in a checkpoint, which need no device.
    pub fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let mut params = ParamBuilder::default();
        Self::registered(&mut params, config);
        params.shapes().map(|(name, shape)| (name.to_owned(), shape.to_vec())).collect()
    }

    /// Names, shapes and types of the parameters as [`Model::for_inference_in`] makes them, which need no device.
    pub(crate) fn shapes_for_inference(
        config: &ModelConfig,
        dtype: impl Fn(&str) -> DType,
    ) -> Result<Vec<(String, Vec<usize>, DType)>> {
        let mut params = ParamBuilder::default();
        Self::registered(&mut params, config);
        params.shapes_for_inference(dtype)
    }

    /// Names and shapes of the state beside them ([`Model::state`]).
    pub fn state_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let mut params = ParamBuilder::default();
        Self::registered(&mut params, config);
        params.state_shapes().to_vec()
    }

    /// The model before it has buffers.
    fn registered(params: &mut ParamBuilder, config: &ModelConfig) -> Self {
        params.number_expert_layers(config.moe_layers());
        let embed = add_embedding(params, config);
        let blocks = (0..config.layers).map(|l| Block::new(params, l, config)).collect();
        let (final_norm, head) = add_head(params, config);
        Self { config: config.clone(), params: ParamSet::default(), embed, blocks, final_norm, head }
    }

    /// Draws the parameters: norms 1, biases 0, embedding and router with a small deviation, every other matrix `[in, out]`
    /// with `1 / sqrt(in)`, the outputs of attention and experts divided by `sqrt(2 layers)` more so that the residual stream
    /// keeps its scale.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn init(&self, seed: u64) -> Result<()> {
        self.params.init(seed)
    }

    /// The settings.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Changes the weight of the load-balance loss in every router.
    pub(crate) fn set_balance_loss(&mut self, weight: f32) {
        self.config.moe.balance_loss = weight;
        self.blocks.iter_mut().filter_map(Block::moe_mut).for_each(|moe| moe.router_mut().set_balance_loss(weight));
    }

    /// The parameters.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// The layers that have experts.
    fn moe_layers(&self) -> impl Iterator<Item = &MoeLayer> {
        self.blocks.iter().filter_map(Block::moe)
    }

    /// Parameters that one token meets: all but the experts it does not visit.
    pub fn active_parameters(&self) -> usize {
        let banks = self.moe_layers().flat_map(|moe| moe.experts().banks());
        let routed: usize = banks.map(|id| self.params.get(id).value.numel()).sum();
        self.params.numel() - routed + routed / self.config.moe.experts * self.config.moe.top_k
    }

    /// The routed experts' merged matrices of one kind in layer `layer`, `[E, m, n]`; none in a layer without experts.
    pub fn experts(&self, layer: usize, matrix: ExpertMatrix) -> Option<&Tensor> {
        self.part(Part::Layer(layer)).ok()?.experts(matrix)
    }

    /// The router of layer `layer`, `[d_model, E]`; none in a layer without experts.
    pub fn router(&self, layer: usize) -> Option<&Tensor> {
        self.part(Part::Layer(layer)).ok()?.router()
    }

    /// A part of the model.
    ///
    /// # Errors
    /// [`Error::Config`] for a layer that the model does not have.
    pub fn part(&self, part: Part) -> Result<PartRef<'_>> {
        part.check(&self.config)?;
        Ok(match part {
            Part::Embedding => PartRef::embedding(&self.params, self.embed),
            Part::Layer(layer) => PartRef::layer(&self.params, layer, &self.blocks[layer]),
            Part::Head => PartRef::head(&self.params, &self.final_norm, self.head.as_ref(), self.embed),
        })
    }

    /// State beside the parameters, with its names in checkpoints: the balance biases.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.params.states().to_vec()
    }

    /// `tokens: u32 [batch * seq]`, whole sequences behind each other.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tokens are not whole sequences, or more than the pass's cache holds; what the ops return.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, tokens: &Tensor) -> Result<Output> {
        if pass.cache.is_some() && pass.mode != Mode::Inference {
            return Err(Error::shape("model", "inference where there is a cache", format!("{:?}", pass.mode)));
        }
        let whole = pass.seq > 0 && tokens.numel() > 0 && tokens.numel().is_multiple_of(pass.seq);
        if !whole || (pass.cache.is_some() && tokens.numel() != pass.seq) {
            let sequences = if pass.cache.is_some() { "one sequence" } else { "sequences" };
            return Err(Error::shape("model", format!("{sequences} of {} tokens", pass.seq), format!("{tokens:?}")));
        }
        let input = tape.constant(tokens);
        let embed = pass.param(tape, self.embed);
        let mut x = embedded(tape, pass, self.embed, [embed, input])?;
        let mut layers = Vec::new();
        let mut decided = Vec::new();
        for block in &self.blocks {
            let output = block.forward(tape, pass, x)?;
            x = output.x;
            let [ffn_input, ffn_output] = output.ffn;
            layers.push(LayerVars { ffn_input, ffn_output, output: x });
            decided.extend(output.routed.map(|routed| (ffn_input, routed)));
        }
        if let Some(cache) = pass.cache {
            cache.advance(pass.seq);
        }
        let normed = self.final_norm.forward(tape, pass, x)?;
        tape.release(&[x]);
        let normed = if pass.last_only { last_row(tape, normed)? } else { normed };
        let logits = score(tape, pass, self.head.as_ref(), Some(embed), normed)?;
        tape.release(&[normed]);
        let mut output = Output::new(logits);
        output.layers = layers;
        let scores: Vec<Var> = decided.iter().map(|(_, routed)| routed.scores).collect();
        for (input, routed) in decided {
            output.routed(input, routed);
        }
        if pass.mode != Mode::Inference {
            self.balance_together(tape, &mut output, &scores)?;
        }
        Ok(output)
    }

    /// Adds the load-balance loss over all layers, where the settings want one.
    fn balance_together(&self, tape: &mut Tape, output: &mut Output, scores: &[Var]) -> Result<()> {
        let routers: Vec<_> = self.moe_layers().map(MoeLayer::router).collect();
        if !routers.first().is_some_and(|router| router.balances_with_others()) {
            return Ok(());
        }
        let counts = Tensor::empty_u32(tape.gpu(), [self.config.moe.experts])?;
        for (l, routing) in output.routings.iter().enumerate() {
            sum_counts(&routing.groups.counts, l > 0, &counts)?;
        }
        for (router, &scores) in routers.iter().zip(scores) {
            output.losses.push(router.balance_part(tape, scores, &counts, routers.len())?);
            tape.release(&[scores]);
        }
        Ok(())
    }

    /// Moves the balance biases of the `layer`-th layer that has experts, if balancing by bias is on, towards the experts that
    /// got too little: `counts: u32 [E]`, tokens of each expert in the whole step.
    ///
    /// # Errors
    /// [`Error::Shape`] when the counts do not fit; [`Error::Device`].
    pub fn balance(&self, layer: usize, counts: &Tensor) -> Result<()> {
        let router = self.moe_layers().nth(layer).map(MoeLayer::router);
        router.map_or(Ok(()), |router| router.balance(&self.params, counts))
    }
}

/// The last row of `x: [rows, columns]`, in inference.
fn last_row(tape: &mut Tape, x: Var) -> Result<Var> {
    let (rows, columns) = (tape.value(x).rows(), tape.value(x).cols());
    if rows == 1 {
        return Ok(x);
    }
    let flat = tape.apply(Reshape::to([1, rows * columns]), &[x])?;
    let last = tape.apply(Slice { start: (rows - 1) * columns, width: columns }, &[flat])?;
    tape.release(&[x, flat]);
    Ok(last)
}

impl ModelParts for Model {
    fn config(&self) -> &ModelConfig {
        Model::config(self)
    }

    fn part(&self, part: Part, gradients: bool) -> Result<HeldPart<'_>> {
        if self.params.iter().any(|p| p.half.is_some()) {
            return Err(Error::shape("parts of a model", "activations in f32", "a model in mixed precision"));
        }
        if gradients && self.params.iter().any(|p| p.gradient.is_none()) {
            return Err(Error::shape("model", "buffers for gradients", "a model for inference alone"));
        }
        self.part(part).map(HeldPart::Of)
    }
}

impl LanguageModel for Model {
    fn params(&self) -> &ParamSet {
        Model::params(self)
    }

    fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, tokens: &Tensor) -> Result<Output> {
        Model::forward(self, tape, pass, tokens)
    }

    fn experts(&self) -> ExpertCount {
        let moe = &self.config.moe;
        ExpertCount { layers: self.moe_layers().count(), experts: moe.experts, top_k: moe.top_k }
    }

    fn balance(&self, layer: usize, counts: &Tensor) -> Result<()> {
        Model::balance(self, layer, counts)
    }
}
