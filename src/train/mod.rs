//! The training loop and what surrounds it: settings, run folder, metrics, progress.
//!
//! The program hands over what is already checked ([`Plan`], [`saved::SavedModel`]); everything that can be wrong without
//! a device is found before one is opened.

use crate::data::Corpus;
use crate::data::text_tokenizer::TextTokenizer;

mod accepts;
mod bar;
pub mod begin;
mod clock;
pub(crate) mod compiling;
pub mod config;
pub mod decouple;
pub mod evaluate;
mod figures;
pub mod load;
pub mod memory;
pub mod metrics;
pub mod perplexity;
pub mod pretrained;
pub mod progress;
pub mod resume;
pub mod run;
pub mod run_folder;
pub mod saved;
pub(crate) mod size;
pub mod specialisation;
pub mod summary;
pub mod trainer;
pub mod upcycle;
pub mod warnings;

use config::RunConfig;
use pretrained::Pretrained;
use run_folder::RunFolder;
use saved::SavedRun;
use summary::Summary;

/// A run, checked and ready to start.
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
