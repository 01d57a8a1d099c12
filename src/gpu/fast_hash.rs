//! A hash for the recorder's keys: a few numbers of the program's own, looked up with every launch. The standard
//! library's resists chosen keys, which nobody chooses here, and takes several times as long.

use std::hash::{BuildHasherDefault, Hasher};

/// A map by such keys.
pub(super) type FastMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Multiplies and rotates, as rustc's own (`FxHasher`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        rest.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, word: u64) {
        // 2^64 over the golden ratio, odd: each bit of the key reaches all higher ones.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // A map takes the lowest bits and the highest; the low ones are the worst here.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::FastHasher;

    #[test]
    fn keys_that_differ_in_one_number_spread_over_the_lowest_bits() {
        let hash = |key: &[u64]| BuildHasherDefault::<FastHasher>::default().hash_one(key);
        for place in 0..4 {
            // Ids count up; offsets and sizes are multiples of 256.
            let key = |i: u64| (0..4).map(|p| if p == place { i * if p < 2 { 1 } else { 256 } } else { 7 }).collect();
            let all: HashSet<u64> = (0..4096).map(|i| hash(&Vec::<u64>::clone(&key(i))) & 4095).collect();
            // Of 4096 random numbers below 4096, 2589 differ on average.
            assert!(all.len() > 2000, "{} of 4096, number {place}", all.len());
        }
    }
}
