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

use super::perplexity::{Batch, Perplexity, Window, batches, check};
use crate::checkpoint::FamilyCheckpoint;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ModelConfig;
use crate::nn::memory::{MemoryPlan, Purpose, WeightType};
use crate::nn::part::{HeldPart, ModelPart, ModelParts, Part};
use crate::nn::passage::{Passenger, STATES, pass_through};
use crate::nn::size::mib;
use crate::tensor::{DType, Tensor};
use crate::train::size::memory_of;

/// A published model whose parts are read when they are used.
#[derive(Debug)]
pub struct ByLayer<'a> {
    gpu: Gpu,
    family: &'a FamilyCheckpoint,
    stored: BTreeMap<&'a str, DType>,
    weights: WeightType,
    states: u64,
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

    /// As it is, with at most so many bytes of hidden states on the host in [`ByLayer::perplexity`], or those of one forward pass; of a
    /// text that has more, as much as fits goes through the model before the rest does, which reads the weights once more.
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
        MemoryPlan::of_stored(self.config(), &self.stored)
    }

    /// Checks that the device can hold the largest part, as far as that can be known beforehand: where its memory is the machine's.
    ///
    /// # Errors
    /// [`crate::Error::Config`] says what it takes.
    pub fn require_memory(&self, purpose: impl Into<Purpose>) -> Result<()> {
        let part = self.memory()?.part_bytes(purpose);
        match memory_of(&self.gpu) {
            Some(memory) if part > memory => {
                let [part, memory] = [part, memory].map(|bytes| mib(u128::from(bytes)));
                Err(Error::config("model", format!("the largest of its parts takes {part}; this machine has {memory}")))
            }
            _ => Ok(()),
        }
    }

    /// A part with its weights on the device. [`Gpu::trim`] frees its memory when it was dropped.
    ///
    /// # Errors
    /// [`crate::Error::Checkpoint`] for a number that is not finite; [`crate::Error::Config`] and [`crate::Error::Device`] when
    /// the adapter cannot hold it; [`crate::Error::Io`].
    pub fn load(&self, part: Part) -> Result<ModelPart> {
        let dtype = |name: &str| self.weights.of(&self.stored, name);
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
        let all: Vec<Batch> = batches(self.config(), tokens, window).collect();
        let mut passengers = Vec::new();
        for Batch { seq, tokens, .. } in &all {
            passengers.extend(top_k.iter().map(|&top_k| Passenger { seq: *seq, tokens, top_k, mask: None }));
        }
        let mut found = vec![Perplexity::default(); top_k.len()];
        pass_through(&self.gpu, self, &passengers, self.states, async |i, logits: &Tensor| {
            found[i % top_k.len()].add(&all[i / top_k.len()], logits).await
        })
        .await?;
        Ok(found)
    }
}

impl ModelParts for ByLayer<'_> {
    fn config(&self) -> &ModelConfig {
        self.family.config()
    }

    /// Weights of which gradients are wanted are in f32.
    fn part(&self, part: Part, gradients: bool) -> Result<HeldPart<'_>> {
        let loaded = if gradients {
            let loaded = ModelPart::with_gradients(&self.gpu, self.family.config(), part)?;
            self.family.load_part(&loaded)?;
            loaded
        } else {
            self.load(part)?
        };
        Ok(HeldPart::Own(Box::new(loaded)))
    }
}
