//! The batches that both models learn from.

use sdmoe::{Batch, Batches};

use crate::settings::{BATCH, SEQ};
use crate::texts::Source;

/// Batches with as many sequences of each text as of any other.
pub(super) struct Mixture<'a> {
    parts: Vec<Batches<'a>>,
}

impl<'a> Mixture<'a> {
    pub(super) fn new(sources: &'a [Source], seed: u64) -> sdmoe::Result<Self> {
        let part =
            |(i, source): (usize, &'a Source)| Batches::new(source.training(), BATCH, SEQ, seed + 1000 * i as u64);
        Ok(Self { parts: sources.iter().enumerate().map(part).collect::<sdmoe::Result<_>>()? })
    }

    /// Sequence i is of text `(step + i) mod texts`, so that each has its share whatever the numbers.
    pub(super) fn batch(&self, step: u64) -> Batch {
        let all: Vec<Batch> = self.parts.iter().map(|part| part.batch(step, 0)).collect();
        let mut mixed = Batch { tokens: Vec::new(), targets: Vec::new() };
        for i in 0..BATCH {
            let of = &all[(step as usize + i) % all.len()];
            mixed.tokens.extend_from_slice(&of.tokens[i * SEQ..][..SEQ]);
            mixed.targets.extend_from_slice(&of.targets[i * SEQ..][..SEQ]);
        }
        mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::texts;

    #[test]
    fn every_text_has_its_share_of_the_batches() {
        let sources = texts::inside();
        let mixture = Mixture::new(&sources, 3).unwrap();
        let batch = mixture.batch(1);
        assert_eq!((batch.tokens.len(), batch.targets.len()), (BATCH * SEQ, BATCH * SEQ));
        assert_ne!(batch.tokens, mixture.batch(2).tokens);
        assert_eq!(batch.tokens, Mixture::new(&sources, 3).unwrap().batch(1).tokens);
    }
}
