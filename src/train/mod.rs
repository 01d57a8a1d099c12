//! The training loop and what surrounds it: settings, run folder, metrics, progress.
//!
//! The program hands over what is already checked ([`Plan`], [`saved::SavedModel`]); everything that can be wrong without
//! a device is found before one is opened.

use crate::data::Corpus;

mod bar;
mod clock;
pub(crate) mod compiling;
pub mod config;
pub mod evaluate;
mod figures;
pub mod generate;
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
pub mod warnings;

use config::RunConfig;
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
    /// Where the run is kept; nothing is written before [`RunFolder::begin`].
    pub folder: RunFolder,
    /// Where to go on, for a run that is resumed.
    pub resume: Option<SavedRun>,
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

/// The settings of a generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text that it goes on from; at least one byte.
    pub prompt: Vec<u8>,
    /// Bytes to add.
    pub tokens: usize,
    /// Divides the logits; 0 takes the likeliest byte.
    pub temperature: f32,
    /// Share of the probability that is drawn from.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

/// Cross-entropy over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// Nats per byte.
    pub loss: f32,
    /// Bytes predicted.
    pub bytes: u64,
}
