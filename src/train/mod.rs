//! The training loop and what surrounds it: settings, run folder, metrics, progress.
//!
//! Without the feature `files` there are the trainer, its settings and its figures alone.
//!
//! The program hands over what is already checked ([`Plan`], [`saved::SavedModel`]); everything that can be wrong without
//! a device is found before one is opened.

#[cfg(feature = "files")]
mod accepts;
#[cfg(feature = "files")]
mod bar;
#[cfg(feature = "files")]
pub mod begin;
#[cfg(feature = "files")]
pub mod by_layer;
#[cfg(feature = "files")]
mod clock;
#[cfg(feature = "files")]
#[cfg_attr(target_arch = "wasm32", path = "no_compiling.rs")]
pub(crate) mod compiling;
pub mod config;
#[cfg(feature = "files")]
pub mod decouple;
pub mod evaluate;
mod figures;
pub mod load;
pub mod memory;
pub mod metrics;
#[cfg(feature = "files")]
pub mod metrics_file;
#[cfg(feature = "files")]
mod on_disk;
pub mod perplexity;
#[cfg(feature = "files")]
mod plan;
#[cfg(feature = "files")]
pub mod pretrained;
#[cfg(feature = "files")]
pub mod progress;
#[cfg(feature = "files")]
pub mod resume;
#[cfg(feature = "files")]
pub mod run;
#[cfg(feature = "files")]
pub mod run_folder;
#[cfg(feature = "files")]
pub mod saved;
pub(crate) mod size;
pub mod snapshot;
pub mod specialisation;
#[cfg(feature = "files")]
pub mod summary;
pub mod trainer;
#[cfg(feature = "files")]
pub mod upcycle;
pub mod warnings;

#[cfg(feature = "files")]
pub use self::plan::{Outcome, Plan};

/// Cross-entropy over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Nats per token.
    pub loss: f32,
    /// Tokens predicted.
    pub targets: u64,
}
