//! Text to train on: the corpus, its bytes as tokens, and which window of it a step sees.
//!
//! Reads files, and nothing else: no randomness but the hash that places the windows, no clock, no state between two calls.

mod batches;
pub(crate) mod corpus;
#[cfg(feature = "tokenizer")]
pub mod hub_tokenizer;
pub(crate) mod offsets;
mod own_output;
pub mod sources;
mod text;
pub mod text_tokenizer;
pub mod tokenizer;
pub mod tokens;

pub use batches::{Batch, Batches, NO_TARGET, Validation};
pub use corpus::{Corpus, Text, read};
pub use tokens::Tokens;
