//! FNV-1a: a number by which a text or a tokenizer is known again.

/// FNV-1a over the bytes of all parts.
pub(super) fn fnv<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01B3);
    parts.into_iter().flatten().fold(0xCBF2_9CE4_8422_2325, step)
}
