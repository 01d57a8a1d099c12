//! A model in parts that have their parameters to themselves: one after the other fits where all of them together do not.
//!
//! [`Part::all`] names them in the order in which a text passes through; each one's output is the next one's input. They compute
//! what [`Model::forward`](super::model::Model::forward) computes, by the same kernels.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::block::Block;
use crate::nn::config::ModelConfig;
use crate::nn::linear::Linear;
use crate::nn::norm::Norm;
use crate::nn::params::{Group, Init, ParamBuilder, ParamId, ParamSet};
use crate::nn::pass::{Mode, Pass};
use crate::ops::{Embedding, MatMul, WideEmbedding};
use crate::tensor::{DType, Tensor};

/// A part of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The embedding: tokens `u32 [tokens]` to `[tokens, d_model]`.
    Embedding,
    /// The layer of this number: `[tokens, d_model]` to the same.
    Layer(usize),
    /// Final norm and head, with the embedding where the head is tied: `[tokens, d_model]` to logits `[tokens, vocab]`.
    Head,
}

impl Part {
    /// All parts of a model, in order.
    pub fn all(config: &ModelConfig) -> impl Iterator<Item = Self> + use<> {
        let layers = (0..config.layers).map(Self::Layer);
        std::iter::once(Self::Embedding).chain(layers).chain(std::iter::once(Self::Head))
    }

    /// Names, shapes and types of the parameters as [`ModelPart::for_inference_in`] makes them, on a device with f16.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that weights do not have.
    pub(crate) fn shapes_for_inference(
        self,
        config: &ModelConfig,
        dtype: impl Fn(&str) -> DType,
    ) -> Result<Vec<(String, Vec<usize>, DType)>> {
        let mut params = ParamBuilder::default();
        self.register(&mut params, config);
        params.shapes_for_inference(dtype)
    }

    fn register(self, params: &mut ParamBuilder, config: &ModelConfig) -> Net {
        params.number_expert_layers(config.moe_layers());
        match self {
            Self::Embedding => Net::Embedding(add_embedding(params, config)),
            Self::Layer(layer) => Net::Layer(Box::new(Block::new(params, layer, config))),
            Self::Head => {
                let embed = config.tied_head.then(|| add_embedding(params, config));
                let (norm, head) = add_head(params, config);
                Net::Head { norm, head, embed }
            }
        }
    }
}

/// Registers the embedding of a model.
pub(super) fn add_embedding(params: &mut ParamBuilder, config: &ModelConfig) -> ParamId {
    let shape = [config.vocab, config.d_model];
    params.add("embed.weight", Group::Decay, &shape, Init::Normal(super::SMALL_STD))
}

/// Registers the final norm of a model, and its head where that is not the embedding.
pub(super) fn add_head(params: &mut ParamBuilder, config: &ModelConfig) -> (Norm, Option<Linear>) {
    let d = config.d_model;
    let norm = Norm::new(params, "final_norm.weight", d, config.norm_eps);
    let untied = !config.tied_head;
    (norm, untied.then(|| Linear::scoring(params, "head.weight", [d, config.vocab], Init::fan_in(d))))
}

/// The rows of the embedding `id`, which is on the tape, that belong to tokens, `u32`.
pub(super) fn embedded(tape: &mut Tape, pass: &Pass<'_>, id: ParamId, [embed, tokens]: [Var; 2]) -> Result<Var> {
    // In mixed precision the weights are f32 and `embed` is their f16 copy, which has a backward.
    if pass.params.get(id).value.dtype() == DType::F32 {
        tape.apply(Embedding, &[embed, tokens])
    } else {
        tape.apply(WideEmbedding, &[embed, tokens])
    }
}

/// The logits of `normed`, by a head of its own or else the embedding.
pub(super) fn score(
    tape: &mut Tape,
    pass: &Pass<'_>,
    head: Option<&Linear>,
    embed: Option<Var>,
    normed: Var,
) -> Result<Var> {
    match (head, embed) {
        (Some(head), _) => head.forward(tape, pass, normed),
        (None, Some(embed)) => tape.apply(MatMul { trans_b: true }, &[normed, embed]),
        (None, None) => Err(Error::shape("model", "a head or an embedding", "none of both")),
    }
}

#[derive(Debug)]
enum Net {
    Embedding(ParamId),
    Layer(Box<Block>),
    Head { norm: Norm, head: Option<Linear>, embed: Option<ParamId> },
}

/// A part of a model with its parameters on a device, for inference alone.
#[derive(Debug)]
pub struct ModelPart {
    part: Part,
    params: ParamSet,
    net: Net,
}

impl ModelPart {
    /// A part with zeroed parameters, matrices in the types that `dtype` gives by their names in the whole model, as
    /// [`Model::for_inference_in`](super::model::Model::for_inference_in) has them.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes, and for a layer that the model does not have; [`Error::Device`].
    pub fn for_inference_in(
        gpu: &Gpu,
        config: &ModelConfig,
        part: Part,
        dtype: impl Fn(&str) -> DType,
    ) -> Result<Self> {
        config.validate()?;
        if let Part::Layer(layer) = part
            && layer >= config.layers
        {
            let message = format!("expected a layer below {}, as the model has so many, got {layer}", config.layers);
            return Err(Error::config("layer", message));
        }
        let mut params = ParamBuilder::default();
        let net = part.register(&mut params, config);
        Ok(Self { part, params: params.build_for_inference_in(gpu, dtype)?, net })
    }

    /// Which part it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Its parameters, with their names in the whole model.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// Runs it over whole sequences of `seq` tokens behind each other, with `top_k` experts a token in place of the model's own
    /// number where given. Input and output are those that [`Part`] names.
    ///
    /// # Errors
    /// [`Error::Shape`] when the input is not of whole sequences; the errors of the ops.
    pub fn forward(&self, tape: &mut Tape, seq: usize, top_k: Option<usize>, input: &Tensor) -> Result<Var> {
        let tokens = if self.part == Part::Embedding { input.numel() } else { input.rows() };
        if seq == 0 || tokens == 0 || !tokens.is_multiple_of(seq) {
            return Err(Error::shape("model part", format!("sequences of {seq} tokens"), format!("{input:?}")));
        }
        let pass = Pass { top_k, ..Pass::plain(&self.params, seq, Mode::Inference) };
        let x = tape.constant(input);
        match &self.net {
            Net::Embedding(id) => {
                let embed = pass.param(tape, *id);
                embedded(tape, &pass, *id, [embed, x])
            }
            Net::Layer(block) => Ok(block.forward(tape, &pass, x)?.x),
            Net::Head { norm, head, embed } => {
                let embed = embed.map(|embed| pass.param(tape, embed));
                let normed = norm.forward(tape, &pass, x)?;
                score(tape, &pass, head.as_ref(), embed, normed)
            }
        }
    }
}
