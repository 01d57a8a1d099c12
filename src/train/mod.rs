//! The training loop and what surrounds it: settings, run folder, metrics, progress.
//!
//! Without the feature `files` there are the trainer, its settings and its figures alone.
//!
//! The program hands over what is already checked ([`Plan`], [`saved::SavedModel`]); everything that can be wrong without
//! a device is found before one is opened.

#[cfg(feature = "files")]
use crate::data::Corpus;
#[cfg(feature = "files")]
use crate::data::text_tokenizer::TextTokenizer;

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
use config::RunConfig;
#[cfg(feature = "files")]
use pretrained::Pretrained;
#[cfg(feature = "files")]
use run_folder::RunFolder;
#[cfg(feature = "files")]
use saved::SavedRun;
#[cfg(feature = "files")]
use summary::Summary;

/// A run, checked and ready to start.
#[cfg(feature = "files")]
#[derive(Debug)]
pub struct Plan {
    /// The settings.
    pub config: RunConfig,
    /// The data.
    pub corpus: Corpus,
    /// The meaning of its tokens.
    pub tokenizer: TextTokenizer,
    /// Where the run is kept; nothing is written before [`RunFolder::begin`].
    pub folder: RunFolder,
    /// Where to go on, for a run that is resumed.
    pub resume: Option<SavedRun>,
    /// The model to begin with, for a new run of one that is there.
    pub from: Option<Pretrained>,
}

/// How a run ended.
#[cfg(feature = "files")]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The final figures, as in `summary.json`.
        summary: Summary,
        /// Text that the model generated.
        sample: String,
    },
    /// It was asked to stop, and wrote a checkpoint after `step`.
    Interrupted {
        /// The last step done.
        step: u64,
    },
}

/// Cross-entropy over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Nats per token.
    pub loss: f32,
    /// Tokens predicted.
    pub targets: u64,
}
