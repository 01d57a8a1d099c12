//! A run as it is handed over, and how it ended.

use crate::data::Corpus;
use crate::data::text_tokenizer::TextTokenizer;
use crate::train::config::RunConfig;
use crate::train::pretrained::Pretrained;
use crate::train::run_folder::RunFolder;
use crate::train::saved::SavedRun;
use crate::train::summary::Summary;

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
