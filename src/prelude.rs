//! All that a training program needs, in one line: `use sdmoe::prelude::*;`.
//!
//! `Result` has this crate's [`Error`] where no other is named, so that it may stand in for the one of the standard
//! library.

pub use crate::{AdapterChoice, DType, Gpu, GpuOptions, Tier};
pub use crate::{Array, Backward, Forward, Gradients, Op, Reads, Tape, Var};
pub use crate::{Batch, Batches};
pub use crate::{Elementwise, Kernel, Launch, elementwise, params};
pub use crate::{Error, ErrorKind, Result};
pub use crate::{Model, ModelConfig, Optimizer, OptimizerConfig, Precision, Preset, RunConfig, SpectralConfig};
pub use crate::{Shape, Snapshot, StepReport, Tensor, Trainer};
