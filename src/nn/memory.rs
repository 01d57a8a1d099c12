//! The memory that a model takes on a device, worked out before anything is allocated.

#[cfg(feature = "files")]
use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Result;
use crate::nn::cache::KvCache;
use crate::nn::config::ModelConfig;
use crate::nn::model::Model;
use crate::nn::part::Part;
use crate::tensor::DType;

/// The types in which a model for generation and evaluation has its matrices on the device. Activations are f32 in any case, so both
/// compute the same function; in what order sums are added may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightType {
    /// As the files have them: bf16 on every device, f16 where the device has it.
    #[default]
    AsStored,
    /// All in f32.
    F32,
}

#[cfg(feature = "files")]
impl WeightType {
    /// The type of a parameter on the device, of which `stored` has the type that its files have: f32 where they do not say.
    pub(crate) fn of(self, stored: &BTreeMap<&str, DType>, name: &str) -> DType {
        match self {
            Self::AsStored => stored.get(name).copied().unwrap_or(DType::F32),
            Self::F32 => DType::F32,
        }
    }
}

/// The use of a model's weights on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Generation and evaluation, with matrices in these types.
    Inference(WeightType),
    /// Gradients beside the weights, both in f32: what an analysis with a text takes.
    Gradients,
}

impl From<WeightType> for Purpose {
    fn from(weights: WeightType) -> Self {
        Self::Inference(weights)
    }
}

/// Bytes that a model takes on a device. Activations, temporaries and what the device rounds up come on top.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Weights for generation and evaluation, matrices in the types of their files.
    pub inference: u64,
    /// The same, all in f32.
    pub inference_f32: u64,
    /// Weights of the largest part of the model ([`Part`]), in the types of their files: what is there at a time where a
    /// model is run by layer.
    pub part: u64,
    /// The same, all in f32.
    pub part_f32: u64,
    /// Keys and values that generation keeps of a token.
    pub token: u64,
    /// Weights, gradients and AdamW's two moments, all in f32.
    pub training: u64,
    /// Parameters by the buffer that each takes in `inference`, the largest first.
    pub buffers: Vec<(String, u64)>,
}

impl MemoryPlan {
    /// Bytes of the whole model.
    pub fn bytes(&self, purpose: impl Into<Purpose>) -> u64 {
        match purpose.into() {
            Purpose::Inference(WeightType::AsStored) => self.inference,
            Purpose::Inference(WeightType::F32) => self.inference_f32,
            Purpose::Gradients => 2 * self.inference_f32,
        }
    }

    /// Bytes that are there at a time where a model is run by layer.
    pub fn part_bytes(&self, purpose: impl Into<Purpose>) -> u64 {
        match purpose.into() {
            Purpose::Inference(WeightType::AsStored) => self.part,
            Purpose::Inference(WeightType::F32) => self.part_f32,
            Purpose::Gradients => 2 * self.part_f32,
        }
    }

    /// The plan of a model of whose parameters `stored` has the types that their files have, see [`MemoryPlan::new`].
    #[cfg(feature = "files")]
    pub(crate) fn of_stored(config: &ModelConfig, stored: &BTreeMap<&str, DType>) -> Result<Self> {
        Self::new(config, |name| WeightType::AsStored.of(stored, name))
    }

    /// The plan of a model whose files have the parameters in the types that `dtype` gives by their names, see
    /// [`Model::for_inference_in`]; f16 is taken to be there.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for impossible sizes, and for a type that weights do not have.
    pub fn new(config: &ModelConfig, dtype: impl Fn(&str) -> DType) -> Result<Self> {
        config.validate()?;
        let mut plan = Self { token: KvCache::token_bytes(config), ..Self::default() };
        for part in Part::all(config) {
            let shapes = part.shapes_for_inference(config, &dtype)?;
            let numbers = |shape: &[usize]| shape.iter().map(|&size| size as u64).product::<u64>();
            let bytes = shapes.iter().map(|(_, shape, dtype)| numbers(shape) * dtype.bytes() as u64);
            plan.part = plan.part.max(bytes.sum());
            plan.part_f32 = plan.part_f32.max(shapes.iter().map(|(_, shape, _)| 4 * numbers(shape)).sum());
        }
        for (name, shape, dtype) in Model::shapes_for_inference(config, dtype)? {
            let numbers: u64 = shape.iter().map(|&size| size as u64).product();
            let bytes = numbers * dtype.bytes() as u64;
            plan.inference += bytes;
            plan.inference_f32 += 4 * numbers;
            plan.training += 16 * numbers;
            plan.buffers.push((name, bytes));
        }
        plan.buffers.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        Ok(plan)
    }
}
