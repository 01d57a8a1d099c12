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
//! Matrices come as they lie. METHOD §1's `W` is `in x out`; Hugging Face stores `out x in`, which [`StoredShape`] and
//! [`ExpertLayer::rows_are_model`] tell: whoever asks for singular vectors swaps the sides instead of moving the data.
//!
//! Everything that does not fit is an error that names file and tensor: when opening, what headers show (truncation, a
//! wrong index, missing or doubled experts, shapes and types); when reading, a number that is not finite.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub use super::inventory::{ExpertLayer, StoredShape, TensorCoverage};
use super::inventory::{Place, take};
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

/// Which models name their tensors like that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// This program.
    Sdmoe,
    /// Qwen1.5-MoE, Qwen2-MoE.
    Qwen2Moe,
    /// Mixtral.
    Mixtral,
    /// OLMoE.
    Olmoe,
    /// DeepSeek-V2.
    DeepseekV2,
    /// Another one, by its `model_type`; `unknown` where names do not tell and there is no `config.json`.
    Other(String),
}

impl Family {
    /// `sdmoe`, `qwen2_moe`, `mixtral`, `olmoe`, `deepseek_v2`, or the other's.
    pub fn name(&self) -> &str {
        match self {
            Family::Sdmoe => "sdmoe",
            Family::Qwen2Moe => "qwen2_moe",
            Family::Mixtral => "mixtral",
            Family::Olmoe => "olmoe",
            Family::DeepseekV2 => "deepseek_v2",
            Family::Other(name) => name,
        }
    }

    /// By `model_type` where there is one; else by names, as far as these differ between families.
    fn of(target: &Target) -> Self {
        let any = |part: &str| target.tensors.keys().any(|name| name.contains(part));
        if any(".moe.experts.") {
            return Family::Sdmoe;
        }
        if let Some(model_type) = &target.model_type {
            let known = [Family::Qwen2Moe, Family::Mixtral, Family::Olmoe, Family::DeepseekV2];
            return known.into_iter().find(|f| f.name() == model_type).unwrap_or(Family::Other(model_type.clone()));
        }
        if any(".block_sparse_moe.experts.") {
            Family::Mixtral
        } else if any(".mlp.shared_expert_gate.") {
            Family::Qwen2Moe
        } else if any(".mlp.shared_experts.") && any(".kv_a_proj_with_mqa.") && !any(".e_score_correction_bias") {
            // The bias is DeepSeek-V3's.
            Family::DeepseekV2
        } else if Self::norms_whole_queries(target) {
            Family::Olmoe
        } else {
            Family::Other("unknown".into())
        }
    }

    /// OLMoE normalises all heads' queries together; others (Qwen3) each head's.
    fn norms_whole_queries(target: &Target) -> bool {
        let shape =
            |name: &str| target.tensors.get(name).and_then(|&f| target.files[f].info(name)).map(|i| &i.shape[..]);
        target.tensors.keys().filter_map(|norm| norm.strip_suffix("q_norm.weight")).next().is_some_and(|layer| {
            let (norm, projection) = (shape(&format!("{layer}q_norm.weight")), shape(&format!("{layer}q_proj.weight")));
            matches!((norm, projection), (Some([n]), Some([out, _])) if n == out)
        })
    }
}

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
#[derive(Debug)]
pub struct ExpertCheckpoint {
    target: Target,
    family: Family,
    layers: Vec<ExpertLayer>,
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
        let (layers, coverage) = take(&target)?;
        if layers.is_empty() {
            let some: Vec<_> = target.tensors.keys().take(3).map(String::as_str).collect();
            let message = format!(
                "expected tensors of experts (names of Qwen2-MoE, Mixtral, OLMoE, DeepSeek-V2 or sdmoe), found none among {} \
                 (first: {})",
                target.tensors.len(),
                some.join(", ")
            );
            return Err(Error::checkpoint(&target.root, message));
        }
        let family = Family::of(&target);
        Ok(Self { target, family, layers, coverage })
    }

    /// What was pointed at.
    pub fn source(&self) -> Source {
        self.target.source
    }

    /// Whose names the tensors have.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The layers that have experts, by number.
    pub fn layers(&self) -> &[ExpertLayer] {
        &self.layers
    }

    /// How much of the checkpoint is understood.
    pub fn coverage(&self) -> &TensorCoverage {
        &self.coverage
    }

    /// What this program saved beside the tensors (`config`, `step`, `tokens` ...); empty for others' files.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.target.entries
    }

    /// The step of one of this program's checkpoints.
    pub fn step(&self) -> Option<u64> {
        self.entries().get("step")?.parse().ok()
    }

    /// Bytes on the disk of all experts' matrices.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(ExpertLayer::bytes).sum()
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

    /// What decoupled experts share; `None` where they are not decoupled.
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
                self.target.files[place.file].read(&place.tensor, place.first, out, &mut widener)?;
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
