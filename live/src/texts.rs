//! The texts that the experts learn from: three small ones inside, and what is dropped on the window.

use std::ops::Range;

/// A text of one kind, of which the last tenth is held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in the charts.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Returns a text; none for one that is too short to train on and hold a part out.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let source = Self { name: name.into(), bytes: bytes.into() };
        (source.bytes.len() >= SHORTEST).then_some(source)
    }

    fn held_from(&self) -> usize {
        self.bytes.len() - (self.bytes.len() / 10).max(SHORTEST / 4)
    }

    /// The part that is trained on.
    pub fn training(&self) -> &[u8] {
        &self.bytes[..self.held_from()]
    }

    /// The part that is never trained on.
    pub fn held_out(&self) -> &[u8] {
        &self.bytes[self.held_from()..]
    }

    /// Returns windows of `length` held-out bytes, evenly spaced.
    pub fn windows(&self, count: usize, length: usize) -> impl Iterator<Item = &[u8]> {
        let held = self.held_out();
        let last = held.len().saturating_sub(length + 1);
        let at = move |i: usize| {
            let start = last * i / count.max(2).saturating_sub(1).max(1);
            let range: Range<usize> = start.min(last)..(start.min(last) + length + 1).min(held.len());
            &held[range]
        };
        (0..count).map(at)
    }
}

/// Bytes that a text has at least: windows of both parts fit.
pub const SHORTEST: usize = 2048;

/// The texts inside: code is of this project, prose of Jane Austen's "Pride and Prejudice" (1813).
pub fn inside() -> Vec<Source> {
    let code = [
        include_str!("../../src/train/trainer.rs"),
        include_str!("../../src/gpu/pool.rs"),
        include_str!("../../src/nn/router.rs"),
        include_str!("../../src/linalg/svd.rs"),
    ]
    .concat();
    let texts = [
        ("code", code.as_str()),
        ("prose", include_str!("../texts/prose.txt")),
        ("German", include_str!("../texts/deutsch.txt")),
    ];
    texts.into_iter().filter_map(|(name, text)| Source::new(name, text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_out_is_never_trained_on_and_windows_lie_in_it() {
        for source in inside() {
            assert_eq!([source.training(), source.held_out()].concat(), source.bytes);
            let windows: Vec<&[u8]> = source.windows(4, 64).collect();
            assert!(windows.len() == 4 && windows.iter().all(|w| w.len() == 65), "{}", source.name);
            let held = source.held_out();
            assert_eq!((windows[0], windows[3]), (&held[..65], &held[held.len() - 65..]));
        }
        assert_eq!(Source::new("short", "abc"), None);
    }
}
