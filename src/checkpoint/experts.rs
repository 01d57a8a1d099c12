//! The expert weights of any Mixture-of-Experts checkpoint, read a few matrices at a time.
//!
//! ```no_run
//! use sdmoe::checkpoint::ExpertCheckpoint;
//! use sdmoe::nn::config::ExpertMatrix;
//!
//! # fn main() -> sdmoe::Result<()> {
//! let checkpoint = ExpertCheckpoint::open("Qwen1.5-MoE-A2.7B".as_ref())?;
//! for layer in checkpoint.layers() {
//!     let mut stack = vec![0.0; layer.experts * layer.numel()];
//!     checkpoint.read(layer, ExpertMatrix::Gate, 0..layer.experts, &mut stack)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A target is the folder of a run or a checkpoint of this program, a Hugging Face folder (`model.safetensors`, or shards
//! with `model.safetensors.index.json`), one of those indices, or one `.safetensors` file. Experts are found by the names
//! and shapes of tensors alone (the table is in `names.rs`); `config.json`, where there is one, only names the family. Only
//! headers are in memory: a reading asks the disk for the bytes of the matrices that it returns, f32, f16 or bf16, and
//! widens them to f32. The files stay open, so a run that goes on and replaces its checkpoint does not disturb.
//!
//! Layers are of one stack: those whose names have the same before `layers.`. Where a checkpoint has several
//! ([`ExpertCheckpoint::stacks`]: a copy of averaged weights, layers that predict later tokens, an encoder and a decoder),
//! [`ExpertCheckpoint::open`] shows the model's own and [`ExpertCheckpoint::with_stack`] another.
//!
//! Matrices come as they lie. METHOD §1's `W` is `in x out`; Hugging Face stores `out x in`, which [`StoredShape`] and
//! [`ExpertLayer::rows_are_model`] tell: whoever asks for singular vectors swaps the sides instead of moving the data.
//!
//! Everything that does not fit is an error that names file and tensor: when opening, what headers show (truncation, a
//! wrong index, missing or doubled experts, shapes and types); when reading, a number that is not finite.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

pub use super::coverage::TensorCoverage;
use super::coverage::gaps;
pub use super::family::Family;
use super::inventory::take;
use super::layer::Place;
pub use super::layer::{ExpertLayer, ExpertStack, StoredShape};
use super::names::shown;
pub use super::target::Source;
use super::target::Target;
use super::widen::Widener;
use crate::error::{Error, Result};
use crate::nn::config::ExpertMatrix;

/// The name in errors.
const OP: &str = "reading experts";

/// Numbers that are read at once: their bytes and their widened form stay in a core's cache in between.
const CHUNK: usize = 1 << 17;

/// More threads than this only wait for the memory.
const MAX_THREADS: usize = 4;

/// The parts that the decoupled experts of one kind and layer share, row-major, in METHOD's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// Rank *k*.
    pub rank: usize,
    /// `W_c: [in, out]`.
    pub w_c: Vec<f32>,
    /// *U*: `[in, k]`.
    pub u: Vec<f32>,
    /// *V*: `[out, k]`.
    pub v: Vec<f32>,
}

impl Common {
    /// Makes the unique parts `W_u,i = W_i - W_c` of merged matrices, one behind the other.
    ///
    /// # Errors
    /// [`Error::Shape`] where `merged` is no whole number of matrices.
    pub fn remove_from(&self, merged: &mut [f32]) -> Result<()> {
        let size = self.w_c.len();
        if size == 0 || !merged.len().is_multiple_of(size) {
            return Err(Error::shape(OP, format!("matrices of {size} numbers"), format!("{} numbers", merged.len())));
        }
        for matrix in merged.chunks_exact_mut(size) {
            matrix.iter_mut().zip(&self.w_c).for_each(|(w, c)| *w -= c);
        }
        Ok(())
    }
}

/// An opened checkpoint; see the [module](self).
#[derive(Clone, Debug)]
pub struct ExpertCheckpoint {
    opened: Arc<Opened>,
    /// Which of the stacks, of which there is one at least.
    stack: usize,
}

/// The parts that all stacks of a checkpoint have in common.
#[derive(Debug)]
struct Opened {
    target: Target,
    family: Family,
    stacks: Vec<ExpertStack>,
    coverage: TensorCoverage,
}

impl ExpertCheckpoint {
    /// Reads the headers of all files of a target and finds the experts.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a file is missing, truncated or damaged, when there are no experts, or when they do not
    /// fit each other; [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let target = Target::open(path)?;
        let (stacks, coverage) = take(&target)?;
        if target.tensors.is_empty() {
            return Err(Error::checkpoint(&target.root, "expected tensors of experts, found a file without tensors"));
        }
        if stacks.is_empty() {
            let (like, some): (_, Vec<&String>) = match &coverage.unread_experts[..] {
                [] => ("first", target.tensors.keys().take(3).collect()),
                like => ("these look like experts", like.iter().take(3).collect()),
            };
            let some: Vec<String> = some.into_iter().map(|name| shown(name)).collect();
            let message = format!(
                "expected tensors of experts (names of Qwen2-MoE, Mixtral, OLMoE, DeepSeek-V2 or sdmoe), found none among {} \
                 ({like}: {})",
                target.tensors.len(),
                some.join(", ")
            );
            return Err(Error::checkpoint(&target.root, message));
        }
        let family = Family::of(&target);
        Ok(Self { opened: Arc::new(Opened { target, family, stacks, coverage }), stack: 0 })
    }

    /// All stacks of layers that have experts, the model's own first.
    pub fn stacks(&self) -> &[ExpertStack] {
        &self.opened.stacks
    }

    /// Which of [`ExpertCheckpoint::stacks`] this is.
    pub fn stack(&self) -> usize {
        self.stack
    }

    /// Returns the checkpoint with the layers of another stack; `None` where there are fewer.
    pub fn with_stack(&self, stack: usize) -> Option<Self> {
        (stack < self.stacks().len()).then(|| Self { opened: self.opened.clone(), stack })
    }

    /// The signs of experts that are not among the layers of any stack, a sentence each: one shard of several, names that
    /// look like experts, a `config.json` with more of them than the model's own layers have. Empty where nothing does.
    pub fn gaps(&self) -> Vec<String> {
        gaps(&self.opened.target, &self.opened.coverage, if self.stack == 0 { self.layers() } else { &[] })
    }

    /// The path that was given.
    pub fn source(&self) -> Source {
        self.opened.target.source
    }

    /// Whose names the tensors have.
    pub fn family(&self) -> &Family {
        &self.opened.family
    }

    /// The layers of this stack that have experts, by number.
    pub fn layers(&self) -> &[ExpertLayer] {
        &self.opened.stacks[self.stack].layers
    }

    /// How much of the checkpoint is understood, all stacks together.
    pub fn coverage(&self) -> &TensorCoverage {
        &self.opened.coverage
    }

    /// The entries that this program saved beside the tensors (`config`, `step`, `tokens` ...); empty for others' files.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.opened.target.entries
    }

    /// The step of one of this program's checkpoints.
    pub fn step(&self) -> Option<u64> {
        self.entries().get("step")?.parse().ok()
    }

    /// Bytes on the disk of the experts' matrices of this stack.
    pub fn bytes(&self) -> u64 {
        self.layers().iter().map(ExpertLayer::bytes).sum()
    }

    /// Reads the matrices `W_i` of some experts of a layer into `out`, one behind the other, each row-major in the shape
    /// [`ExpertLayer::shape`]; merged ones where experts are decoupled (`W_c + W_u,i`; see [`Common::remove_from`]).
    ///
    /// # Errors
    /// [`Error::Shape`] when the layer has no such experts, or `out` another length;
    /// [`Error::Checkpoint`] for a number that is not finite; [`Error::Io`].
    pub fn read(
        &self,
        layer: &ExpertLayer,
        matrix: ExpertMatrix,
        experts: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let size = layer.numel();
        if experts.end > layer.experts || out.len() != experts.len() * size {
            let expected = format!("experts within 0..{} and {size} numbers for each", layer.experts);
            return Err(Error::shape(OP, expected, format!("{experts:?} and {} numbers", out.len())));
        }
        let mut chunks = Vec::new();
        for (expert, out) in experts.zip(out.chunks_exact_mut(size)) {
            chunks.extend(chunked(&layer.places[matrix as usize][expert], out));
        }
        self.read_all(chunks)
    }

    /// One matrix, as [`ExpertCheckpoint::read`] gives it.
    ///
    /// # Errors
    /// As [`ExpertCheckpoint::read`].
    pub fn matrix(&self, layer: &ExpertLayer, matrix: ExpertMatrix, expert: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; layer.numel()];
        self.read(layer, matrix, expert..expert + 1, &mut out)?;
        Ok(out)
    }

    /// The router's vectors, `[E, d]` row-major: row i is expert i's; `None` where the checkpoint has none.
    ///
    /// # Errors
    /// As [`ExpertCheckpoint::read`].
    pub fn router(&self, layer: &ExpertLayer) -> Result<Option<Vec<f32>>> {
        let Some((place, own)) = &layer.router else { return Ok(None) };
        let (experts, d) = (layer.experts, layer.d_model);
        let stored = self.tensor(place, experts * d)?;
        if !own {
            return Ok(Some(stored));
        }
        Ok(Some((0..experts * d).map(|i| stored[i % d * experts + i / d]).collect()))
    }

    /// The common part of decoupled experts; `None` where they are not decoupled.
    ///
    /// # Errors
    /// As [`ExpertCheckpoint::read`].
    pub fn common(&self, layer: &ExpertLayer, matrix: ExpertMatrix) -> Result<Option<Common>> {
        let Some(s) = &layer.spectral[matrix as usize] else { return Ok(None) };
        let (m, n) = if matrix == ExpertMatrix::Down {
            (layer.d_expert, layer.d_model)
        } else {
            (layer.d_model, layer.d_expert)
        };
        let (u, v) = (self.tensor(&s.u, m * s.rank)?, self.tensor(&s.v, n * s.rank)?);
        Ok(Some(Common { rank: s.rank, w_c: self.tensor(&s.common, m * n)?, u, v }))
    }

    fn tensor(&self, place: &Place, numel: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; numel];
        self.read_all(chunked(place, &mut out).collect())?;
        Ok(out)
    }

    /// Reads chunks in their order, which is that of the disk, while other threads widen the ones before.
    fn read_all(&self, chunks: Vec<(Place, &mut [f32])>) -> Result<()> {
        let numbers: usize = chunks.iter().map(|(_, out)| out.len()).sum();
        // Starting a thread takes as long as reading a chunk.
        let worth = (numbers / CHUNK).clamp(1, MAX_THREADS);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(worth);
        let work = Mutex::new(chunks.into_iter());
        let next = || work.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = || {
            let mut widener = Widener::default();
            while let Some((place, out)) = next() {
                self.opened.target.files[place.file].read(&place.tensor, place.first, out, &mut widener)?;
            }
            Ok(())
        };
        if threads <= 1 {
            return run();
        }
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let own = run();
            let joined = others.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            std::iter::once(own).chain(joined).collect()
        });
        results.into_iter().collect()
    }
}

/// A matrix in pieces of [`CHUNK`] numbers.
fn chunked<'a>(place: &Place, out: &'a mut [f32]) -> impl Iterator<Item = (Place, &'a mut [f32])> {
    let pieces = out.chunks_mut(CHUNK).enumerate();
    pieces.map(|(i, piece)| (Place { first: place.first + i * CHUNK, ..place.clone() }, piece))
}
