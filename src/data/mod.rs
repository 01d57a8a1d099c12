//! Text to train on: the corpus, its bytes as tokens, and which window of it a step sees.
//!
//! Reads files, and nothing else: no randomness but the hash that places the windows, no clock, no state between two calls.

mod batches;
pub(crate) mod corpus;
pub(crate) mod offsets;
mod own_output;
pub mod sources;
mod text;
pub mod tokenizer;

pub use batches::{Batch, Batches, NO_TARGET, Validation};
pub use corpus::{Corpus, Text, read};
