//! Windows of the corpus as batches: random ones to train on, fixed and evenly spaced ones to validate on.
//!
//! A batch is `tokens: [batch, seq]` and `targets: [batch, seq]`, the same window one token later, both row-major.

use super::offsets::offsets;
use super::tokens::Tokens;
use crate::error::Result;

/// One batch, both parts `[batch, seq]` flattened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The tokens that the model reads.
    pub tokens: Vec<u32>,
    /// The tokens that it must predict: `tokens` moved by one; [`NO_TARGET`] where a text has ended.
    pub targets: Vec<u32>,
}

/// A target that is no token: the loss of its token is 0.
pub const NO_TARGET: u32 = u32::MAX;

impl Batch {
    /// Tokens that have a target.
    pub fn predicted(&self) -> usize {
        self.targets.iter().filter(|t| **t != NO_TARGET).count()
    }
}

/// Training batches: which windows a step sees is a pure function of the seed, the step and the micro-batch.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    tokens: Tokens<'a>,
    batch: usize,
    seq: usize,
    seed: u64,
}

/// Validation batches: always the same windows, evenly spaced over the tokens or covering all of them.
#[derive(Clone, Debug)]
pub struct Validation<'a> {
    tokens: Tokens<'a>,
    starts: Vec<usize>,
    batch: usize,
    seq: usize,
}

/// Windows that may reach past the end: there tokens are 0 and targets [`NO_TARGET`].
fn gather(tokens: Tokens<'_>, starts: &[usize], seq: usize) -> Batch {
    let take = |shift: usize, beyond: u32| {
        let window = |start: &usize| *start + shift..*start + shift + seq;
        starts.iter().flat_map(window).map(|i| tokens.get(i).unwrap_or(beyond)).collect()
    };
    Batch { tokens: take(0, 0), targets: take(1, NO_TARGET) }
}

impl<'a> Batches<'a> {
    /// Batches of `batch` windows of `seq` tokens.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when there are fewer than `seq + 1` tokens.
    pub fn new(tokens: impl Into<Tokens<'a>>, batch: usize, seq: usize, seed: u64) -> Result<Self> {
        let tokens = tokens.into();
        tokens.require(seq, "the part to train on")?;
        Ok(Self { tokens, batch, seq, seed })
    }

    /// Micro-batch `micro_batch` (from 0) of step `step` (from 1).
    pub fn batch(&self, step: u64, micro_batch: u64) -> Batch {
        let starts = offsets(self.seed, step, micro_batch, self.batch, self.tokens.len() - self.seq);
        gather(self.tokens, &starts, self.seq)
    }
}

impl<'a> Validation<'a> {
    /// Up to `limit` batches, evenly spaced; at least one, whose windows overlap where the tokens are few.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when there are fewer than `seq + 1` tokens.
    pub fn new(tokens: impl Into<Tokens<'a>>, batch: usize, seq: usize, limit: usize) -> Result<Self> {
        let tokens = tokens.into();
        tokens.require(seq, "the text to evaluate on")?;
        let last = tokens.len() - seq - 1;
        let whole = (tokens.len() - 1) / seq / batch;
        let windows = batch * whole.min(limit).max(1);
        let starts = (0..windows).map(|i| (i as u128 * last as u128 / (windows - 1).max(1) as u128) as usize).collect();
        Ok(Self { tokens, starts, batch, seq })
    }

    /// Every token but the first as a target once, in windows behind each other; the last batch can have fewer of them.
    ///
    /// # Errors
    /// [`crate::Error::Data`] when there are fewer than `seq + 1` tokens.
    pub fn all(tokens: impl Into<Tokens<'a>>, batch: usize, seq: usize) -> Result<Self> {
        let tokens = tokens.into();
        tokens.require(seq, "the text to evaluate on")?;
        Ok(Self { tokens, starts: (0..tokens.len() - 1).step_by(seq).collect(), batch, seq })
    }

    /// The batches, in order.
    pub fn iter(&self) -> impl Iterator<Item = Batch> {
        self.starts.chunks(self.batch).map(|starts| gather(self.tokens, starts, self.seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_tokens_one_later_and_batches_repeat() {
        let bytes: Vec<u8> = (0..=255).collect();
        let batches = Batches::new(&bytes, 3, 10, 7).unwrap();
        let batch = batches.batch(5, 1);
        assert_eq!(batch.tokens.len(), 30);
        assert!(batch.tokens.iter().zip(&batch.targets).all(|(x, y)| x + 1 == *y));
        assert_eq!(batch, batches.batch(5, 1));
        assert_ne!(batch, batches.batch(6, 1));
        assert_ne!(batch, batches.batch(5, 0));
    }

    #[test]
    fn the_shortest_text_has_one_window() {
        let batch = Batches::new(b"abc", 2, 2, 0).unwrap().batch(1, 0);
        assert_eq!(batch.tokens, [97, 98, 97, 98]);
        assert_eq!(Validation::new(b"abc", 2, 2, 1).unwrap().iter().next().unwrap(), batch);
        assert!(Batches::new(b"ab", 2, 2, 0).is_err());
    }

    #[test]
    fn validation_windows_are_evenly_spaced_and_do_not_overlap_where_there_is_room() {
        let bytes = vec![1u8; 1001];
        let some = Validation::new(&bytes, 5, 10, 2).unwrap();
        assert_eq!((some.starts[0], some.starts[9], some.iter().count()), (0, 990, 2));
        assert!(some.starts.windows(2).all(|w| w[1] - w[0] >= 10));
    }

    #[test]
    fn a_whole_text_is_predicted_byte_by_byte() {
        for length in [11, 12, 20, 21, 22, 1001] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let batches: Vec<Batch> = Validation::all(&bytes, 3, 10).unwrap().iter().collect();
            let targets = batches.iter().flat_map(|b| &b.targets).filter(|t| **t != NO_TARGET);
            assert!(targets.map(|t| *t as u8).eq(bytes[1..].iter().copied()), "{length}");
            assert_eq!(batches.iter().map(Batch::predicted).sum::<usize>(), bytes.len() - 1);
            assert!(batches.iter().all(|b| b.tokens.len() == b.targets.len() && b.tokens.len() % 10 == 0));
        }
    }
}
