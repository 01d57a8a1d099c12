//! The tensors of a family: names and shapes on the hub, and where each one's numbers belong in this program's parameters.
//!
//! One description serves reading and writing. A tensor of the hub is a row of pieces, matrices that lie behind each other:
//! one for most tensors, an expert's gate and up in turn for the fused layout. A piece is one matrix of one parameter, as it
//! lies or transposed: the hub stores `[out, in]`, this program `[in, out]`.

use crate::nn::config::{ExpertMatrix, ModelConfig, QkNorm, SharedGate};

use super::Family;

/// How the experts of a layer lie in tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Three tensors an expert, as published.
    #[default]
    PerExpert,
    /// Two tensors a layer, `[E, 2f, d]` with gate's rows before up's, and `[E, d, f]`, as transformers 5 has them in memory.
    Fused,
}

impl Layout {
    /// `per expert` or `fused`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::PerExpert => "per expert",
            Layout::Fused => "fused",
        }
    }
}

/// The part of a model that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The embedding.
    Embedding,
    /// Attention with its norms of queries and keys.
    Attention,
    /// RMSNorms before attention, before the feed-forward networks, and the last.
    Norm,
    /// The feed-forward networks of dense layers.
    Dense,
    /// Routers with what belongs to their choice, and the shared experts' gates.
    Router,
    /// Routed experts.
    Experts,
    /// Shared experts.
    SharedExperts,
    /// The output head.
    Head,
}

impl Part {
    /// All parts, in the order in which a forward pass meets them.
    pub const ALL: [Part; 8] = [
        Part::Embedding,
        Part::Attention,
        Part::Norm,
        Part::Dense,
        Part::Router,
        Part::Experts,
        Part::SharedExperts,
        Part::Head,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embedding => "embedding",
            Part::Attention => "attention",
            Part::Norm => "norms",
            Part::Dense => "dense layers",
            Part::Router => "routers",
            Part::Experts => "experts",
            Part::SharedExperts => "shared experts",
            Part::Head => "head",
        }
    }
}

/// A parameter of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in this program's checkpoints.
    pub name: String,
    /// Its shape: matrices are `[in, out]`, banks of experts `[E, in, out]`.
    pub shape: Vec<usize>,
    /// Whether it is state that no gradient moves ([`crate::nn::model::Model::state`]).
    pub state: bool,
    /// The part of the model that it belongs to.
    pub part: Part,
}

impl Parameter {
    /// Numbers in it.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One matrix of a tensor of the hub, `rows x columns` there, row-major from element `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first element in the tensor.
    pub first: usize,
    /// Rows on the hub.
    pub rows: usize,
    /// Columns on the hub.
    pub columns: usize,
    /// The number of its parameter in [`TensorMap::parameters`].
    pub parameter: usize,
    /// Its first element in the parameter.
    pub offset: usize,
    /// Whether the parameter has its transpose.
    pub transposed: bool,
}

/// A tensor of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its matrices, which cover it in their order.
    pub pieces: Vec<Piece>,
}

/// All tensors of a model and all its parameters, each of which they cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorMap {
    /// This program's parameters and state, in the order of a forward pass.
    pub parameters: Vec<Parameter>,
    /// The hub's tensors, in the same order.
    pub tensors: Vec<HubTensor>,
}

impl TensorMap {
    /// The tensors of a model of `family`.
    pub fn new(family: Family, config: &ModelConfig, layout: Layout) -> Self {
        let mut map = Self::default();
        let (d, vocab) = (config.d_model, config.vocab);
        map.same("model.embed_tokens.weight", "embed.weight", &[vocab, d], Part::Embedding);
        for layer in 0..config.layers {
            Layer { map: &mut map, family, config, layer }.add(layout);
        }
        map.same("model.norm.weight", "final_norm.weight", &[d], Part::Norm);
        if !config.tied_head {
            map.linear(HEAD, "head.weight", d, vocab, Part::Head);
        }
        map
    }

    /// Numbers in all parameters, state not counted.
    pub fn numel(&self) -> usize {
        self.parameters.iter().filter(|p| !p.state).map(Parameter::numel).sum()
    }

    /// Numbers that one token meets: all but the experts that it does not visit.
    pub fn active(&self, config: &ModelConfig) -> usize {
        let routed = self.parameters.iter().filter(|p| p.part == Part::Experts).map(Parameter::numel).sum::<usize>();
        self.numel() - routed + routed / config.moe.experts * config.moe.top_k
    }

    fn parameter(&mut self, name: impl Into<String>, shape: &[usize], part: Part) -> usize {
        self.parameters.push(Parameter { name: name.into(), shape: shape.to_vec(), state: false, part });
        self.parameters.len() - 1
    }

    /// A tensor that is a parameter as it lies.
    fn same(&mut self, hub: impl Into<String>, own: impl Into<String>, shape: &[usize], part: Part) {
        let parameter = self.parameter(own, shape, part);
        let columns = shape.iter().product();
        let piece = Piece { first: 0, rows: 1, columns, parameter, offset: 0, transposed: false };
        self.tensors.push(HubTensor { name: hub.into(), shape: shape.to_vec(), pieces: vec![piece] });
    }

    /// The weight of a linear map.
    fn linear(&mut self, hub: impl Into<String>, own: impl Into<String>, into: usize, out: usize, part: Part) {
        let parameter = self.parameter(own, &[into, out], part);
        let piece = Piece { first: 0, rows: out, columns: into, parameter, offset: 0, transposed: true };
        self.tensors.push(HubTensor { name: hub.into(), shape: vec![out, into], pieces: vec![piece] });
    }
}

/// The output head, which files may hold although it is tied.
pub(crate) const HEAD: &str = "lm_head.weight";

/// One layer on its way into a map.
struct Layer<'a> {
    map: &'a mut TensorMap,
    family: Family,
    config: &'a ModelConfig,
    layer: usize,
}

impl Layer<'_> {
    fn add(&mut self, layout: Layout) {
        let d = self.config.d_model;
        let moe = !self.config.dense_layers.contains(&self.layer);
        self.same("input_layernorm.weight", "attn_norm.weight", &[d], Part::Norm);
        match self.config.attention.latent {
            Some(_) => self.latent_attention(),
            None => self.attention(),
        }
        let norm = if moe { "moe_norm.weight" } else { "ffn_norm.weight" };
        self.same("post_attention_layernorm.weight", norm, &[d], Part::Norm);
        if moe {
            self.experts(layout);
        } else {
            self.feed_forward("mlp", "ffn", self.config.d_dense, Part::Dense);
        }
    }

    fn same(&mut self, hub: &str, own: &str, shape: &[usize], part: Part) {
        let l = self.layer;
        self.map.same(format!("model.layers.{l}.{hub}"), format!("layers.{l}.{own}"), shape, part);
    }

    fn linear(&mut self, hub: &str, own: &str, into: usize, out: usize, part: Part) {
        let l = self.layer;
        self.map.linear(format!("model.layers.{l}.{hub}.weight"), format!("layers.{l}.{own}"), into, out, part);
    }

    fn attention(&mut self) {
        let c = self.config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let bias = c.attention.qkv_bias;
        for (letter, into, out, bias) in [
            ("q", c.d_model, q, bias),
            ("k", c.d_model, kv, bias),
            ("v", c.d_model, kv, bias),
            ("o", q, c.d_model, c.attention.output_bias),
        ] {
            let hub = format!("self_attn.{letter}_proj");
            self.linear(&hub, &format!("attn.w{letter}"), into, out, Part::Attention);
            if bias {
                self.same(&format!("{hub}.bias"), &format!("attn.b{letter}"), &[out], Part::Attention);
            }
        }
        for (letter, whole) in [("q", q), ("k", kv)] {
            let width = match c.attention.qk_norm {
                QkNorm::None => continue,
                QkNorm::Head => c.head_dim,
                QkNorm::Whole => whole,
            };
            let norm = format!("{letter}_norm.weight");
            self.same(&format!("self_attn.{norm}"), &format!("attn.{norm}"), &[width], Part::Attention);
        }
    }

    fn latent_attention(&mut self) {
        let c = self.config;
        let Some(latent) = c.attention.latent else { return };
        let part = Part::Attention;
        let queries = c.heads * c.head_dim;
        match latent.q_rank {
            Some(rank) => {
                self.linear("self_attn.q_a_proj", "attn.wq_a", c.d_model, rank, part);
                self.same("self_attn.q_a_layernorm.weight", "attn.q_a_norm.weight", &[rank], part);
                self.linear("self_attn.q_b_proj", "attn.wq_b", rank, queries, part);
            }
            None => self.linear("self_attn.q_proj", "attn.wq", c.d_model, queries, part),
        }
        let narrow = latent.kv_rank + latent.rope_dim;
        self.linear("self_attn.kv_a_proj_with_mqa", "attn.wkv_a", c.d_model, narrow, part);
        self.same("self_attn.kv_a_layernorm.weight", "attn.kv_a_norm.weight", &[latent.kv_rank], part);
        let wide = c.heads * (c.head_dim - latent.rope_dim + latent.value_dim);
        self.linear("self_attn.kv_b_proj", "attn.wkv_b", latent.kv_rank, wide, part);
        self.linear("self_attn.o_proj", "attn.wo", c.heads * latent.value_dim, c.d_model, part);
        if c.attention.output_bias {
            self.same("self_attn.o_proj.bias", "attn.bo", &[c.d_model], part);
        }
    }

    /// A SwiGLU for all tokens, of hidden width `f`.
    fn feed_forward(&mut self, hub: &str, own: &str, f: usize, part: Part) {
        let d = self.config.d_model;
        for (matrix, into, out) in [("gate", d, f), ("up", d, f), ("down", f, d)] {
            self.linear(&format!("{hub}.{matrix}_proj"), &format!("{own}.{matrix}"), into, out, part);
        }
    }

    fn experts(&mut self, layout: Layout) {
        let (moe, d) = (&self.config.moe, self.config.d_model);
        let mixtral = self.family == Family::Mixtral && layout == Layout::PerExpert;
        let block = if mixtral { "block_sparse_moe" } else { "mlp" };
        self.linear(&format!("{block}.gate"), "moe.router", d, moe.experts, Part::Router);
        if moe.choice_bias {
            self.same("mlp.gate.e_score_correction_bias", "moe.balance_bias", &[moe.experts], Part::Router);
            if let Some(bias) = self.map.parameters.last_mut() {
                bias.state = true;
            }
        }
        let (l, f) = (self.layer, moe.d_expert);
        let banks = ExpertMatrix::ALL.map(|matrix| {
            let (into, out) = if matrix == ExpertMatrix::Down { (f, d) } else { (d, f) };
            let name = format!("layers.{l}.moe.experts.{}", matrix.name());
            self.map.parameter(name, &[moe.experts, into, out], Part::Experts)
        });
        // Matrix `matrix` of expert `e`, from element `first` of its tensor on.
        let piece = |matrix: ExpertMatrix, e: usize, first: usize| {
            let (rows, columns) = if matrix == ExpertMatrix::Down { (d, f) } else { (f, d) };
            let parameter = banks[matrix as usize];
            Piece { first, rows, columns, parameter, offset: e * d * f, transposed: true }
        };
        use ExpertMatrix::{Down, Gate, Up};
        let at = format!("model.layers.{l}.{block}.experts");
        match layout {
            Layout::PerExpert => {
                for (e, matrix) in (0..moe.experts).flat_map(|e| ExpertMatrix::ALL.map(|matrix| (e, matrix))) {
                    let name = match matrix {
                        Gate if mixtral => "w1",
                        Up if mixtral => "w3",
                        Down if mixtral => "w2",
                        Gate => "gate_proj",
                        Up => "up_proj",
                        Down => "down_proj",
                    };
                    let piece = piece(matrix, e, 0);
                    let (name, shape) = (format!("{at}.{e}.{name}.weight"), vec![piece.rows, piece.columns]);
                    self.map.tensors.push(HubTensor { name, shape, pieces: vec![piece] });
                }
            }
            Layout::Fused => {
                let both = |e| [piece(Gate, e, 2 * e * d * f), piece(Up, e, (2 * e + 1) * d * f)];
                let (name, shape) = (format!("{at}.gate_up_proj"), vec![moe.experts, 2 * f, d]);
                self.map.tensors.push(HubTensor { name, shape, pieces: (0..moe.experts).flat_map(both).collect() });
                let down = (0..moe.experts).map(|e| piece(Down, e, e * d * f)).collect();
                let (name, shape) = (format!("{at}.down_proj"), vec![moe.experts, d, f]);
                self.map.tensors.push(HubTensor { name, shape, pieces: down });
            }
        }
        if moe.d_shared > 0 {
            let hub = if moe.shared_gate == SharedGate::Sigmoid { "mlp.shared_expert" } else { "mlp.shared_experts" };
            self.feed_forward(hub, "moe.shared", moe.d_shared, Part::SharedExperts);
            if moe.shared_gate == SharedGate::Sigmoid {
                self.linear("mlp.shared_expert_gate", "moe.shared_gate", d, 1, Part::Router);
            }
        }
    }
}
