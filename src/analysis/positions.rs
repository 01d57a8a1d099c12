//! Which tokens of a text are looked at where not all of them can be: spread over windows, so over sources, and over
//! the positions in a window.
//!
//! A position matters: at the first token of a window attention sees that token alone, and at the first few little
//! more.

use super::routed::permutation;
use crate::linalg::random::words;

/// The stream of random numbers.
const STREAM: u32 = 1 << 29;

/// `count` different tokens, or all there are, of `windows` windows of `seq` tokens: their numbers in the text, rising.
///
/// A Latin square: with both windows and positions cut into `count` equal strata, each stratum of either has one token,
/// at a random place in it. (Where a stratum is shorter than a token a place may be taken; then it is the next free
/// one.)
pub fn spread(windows: usize, seq: usize, count: usize, seed: u64) -> Vec<usize> {
    let total = windows * seq;
    let count = count.min(total);
    let mut taken = vec![false; total];
    for (i, stratum) in permutation(count, seed).into_iter().enumerate() {
        let [across, along, ..] = words(seed, STREAM, i as u32).map(|w| f64::from(w) / (f64::from(u32::MAX) + 1.0));
        let place = |stratum: usize, inside: f64, size: usize| {
            (((stratum as f64 + inside) * size as f64 / count as f64) as usize).min(size - 1)
        };
        let at = place(i, across, windows) * seq + place(stratum, along, seq);
        if let Some(free) = (at..total).chain(0..at).find(|&t| !taken[t]) {
            taken[free] = true;
        }
    }
    (0..total).filter(|&t| taken[t]).collect()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn places_cover_all_windows_and_all_positions_evenly() {
        for (windows, seq, count, seed) in [(64, 128, 32, 0), (64, 128, 8, 1), (12, 100, 32, 7), (1, 512, 32, 3)] {
            let found = spread(windows, seq, count, seed);
            assert_eq!(found.len(), count);
            assert!(found.is_sorted_by(|a, b| a < b) && found[count - 1] < windows * seq, "{found:?}");
            let quarters = |size: usize, of: &dyn Fn(usize) -> usize| {
                let mut counts = [0; 4];
                found.iter().for_each(|&t| counts[of(t) * 4 / size] += 1);
                counts
            };
            assert_eq!(quarters(seq, &|t| t % seq), [count / 4; 4], "{found:?}");
            if windows >= 4 {
                assert_eq!(quarters(windows, &|t| t / seq), [count / 4; 4], "{found:?}");
            }
            assert_eq!(found, spread(windows, seq, count, seed));
            assert_ne!(found, spread(windows, seq, count, seed + 1));
        }
    }

    #[test]
    fn a_text_with_fewer_tokens_than_wanted_gives_all() {
        assert_eq!(spread(3, 2, 100, 5), [0, 1, 2, 3, 4, 5]);
        assert_eq!(spread(2, 5, 9, 5).len(), 9);
        assert_eq!(spread(0, 8, 4, 5), [] as [usize; 0]);
    }
}
