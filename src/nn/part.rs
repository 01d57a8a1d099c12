//! A model in parts that have their parameters to themselves: one after the other fits where all of them together do not.
//!
//! [`Part::all`] names them in the order in which a text passes through; each one's output is the next one's input. They compute
//! what [`Model::forward`](super::model::Model::forward) computes, by the same kernels.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::block::{Block, BlockOutput};
use crate::nn::config::{ExpertMatrix, ModelConfig, Precision};
use crate::nn::linear::Linear;
use crate::nn::moe::MoeLayer;
use crate::nn::norm::Norm;
use crate::nn::params::{Group, Init, ParamBuilder, ParamId, ParamSet};
use crate::nn::pass::{Mode, Pass};
use crate::nn::router::Routed;
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

    /// Checks that a model has it.
    pub(super) fn check(self, config: &ModelConfig) -> Result<()> {
        match self {
            Self::Layer(layer) if layer >= config.layers => {
                let message =
                    format!("expected a layer below {}, as the model has so many, got {layer}", config.layers);
                Err(Error::config("layer", message))
            }
            Self::Embedding | Self::Layer(_) | Self::Head => Ok(()),
        }
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

/// A part of a model with its parameters on a device.
#[derive(Debug)]
pub struct ModelPart {
    part: Part,
    params: ParamSet,
    net: Net,
}

impl ModelPart {
    /// A part with zeroed parameters for inference alone, matrices in the types that `dtype` gives by their names in the whole
    /// model, as [`Model::for_inference_in`](super::model::Model::for_inference_in) has them.
    ///
    /// # Errors
    /// [`Error::Config`] for impossible sizes, and for a layer that the model does not have; [`Error::Device`].
    pub fn for_inference_in(
        gpu: &Gpu,
        config: &ModelConfig,
        part: Part,
        dtype: impl Fn(&str) -> DType,
    ) -> Result<Self> {
        Self::built(config, part, |params| params.build_for_inference_in(gpu, dtype))
    }

    /// A part with zeroed parameters in f32 and buffers for their gradients.
    ///
    /// # Errors
    /// As [`ModelPart::for_inference_in`].
    pub fn with_gradients(gpu: &Gpu, config: &ModelConfig, part: Part) -> Result<Self> {
        Self::built(config, part, |params| params.build_for(gpu, Precision::F32))
    }

    fn built(config: &ModelConfig, part: Part, build: impl FnOnce(ParamBuilder) -> Result<ParamSet>) -> Result<Self> {
        config.validate()?;
        part.check(config)?;
        let mut params = ParamBuilder::default();
        let net = part.register(&mut params, config);
        Ok(Self { part, params: build(params)?, net })
    }

    /// Which part it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// Its parameters, with their names in the whole model.
    pub fn params(&self) -> &ParamSet {
        &self.params
    }

    /// The part, to run it.
    pub fn view(&self) -> PartRef<'_> {
        let net = match &self.net {
            Net::Embedding(id) => NetRef::Embedding(*id),
            Net::Layer(block) => NetRef::Layer(block),
            Net::Head { norm, head, embed } => NetRef::Head { norm, head: head.as_ref(), embed: *embed },
        };
        PartRef { part: self.part, params: &self.params, net }
    }

    /// Runs it over whole sequences of `seq` tokens behind each other, with `top_k` experts a token in place of the model's own
    /// number where given. Input and output are those that [`Part`] names.
    ///
    /// # Errors
    /// As [`PartRef::forward`].
    pub fn forward(&self, tape: &mut Tape, seq: usize, top_k: Option<usize>, input: &Tensor) -> Result<Var> {
        let pass = Pass { top_k, ..Pass::plain(&self.params, seq, Mode::Inference) };
        let x = tape.constant(input);
        Ok(self.view().forward(tape, &pass, x)?.value)
    }
}

/// A part of a model that is on a device: of a whole one ([`Model::part`](super::model::Model::part)), or by itself ([`ModelPart`]).
#[derive(Clone, Copy, Debug)]
pub struct PartRef<'a> {
    part: Part,
    params: &'a ParamSet,
    net: NetRef<'a>,
}

#[derive(Clone, Copy, Debug)]
enum NetRef<'a> {
    Embedding(ParamId),
    Layer(&'a Block),
    Head { norm: &'a Norm, head: Option<&'a Linear>, embed: Option<ParamId> },
}

/// The results of a part.
pub struct PartOutput {
    /// The output that [`Part`] names.
    pub value: Var,
    /// In a layer with experts the tokens that they got, `[tokens, d_model]`, and what its router decided about them.
    pub routed: Option<(Var, Routed)>,
}

impl<'a> PartRef<'a> {
    pub(super) fn embedding(params: &'a ParamSet, embed: ParamId) -> Self {
        Self { part: Part::Embedding, params, net: NetRef::Embedding(embed) }
    }

    pub(super) fn layer(params: &'a ParamSet, number: usize, block: &'a Block) -> Self {
        Self { part: Part::Layer(number), params, net: NetRef::Layer(block) }
    }

    /// The head, where `embed` is needed if it has no matrix of its own.
    pub(super) fn head(params: &'a ParamSet, norm: &'a Norm, head: Option<&'a Linear>, embed: ParamId) -> Self {
        let embed = head.is_none().then_some(embed);
        Self { part: Part::Head, params, net: NetRef::Head { norm, head, embed } }
    }

    /// Which part it is.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The parameters among which its own are.
    pub fn params(&self) -> &'a ParamSet {
        self.params
    }

    /// Runs it over whole sequences behind each other. Nobody may read `input` afterwards, unless the tape keeps all.
    ///
    /// # Errors
    /// [`Error::Shape`] when the input is not of whole sequences; the errors of the ops.
    pub fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, input: Var) -> Result<PartOutput> {
        let (x, seq) = (tape.value(input), pass.seq);
        let tokens = if self.part == Part::Embedding { x.numel() } else { x.rows() };
        if seq == 0 || tokens == 0 || !tokens.is_multiple_of(seq) {
            return Err(Error::shape("model part", format!("sequences of {seq} tokens"), format!("{x:?}")));
        }
        let value = match self.net {
            NetRef::Embedding(id) => {
                let embed = pass.param(tape, id);
                embedded(tape, pass, id, [embed, input])?
            }
            NetRef::Layer(block) => {
                let BlockOutput { x, ffn, routed } = block.forward(tape, pass, input)?;
                return Ok(PartOutput { value: x, routed: routed.map(|routed| (ffn[0], routed)) });
            }
            NetRef::Head { norm, head, embed } => {
                let embed = embed.map(|embed| pass.param(tape, embed));
                let normed = norm.forward(tape, pass, input)?;
                tape.release(&[input]);
                let logits = score(tape, pass, head, embed, normed)?;
                tape.release(&[normed]);
                logits
            }
        };
        Ok(PartOutput { value, routed: None })
    }

    fn moe(&self) -> Option<&'a MoeLayer> {
        match self.net {
            NetRef::Layer(block) => block.moe(),
            NetRef::Embedding(_) | NetRef::Head { .. } => None,
        }
    }

    /// The merged matrices of one kind of its experts, `[E, m, n]`; none where it has no experts.
    pub fn experts(&self, matrix: ExpertMatrix) -> Option<&'a Tensor> {
        Some(&self.params.get(self.moe()?.experts().banks()[matrix as usize]).value)
    }

    /// The gradients of those matrices, `[E, m, n]`; none where there are no buffers for them.
    pub fn expert_gradients(&self, matrix: ExpertMatrix) -> Option<&'a Tensor> {
        self.params.get(self.moe()?.experts().banks()[matrix as usize]).gradient.as_ref()
    }

    /// Its router, `[d_model, E]`; none where it has no experts.
    pub fn router(&self) -> Option<&'a Tensor> {
        Some(&self.params.get(self.moe()?.router().weight()).value)
    }
}

/// A model whose parts can be had one after the other: a whole one, or one whose parts are read when they are used.
pub trait ModelParts {
    /// Its settings.
    fn config(&self) -> &ModelConfig;

    /// A part, with buffers for the gradients of its parameters where they are wanted. The one before is let go of first
    /// ([`HeldPart::let_go`]), so that no two need be there at once.
    ///
    /// # Errors
    /// [`Error::Config`] for a layer that the model does not have; [`Error::Shape`] for gradients of a model for inference
    /// alone, and for a model in mixed precision; what reading it returns; [`Error::Device`].
    fn part(&self, part: Part, gradients: bool) -> Result<HeldPart<'_>>;
}

/// A part that somebody works with.
#[derive(Debug)]
pub enum HeldPart<'a> {
    /// One of a whole model.
    Of(PartRef<'a>),
    /// One by itself.
    Own(Box<ModelPart>),
}

impl HeldPart<'_> {
    /// The part, to run it.
    pub fn view(&self) -> PartRef<'_> {
        match self {
            Self::Of(part) => *part,
            Self::Own(part) => part.view(),
        }
    }

    /// Frees its memory, where it is there by itself.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn let_go(self, gpu: &Gpu) -> Result<()> {
        match self {
            Self::Of(_) => Ok(()),
            Self::Own(part) => {
                drop(part);
                // Bind groups keep the memory of what was bound.
                gpu.trim()?;
                gpu.finish().await
            }
        }
    }
}
