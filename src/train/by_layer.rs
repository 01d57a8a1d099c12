//! Models that are larger than the device's memory: their parts are there one after the other.
//!
//! The hidden states of the text lie on the host. For each part of the model ([`Part`]) its weights alone are read from the
//! checkpoint, all of the text passes through it, and its memory is freed before the next one's is taken. The device then
//! holds the largest part in place of the whole model.
//!
//! ```no_run
//! use sdmoe::checkpoint::FamilyCheckpoint;
//! use sdmoe::prelude::*;
//! use sdmoe::train::by_layer::ByLayer;
//! use sdmoe::train::perplexity::Window;
//! use sdmoe::train::pretrained::WeightType;
//!
//! # async fn measure(tokens: &[u32]) -> Result<()> {
//! let checkpoint = FamilyCheckpoint::open("Mixtral-8x7B-v0.1".as_ref())?;
//! let gpu = Gpu::open(&GpuOptions::default()).await?;
//! let model = ByLayer::new(&gpu, &checkpoint, WeightType::AsStored)?;
//! let window = Window { context: 1024, stride: 512 };
//! for found in model.perplexity(tokens, window, &[None, Some(1)]).await? {
//!     println!("{}", found.perplexity());
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::mem;

use super::perplexity::{Batch, Perplexity, Window, batches, check};
use crate::autograd::Tape;
use crate::checkpoint::FamilyCheckpoint;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::config::ModelConfig;
use crate::nn::memory::{MemoryPlan, WeightType};
use crate::nn::part::{ModelPart, Part};
use crate::tensor::{DType, Tensor};

/// Bytes of hidden states that are on the host at once; of a text that has more, as much as fits goes through the model before
/// the rest does, which reads the weights once more.
const STATES: u64 = 4 << 30;

/// A published model whose parts are read when they are used.
#[derive(Debug)]
pub struct ByLayer<'a> {
    gpu: Gpu,
    family: &'a FamilyCheckpoint,
    stored: BTreeMap<&'a str, DType>,
    weights: WeightType,
    states: u64,
}

/// Windows on their way through the model.
struct Passing {
    batch: usize,
    top_k: usize,
    /// Hidden states, `[tokens, d_model]`; none before the embedding.
    state: Vec<f32>,
}

impl<'a> ByLayer<'a> {
    /// A model of which nothing is on the device yet.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for settings that this program cannot compute.
    pub fn new(gpu: &Gpu, family: &'a FamilyCheckpoint, weights: WeightType) -> Result<Self> {
        family.config().validate()?;
        Ok(Self { gpu: gpu.clone(), family, stored: family.dtypes_on(gpu), weights, states: STATES })
    }

    /// As it is, with at most so many bytes of hidden states on the host, or those of one batch of windows.
    #[must_use]
    pub fn with_states(self, states: u64) -> Self {
        Self { states, ..self }
    }

    /// The model's settings.
    pub fn config(&self) -> &ModelConfig {
        self.family.config()
    }

    /// The memory that it takes: [`MemoryPlan::part_bytes`] at a time.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for impossible sizes.
    pub fn memory(&self) -> Result<MemoryPlan> {
        MemoryPlan::new(self.config(), |name| self.stored.get(name).copied().unwrap_or(DType::F32))
    }

    /// A part with its weights on the device. [`Gpu::trim`] frees its memory when it was dropped.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] for a number that is not finite; [`crate::Error::Config`] and [`crate::Error::Device`] when
    /// the adapter cannot hold it; [`crate::Error::Io`].
    pub fn load(&self, part: Part) -> Result<ModelPart> {
        let dtype = |name: &str| match self.weights {
            WeightType::AsStored => self.stored.get(name).copied().unwrap_or(DType::F32),
            WeightType::F32 => DType::F32,
        };
        let loaded = ModelPart::for_inference_in(&self.gpu, self.config(), part, dtype)?;
        self.family.load_part(&loaded)?;
        Ok(loaded)
    }

    /// As [`perplexity`](super::perplexity::perplexity), once for each number of experts a token in `top_k`, where none is the
    /// model's own, all of them in one passage: the results are the same to the bit.
    ///
    /// # Errors
    /// Those of [`perplexity`](super::perplexity::perplexity) and of [`ByLayer::load`].
    pub async fn perplexity(&self, tokens: &[u32], window: Window, top_k: &[Option<usize>]) -> Result<Vec<Perplexity>> {
        check(self.config(), tokens, window, None)?;
        top_k.iter().try_for_each(|&k| check(self.config(), tokens, window, k))?;
        if top_k.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = vec![Perplexity::default(); top_k.len()];
        let all: Vec<Batch> = batches(self.config(), tokens, window).collect();
        let numbers = |batch: &Batch| batch.tokens.len() as u64 * self.config().d_model as u64 * top_k.len() as u64;
        // The first batch is the largest.
        let together = all.first().map_or(1, |first| (self.states / (4 * numbers(first)).max(1)).max(1));
        for round in all.chunks(usize::try_from(together).unwrap_or(usize::MAX)) {
            let both = (0..round.len()).flat_map(|batch| (0..top_k.len()).map(move |top_k| (batch, top_k)));
            let mut passing: Vec<Passing> =
                both.map(|(batch, top_k)| Passing { batch, top_k, state: Vec::new() }).collect();
            for part in Part::all(self.config()) {
                let loaded = self.load(part)?;
                for Passing { batch, top_k: k, state } in &mut passing {
                    let batch = &round[*batch];
                    let input = self.input(batch, mem::take(state))?;
                    let mut tape = Tape::new(&self.gpu);
                    let output = loaded.forward(&mut tape, batch.seq, top_k[*k], &input)?;
                    match part {
                        Part::Head => found[*k].add(batch, tape.value(output)).await?,
                        Part::Embedding | Part::Layer(_) => *state = tape.value(output).to_f32().await?,
                    }
                }
                drop(loaded);
                // Bind groups keep the memory of what was bound.
                self.gpu.trim()?;
                self.gpu.finish().await?;
            }
        }
        Ok(found)
    }

    /// The input of the next part: hidden states, or tokens where there are none yet.
    fn input(&self, batch: &Batch, state: Vec<f32>) -> Result<Tensor> {
        let tokens = batch.tokens.len();
        if state.is_empty() {
            return Tensor::from_u32(&self.gpu, [tokens], &batch.tokens);
        }
        Tensor::from_f32(&self.gpu, [tokens, self.config().d_model], &state)
    }
}
