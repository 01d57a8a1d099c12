//! The keys and values of tokens that a model has seen.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::columns::write_rows;
use crate::nn::config::{ModelConfig, Precision};
use crate::tensor::{DType, Tensor};

/// Keys and values of all layers for one sequence, so that the next token costs one row and not all of them.
#[derive(Debug)]
pub struct KvCache {
    /// Keys `[capacity, kv_heads * head_dim]` and values `[capacity, kv_heads * value_dim]` of each layer.
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
    len: Cell<usize>,
}

impl KvCache {
    /// An empty cache for a sequence of up to `capacity` tokens of a model in `precision`.
    ///
    /// # Errors
    /// [`Error::Device`] when memory is short.
    pub fn new(gpu: &Gpu, config: &ModelConfig, precision: Precision, capacity: usize) -> Result<Self> {
        let value_dim = config.attention.value_dim(config.head_dim);
        let dtype = if precision == Precision::F16 { DType::F16 } else { DType::F32 };
        let rows = |width: usize| Tensor::persistent(gpu, [capacity, config.kv_heads * width], dtype);
        let layers = (0..config.layers).map(|_| Ok((rows(config.head_dim)?, rows(value_dim)?)));
        Ok(Self { layers: layers.collect::<Result<_>>()?, capacity, len: Cell::new(0) })
    }

    /// Bytes of the keys and values of a token, in f32.
    pub fn token_bytes(config: &ModelConfig) -> u64 {
        let width = config.head_dim + config.attention.value_dim(config.head_dim);
        4 * config.layers as u64 * config.kv_heads as u64 * width as u64
    }

    /// Tokens that it holds.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&self, len: usize) {
        self.len.set(self.len().min(len));
    }

    /// Counts `tokens` whose keys and values a forward pass has appended in every layer.
    pub(super) fn advance(&self, tokens: usize) {
        self.len.set(self.len() + tokens);
    }

    /// Writes the rows of layer `layer` behind those that are there, and returns all its keys and values.
    pub(super) fn append(&self, layer: usize, k: &Tensor, v: &Tensor) -> Result<(&Tensor, &Tensor)> {
        let count = self.layers.len();
        let fit =
            || Error::shape("key/value cache", format!("that of a model of {count} layers"), format!("layer {layer}"));
        let (keys, values) = self.layers.get(layer).ok_or_else(fit)?;
        let first = self.len();
        if first + k.rows() > self.capacity {
            let got = format!("{first} tokens and {} more", k.rows());
            return Err(Error::shape("key/value cache", format!("at most {} tokens", self.capacity), got));
        }
        write_rows(k, keys, first)?;
        write_rows(v, values, first)?;
        Ok((keys, values))
    }
}
