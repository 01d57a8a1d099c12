//! The model's parameters, laid out so that the optimizer needs few dispatches.
//!
//! Parameters of one [`Group`] lie behind each other in one buffer, and so do their gradients. An expert matrix kind is a
//! group of its own over all layers, `[layers, E, m, n]`, because spectral decoupling treats all of it at once. For inference alone each
//! parameter has a buffer of its own, so that a model may be larger than the largest of them.

mod builder;

use std::ops::Range;

pub use self::builder::ParamBuilder;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::elementwise::{fill, round_into};
use crate::linalg::random::fill_normal;
use crate::nn::config::{ExpertMatrix, Precision};
use crate::ops::RotaryTable;
use crate::tensor::Tensor;

/// Parameters that the optimizer treats alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Vectors: no weight decay.
    NoDecay,
    /// Matrices.
    Decay,
    /// The routed experts' matrices of one kind, `[layers, E, m, n]`.
    Experts(ExpertMatrix),
}

impl Group {
    /// All groups, in the order of their memory.
    pub const ALL: [Group; 5] = [
        Group::NoDecay,
        Group::Decay,
        Group::Experts(ExpertMatrix::Gate),
        Group::Experts(ExpertMatrix::Up),
        Group::Experts(ExpertMatrix::Down),
    ];
}

/// The values with which a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros: biases.
    Zeros,
    /// Ones: the weights of norms.
    Ones,
    /// Normally distributed around 0 with this standard deviation.
    Normal(f32),
}

impl Init {
    /// `1 / sqrt(inputs)`: the product with inputs of unit variance has unit variance.
    pub fn fan_in(inputs: usize) -> Self {
        Init::Normal(1.0 / (inputs as f32).sqrt())
    }
}

/// A parameter in a [`ParamSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(usize);

/// Rotary positions in a [`ParamSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RotaryId(usize);

/// The frequencies of rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Frequencies {
    /// `theta^(-2 i / head_dim)` for the pairs of `head_dim` elements.
    Theta {
        /// Elements that are turned.
        head_dim: usize,
        /// The base.
        theta: f32,
    },
    /// Radians a position by pair.
    Inverse(Vec<f64>),
}

impl Frequencies {
    fn table(&self, gpu: &Gpu) -> Result<RotaryTable> {
        match self {
            Frequencies::Theta { head_dim, theta } => RotaryTable::new(gpu, *head_dim, f64::from(*theta)),
            Frequencies::Inverse(inverse) => RotaryTable::from_inverse_frequencies(gpu, inverse),
        }
    }
}

/// A tensor beside the parameters in a [`ParamSet`], which no optimizer moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateId(usize);

/// One parameter: views into its group's buffers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Param {
    /// The name in checkpoints.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// The values with which it starts.
    pub init: Init,
    /// Whether it is a matrix between the hidden layers of a network, or a bank of such: one that Muon moves, where it is the
    /// update rule. Embeddings, heads, routers, gates and vectors are none.
    pub hidden: bool,
    /// The weights; in a model for inference alone maybe in 16 bits.
    pub value: Tensor,
    /// Their gradient; none in a model for inference alone.
    pub gradient: Option<Tensor>,
    /// The f16 copy of a matrix in mixed precision; it follows the weights that [`ParamSet::write`] or an optimizer has written.
    pub half: Option<Tensor>,
}

/// The buffers of one group: flat, padding included (zero in value and gradient, so harmless to any update).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupBuffers {
    /// The group.
    pub group: Group,
    /// All its weights, `[n]`.
    pub values: Tensor,
    /// All its gradients, `[n]`.
    pub gradients: Tensor,
    /// For an expert group, weights and gradients again as stacks `[layers, E, m, n]`: one of all layers, or one of each
    /// layer where the matrices' size would leave the next layer misaligned.
    pub stacks: Vec<(Tensor, Tensor)>,
    /// The f16 copy of `values`, for matrices in mixed precision.
    pub half: Option<Tensor>,
}

/// The gradients of a model that is to be trained.
///
/// # Errors
/// [`Error::Config`] where it was made for inference alone.
pub(crate) fn trained(gradients: &Option<Tensor>) -> Result<&Tensor> {
    let message = "expected a model with gradients, got one for inference alone (`Model::for_inference`)";
    gradients.as_ref().ok_or_else(|| Error::config("model", message))
}

/// All parameters of a model.
#[derive(Clone, Debug, Default)]
pub struct ParamSet {
    params: Vec<Param>,
    groups: Vec<GroupBuffers>,
    state: Vec<(String, Tensor)>,
    rotary: Vec<RotaryTable>,
    expert_layers: Vec<usize>,
    align: usize,
    precision: Precision,
}

impl ParamSet {
    /// The parameter `id`.
    pub fn get(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    /// The tensor `id` beside the parameters.
    pub fn state(&self, id: StateId) -> &Tensor {
        &self.state[id.0].1
    }

    /// The number in the model of the `i`-th layer that has experts.
    pub(crate) fn expert_layer(&self, i: usize) -> usize {
        self.expert_layers.get(i).copied().unwrap_or(i)
    }

    /// The rotary positions `id`.
    pub fn rotary(&self, id: RotaryId) -> &RotaryTable {
        &self.rotary[id.0]
    }

    /// All tensors beside the parameters with their names in checkpoints, in the order they were added.
    pub fn states(&self) -> &[(String, Tensor)] {
        &self.state
    }

    /// Draws the parameters as each one's [`Init`] says, the same from the same `seed` on every device.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn init(&self, seed: u64) -> Result<()> {
        for (stream, param) in self.params.iter().enumerate() {
            match param.init {
                Init::Zeros => param.value.clear()?,
                Init::Ones => fill(&param.value, 1.0)?,
                Init::Normal(std) => fill_normal(&param.value, seed, stream as u32, std)?,
            }
        }
        self.update_copies()
    }

    /// All parameters in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.params.iter()
    }

    /// The groups that have members; none in a model for inference alone.
    pub fn groups(&self) -> &[GroupBuffers] {
        &self.groups
    }

    /// The buffers of `group`, if it has members.
    pub fn group(&self, group: Group) -> Option<&GroupBuffers> {
        self.groups.iter().find(|g| g.group == group)
    }

    /// The members of `group` in their order, with the elements of its buffers that are theirs, padding included.
    pub(crate) fn members(&self, group: Group) -> Vec<(&Param, Range<usize>)> {
        let mut end = 0;
        let members = self.params.iter().filter(|p| p.group == group);
        members
            .map(|param| {
                let start = end;
                end += param.value.numel().next_multiple_of(self.align);
                (param, start..end)
            })
            .collect()
    }

    /// The type in which activations are stored, and whether matrices have an f16 copy.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Writes weights: `values` is called with name and shape of each parameter and returns its elements, or none for one that
    /// stays as it is. The f16 copies follow.
    ///
    /// # Errors
    /// Those that `values` returns; [`Error::Shape`] when it returns another number of elements; [`Error::Device`].
    pub fn write(&self, mut values: impl FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>>) -> Result<()> {
        for param in &self.params {
            if let Some(values) = values(&param.name, param.value.dims())? {
                param.value.write_f32(&values)?;
            }
        }
        self.update_copies()
    }

    /// Records that the f16 copies follow the weights; whoever has moved weights on the device calls it before the next forward pass.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn update_copies(&self) -> Result<()> {
        let copies = self.groups.iter().filter_map(|g| Some((&g.values, g.half.as_ref()?)));
        copies.into_iter().try_for_each(|(values, half)| round_into(values, half))
    }

    /// Number of weights, padding not counted.
    pub fn numel(&self) -> usize {
        self.params.iter().map(|p| p.value.numel()).sum()
    }
}
