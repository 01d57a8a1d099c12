//! Stored numbers as f32: f32 as they are, f16 and bf16 widened, which loses nothing.

use std::io;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use safetensors::Dtype;

/// A type of elements that can be read as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// The element type of a tensor, where it can be read.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Element::F32),
            Dtype::F16 => Some(Element::F16),
            Dtype::BF16 => Some(Element::Bf16),
            _ => None,
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        if self == Element::F32 { 4 } else { 2 }
    }
}

/// Widens, with a buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct Widener {
    raw: Vec<u16>,
}

impl Widener {
    /// Fills `out` with what `fill` gives as little-endian bytes, and says whether all of it is finite.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn widen(
        &mut self,
        element: Element,
        out: &mut [f32],
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        // The bytes are used as they lie: every machine with a driver that this crate can use is little-endian.
        if element == Element::F32 {
            fill(bytemuck::cast_slice_mut(out))?;
            return Ok(finite(out));
        }
        self.raw.resize(self.raw.len().max(out.len()), 0);
        let raw = &mut self.raw[..out.len()];
        fill(bytemuck::cast_slice_mut(raw))?;
        if element == Element::F16 {
            raw.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        } else {
            // bf16 is the upper half of f32.
            out.iter_mut().zip(raw).for_each(|(x, bits)| *x = f32::from_bits(u32::from(*bits) << 16));
        }
        Ok(finite(out))
    }
}

/// Whether all are finite, without a branch for each.
fn finite(values: &[f32]) -> bool {
    values.iter().fold(true, |all, x| all & x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pattern of 16 bits, against the definition of the formats.
    #[test]
    fn all_patterns_of_16_bits_are_widened_exactly() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        for (element, exponent, mantissa) in [(Element::F16, 5, 10), (Element::Bf16, 8, 7)] {
            let mut out = vec![0.0; bits.len()];
            let fill = |bytes: &mut [u8]| {
                bytes.copy_from_slice(bytemuck::cast_slice(&bits));
                Ok(())
            };
            assert!(!Widener::default().widen(element, &mut out, fill).unwrap());
            for (&bits, &got) in bits.iter().zip(&out) {
                let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
                let e = i32::from(bits >> mantissa & ((1 << exponent) - 1));
                let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
                let bias = (1 << (exponent - 1)) - 1;
                let wanted = match e {
                    0 => sign * fraction * 2f64.powi(1 - bias),
                    _ if e == (1 << exponent) - 1 => sign * if fraction == 0.0 { f64::INFINITY } else { f64::NAN },
                    _ => sign * (1.0 + fraction) * 2f64.powi(e - bias),
                };
                let same = if wanted.is_nan() { got.is_nan() } else { got.to_bits() == (wanted as f32).to_bits() };
                assert!(same, "{element:?} {bits:#06x}: expected {wanted}, got {got}");
            }
        }
    }

    #[test]
    fn the_buffer_is_used_again_and_what_is_not_finite_is_seen() {
        let mut widener = Widener::default();
        for (raw, finite) in [(vec![0x3f80u16; 5], true), (vec![0x7f7f; 2], true), (vec![0, 0xff80, 0], false)] {
            let mut out = vec![0.0; raw.len()];
            let fill = |bytes: &mut [u8]| {
                bytes.copy_from_slice(bytemuck::cast_slice(&raw));
                Ok(())
            };
            assert_eq!(widener.widen(Element::Bf16, &mut out, fill).unwrap(), finite, "{raw:x?}");
        }
        assert_eq!(widener.raw.len(), 5);
        let nan = |bytes: &mut [u8]| {
            bytes.copy_from_slice(bytemuck::cast_slice(&[1.0, f32::NAN]));
            Ok(())
        };
        assert!(!widener.widen(Element::F32, &mut [0.0; 2], nan).unwrap());
    }
}
