//! Bounds of settings, and the errors that name them.

use crate::error::{Error, Result};

pub(super) fn require(ok: bool, field: &str, message: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(field, message())) }
}

/// Checks that `value` lies within `least` and `most`. The upper bounds lie above what any published model has, and so low that
/// no product of sizes leaves 64 bits: 2^12 layers of 2^10 experts of 2^16 x 2^17 elements are 2^55.
pub(super) fn within(field: &str, value: u64, least: u64, most: u64) -> Result<()> {
    require(value >= least, field, || format!("expected at least {least}, got {value}"))?;
    require(value <= most, field, || format!("expected at most {most}, got {value}"))
}

/// Checks that `value` is a number of at least 0 and at most `most`.
pub(super) fn weight(field: &str, value: f32, most: f32) -> Result<()> {
    require((0.0..=most).contains(&value), field, || {
        format!("expected a number >= 0 and at most {}, got {value}", f64::from(most))
    })
}

/// The widest embedding, hidden layer and so on; see [`within`].
pub(super) const MAX_WIDTH: u64 = 1 << 16;
/// The widest hidden layer of an expert.
pub(super) const MAX_HIDDEN: u64 = 1 << 17;

/// The most steps of a run, and of everything that is counted in steps: at a thousand steps a second it takes 30 years.
pub(crate) const MAX_STEPS: u64 = 1_000_000_000_000;
