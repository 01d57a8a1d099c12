//! Text to train on: the corpus, as bytes or as the tokens of a tokenizer, and which window of it a step sees.
//!
//! Reads files, and writes none but that of a corpus' tokens: no randomness but the hash that places the windows, no clock, no state between two calls.

mod batches;
pub(crate) mod corpus;
mod fingerprint;
#[cfg(feature = "tokenizer")]
pub mod hub_tokenizer;
pub(crate) mod offsets;
mod own_output;
pub mod sources;
mod text;
pub mod text_tokenizer;
mod token_ids;
pub mod tokenizer;
pub mod tokens;

pub use batches::{Batch, Batches, NO_TARGET, Validation};
pub use corpus::{Corpus, Text, read};
pub use tokens::Tokens;
