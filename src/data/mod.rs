//! Text to train on: the corpus, as bytes or as the tokens of a tokenizer, and which window of it a step sees.
//!
//! Reads files, and writes none but that of a corpus' tokens: no randomness but the hash that places the windows, no clock, no state between two calls.

mod batches;
#[cfg(feature = "files")]
pub(crate) mod corpus;
#[cfg(feature = "files")]
mod fingerprint;
#[cfg(feature = "tokenizer")]
pub mod hub_tokenizer;
pub(crate) mod offsets;
#[cfg(feature = "files")]
mod own_output;
#[cfg(feature = "files")]
pub mod sources;
#[cfg(feature = "files")]
mod text;
#[cfg(feature = "files")]
pub mod text_tokenizer;
#[cfg(feature = "files")]
mod token_ids;
pub mod tokenizer;
pub mod tokens;

pub use batches::{Batch, Batches, NO_TARGET, Validation};
#[cfg(feature = "files")]
pub use corpus::{Corpus, Text, read};
pub use tokens::Tokens;
