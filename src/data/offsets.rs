//! Counter-based random numbers for the host: the value is a pure function of a seed and a position.
//!
//! The hash is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied once for each word of the counter. Nothing is
//! stored between two calls, so the position in the data *is* the step, and resuming needs no generator state.

/// SplitMix64's increment: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// 64 well-mixed bits from a seed and a counter of any length.
pub fn hash(seed: u64, counter: &[u64]) -> u64 {
    counter.iter().fold(mix(seed), |state, word| mix(state ^ mix(*word)))
}

fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in [0, 1) with 53 random bits.
#[cfg(any(test, feature = "files"))]
pub fn uniform(seed: u64, counter: &[u64]) -> f64 {
    (hash(seed, counter) >> 11) as f64 / (1u64 << 53) as f64
}

/// Where the windows of one micro-batch start: `batch` positions below `positions`, drawn independently.
pub fn offsets(seed: u64, step: u64, micro_batch: u64, batch: usize, positions: usize) -> Vec<usize> {
    (0..batch as u64)
        .map(|row| {
            let bits = hash(seed, &[step, micro_batch, row]);
            // Lemire's multiply-and-shift: maps 64 bits to [0, positions) without a division.
            ((u128::from(bits) * positions as u128) >> 64) as usize
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_depend_on_every_part_of_the_counter_and_on_nothing_else() {
        let a = offsets(1, 2, 3, 8, 100_000);
        assert_eq!(a, offsets(1, 2, 3, 8, 100_000));
        for other in [offsets(2, 2, 3, 8, 100_000), offsets(1, 3, 3, 8, 100_000), offsets(1, 2, 4, 8, 100_000)] {
            assert_ne!(a, other);
        }
        assert_eq!(offsets(1, 2, 3, 4, 100_000), a[..4], "a larger batch starts with the same windows");
    }

    #[test]
    fn offsets_cover_the_range_evenly() {
        let mut counts = [0u32; 7];
        for step in 0..1000 {
            for o in offsets(42, step, 0, 7, 7) {
                counts[o] += 1;
            }
        }
        // 7000 draws over 7 bins: mean 1000, standard deviation 29.3; 5 of them.
        assert!(counts.iter().all(|c| c.abs_diff(1000) < 147), "{counts:?}");
    }

    #[test]
    fn the_stream_is_pinned() {
        // First output of SplitMix64 with seed 0, from the reference implementation (Vigna).
        assert_eq!(hash(0, &[]), 0xE220_A839_7B1D_CDAF);
        assert!((0.0..1.0).contains(&uniform(7, &[1])));
    }
}
