//! How long each dispatch takes on this device, as measured, so that a submission can be cut to a time before it runs.

use super::fast_hash::FastMap;

/// A pipeline's number, the workgroups of the dispatch and the bytes that are bound: dispatches that agree in these take
/// about the same time.
pub(super) type CostKey = [u64; 3];

/// Bytes of a copy or clear a second, where it has to be guessed: what lavapipe does on two cores, less than any GPU.
pub(super) const TRANSFER_RATE: f64 = 4e9;
/// Seconds that a dispatch takes at least.
const LEAST: f64 = 1e-6;
/// Times kept. A training step has some hundred; past this they are measured anew.
const MOST: usize = 1 << 14;
/// The part of the difference by which a time follows one measured that is longer, and one that is shorter: a submission that
/// is too long is worse than one that is too short.
const FOLLOW: (f64, f64) = (0.5, 0.2);

/// Seconds of dispatches.
#[derive(Debug, Default)]
pub(super) struct Costs(FastMap<CostKey, f64>);

impl Costs {
    /// The seconds that a dispatch is thought to take, if one like it was measured.
    pub(super) fn get(&self, key: &CostKey) -> Option<f64> {
        self.0.get(key).copied()
    }

    /// Takes note that one dispatch took `seconds`.
    pub(super) fn learn(&mut self, key: CostKey, seconds: f64) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        // Timestamps may be coarse: nothing is for nothing.
        let seconds = seconds.max(LEAST);
        let known = self.0.entry(key).or_insert(seconds);
        *known += (seconds - *known) * if seconds > *known { FOLLOW.0 } else { FOLLOW.1 };
    }

    /// Takes note that these dispatches took `seconds` together: each is thought to have had the part that was expected of it,
    /// and those never measured before share what is left.
    pub(super) fn learn_together(&mut self, keys: &[CostKey], seconds: f64) {
        let unknown = keys.iter().filter(|key| !self.0.contains_key(*key)).count();
        let expected: f64 = keys.iter().filter_map(|key| self.get(key)).sum();
        if unknown > 0 {
            // Not nothing: then they would fill no submission.
            let rest = (seconds - expected).max(0.1 * seconds) / unknown as f64;
            let new: Vec<CostKey> = keys.iter().filter(|key| !self.0.contains_key(*key)).copied().collect();
            new.into_iter().for_each(|key| self.learn(key, rest));
        } else if expected > 0.0 {
            let ratio = (seconds / expected).clamp(0.25, 4.0);
            // A key that occurs twice is one time.
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let known = self.get(&key).unwrap_or(0.0);
                self.learn(key, known * ratio);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatches_that_are_timed_together_come_to_their_sum_and_the_long_one_is_found_when_cuts_move() {
        // 40 dispatches of 0.1 ms, and one of 8 ms among them.
        let truth = |i: u64| if i == 17 { 8e-3 } else { 1e-4 };
        let mut costs = Costs::default();
        for _ in 0..12 {
            let mut piece: Vec<CostKey> = Vec::new();
            let mut expected = 0.0;
            for i in 0..41 {
                let key = [i, 1, 1];
                let next = costs.get(&key).unwrap_or(1e-4);
                if expected + next > 2e-3 && !piece.is_empty() {
                    costs.learn_together(&piece, piece.iter().map(|key| truth(key[0])).sum());
                    piece.clear();
                    expected = 0.0;
                }
                expected += next;
                piece.push(key);
            }
            costs.learn_together(&piece, piece.iter().map(|key| truth(key[0])).sum());
        }
        let all: f64 = (0..41).filter_map(|i| costs.get(&[i, 1, 1])).sum();
        assert!((all - 12e-3).abs() < 2e-3, "{all}");
        let long = costs.get(&[17, 1, 1]).unwrap();
        assert!((7e-3..8.1e-3).contains(&long), "{long}");
    }

    #[test]
    fn a_time_follows_one_that_is_longer_sooner_than_one_that_is_shorter() {
        let mut costs = Costs::default();
        costs.learn([1; 3], 1.0);
        costs.learn([1; 3], 2.0);
        assert_eq!(costs.get(&[1; 3]), Some(1.5));
        costs.learn([1; 3], 0.5);
        assert!((costs.get(&[1; 3]).unwrap() - 1.3).abs() < 1e-9);
    }
}
