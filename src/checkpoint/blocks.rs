//! Transposing, while widening to f32 or as the numbers are, in blocks that stay in a core's cache.

use super::widen::Element;

/// Rows of a block: as many f32 as a cache line has.
const ROWS: usize = 16;

/// Columns of a block: as many 16-bit numbers as a cache line has.
const COLUMNS: usize = 32;

/// The most rows of a band, a part of a matrix that is read at once and then transposed. Each column of a band is written in
/// one go, and each such place is on another page of memory; with more rows the band leaves the cache.
pub(super) const BAND: usize = 128;

/// The most numbers of a band, unless that leaves fewer rows than a block has.
const BAND_NUMBERS: usize = 1 << 18;

/// Rows of the bands of a matrix with `columns` columns.
pub(super) fn band_rows(columns: usize) -> usize {
    (BAND_NUMBERS / columns.max(1)).clamp(ROWS, BAND) / ROWS * ROWS
}

/// Writes `band`, `rows x columns`, transposed to `out`: element `[r, c]` to `c * stride + r`.
pub(super) fn transpose<T: Copy + Default, U>(
    band: &[T],
    columns: usize,
    out: &mut [U],
    stride: usize,
    widen: impl Fn(T) -> U,
) {
    let rows = band.len() / columns;
    for c in (0..columns).step_by(COLUMNS) {
        for r in (0..rows).step_by(ROWS) {
            if c + COLUMNS <= columns && r + ROWS <= rows {
                let mut block = [[T::default(); COLUMNS]; ROWS];
                for (i, row) in block.iter_mut().enumerate() {
                    row.copy_from_slice(&band[(r + i) * columns + c..][..COLUMNS]);
                }
                for j in 0..COLUMNS {
                    let out = &mut out[(c + j) * stride + r..][..ROWS];
                    out.iter_mut().zip(&block).for_each(|(x, row)| *x = widen(row[j]));
                }
                continue;
            }
            for j in c..columns.min(c + COLUMNS) {
                let out = &mut out[j * stride..];
                (r..rows.min(r + ROWS)).for_each(|i| out[i] = widen(band[i * columns + j]));
            }
        }
    }
}

/// f32 from the bits of a bf16, its upper half.
pub(super) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Whether all of these numbers of 16 bits are finite, without a branch for each.
pub(super) fn finite_bits(element: Element, bits: &[u16]) -> bool {
    let exponent = if element == Element::F16 { 0x7c00 } else { 0x7f80 };
    bits.iter().fold(true, |all, x| all & (x & exponent != exponent))
}

/// Whether numbers of a type are transposed from their 16 bits, without a widened copy in between.
pub(super) fn directly(element: Element) -> bool {
    element == Element::Bf16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_seen_in_every_pattern_of_16_bits() {
        for bits in 0..=u16::MAX {
            let (f16, bf16) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            assert_eq!(finite_bits(Element::F16, &[0, bits]), f16.is_finite(), "{bits:#06x}");
            assert_eq!(finite_bits(Element::Bf16, &[bits, 0]), bf16.is_finite(), "{bits:#06x}");
        }
    }

    #[test]
    fn every_element_of_every_shape_finds_its_place() {
        for (rows, columns) in [(1, 1), (1, 70), (70, 1), (16, 32), (17, 33), (31, 64), (128, 40), (5, 7)] {
            let band: Vec<u16> = (0..rows * columns).map(|i| i as u16).collect();
            let stride = rows + 3;
            let mut out = vec![-1.0; columns * stride];
            transpose(&band, columns, &mut out, stride, f32::from);
            for (c, r) in (0..columns).flat_map(|c| (0..stride).map(move |r| (c, r))) {
                let wanted = if r < rows { (r * columns + c) as f32 } else { -1.0 };
                assert_eq!(out[c * stride + r], wanted, "{rows} x {columns} at {r}, {c}");
            }
        }
    }

    #[test]
    fn bands_have_whole_blocks() {
        for columns in [1, 31, 2048, 4096, 14336, 1 << 20] {
            let rows = band_rows(columns);
            assert!((ROWS..=BAND).contains(&rows) && rows.is_multiple_of(ROWS), "{columns}: {rows}");
        }
    }
}
