//! The shapes of kernels on one device, where they are not the table's: those that were measured to be the fastest, kept in a file
//! for each adapter, and one that a test or a measurement forces.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::lock;

/// A product that was measured, and what was the fastest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The form's name, see [`crate::kernels::shapes::Form`].
    pub form: String,
    /// Rows of C; of all experts together where they are grouped.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of a sum; of all experts together in a gradient.
    pub k: usize,
    /// Matrices, or experts.
    pub batch: usize,
    /// Whether A and B are f16, and the device has matrix units for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub f16: bool,
    /// The shape, as [`crate::kernels::cuts::name`] has it.
    pub shape: String,
    /// Parts of the sums over K.
    pub splits: usize,
    /// Microseconds on the device, the fastest run.
    pub microseconds: f64,
}

/// A measured product, by numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) measured: Measured,
    /// The index of its shape.
    pub(crate) shape: usize,
}

/// The measurements of a device.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// None where nothing was.
    measured: Option<Vec<Measured>>,
    resolved: OnceLock<Vec<Resolved>>,
}

impl Known {
    /// The products that were measured, those whose shape `index` knows.
    pub(crate) fn products(&self, index: impl Fn(&str) -> Option<usize>) -> &[Resolved] {
        self.resolved.get_or_init(|| {
            let resolve = |measured: &Measured| {
                index(&measured.shape).map(|shape| Resolved { measured: measured.clone(), shape })
            };
            self.measured.iter().flatten().filter_map(resolve).collect()
        })
    }

    #[cfg(feature = "bench")]
    pub(super) fn is_measured(&self, f16: bool) -> bool {
        self.measured.as_ref().is_some_and(|all| !f16 || all.iter().any(|one| one.f16))
    }
}

/// The choices of shapes that belong to a device.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// One more than the index of the shape that all products run in, where one is forced, and the parts of their sums.
    forced: AtomicU64,
    known: Mutex<Arc<Known>>,
}

impl Shapes {
    /// With what was measured on this adapter.
    #[cfg(feature = "files")]
    pub(super) fn new(measured: Option<Vec<Measured>>) -> Self {
        let shapes = Shapes::default();
        shapes.set(measured);
        shapes
    }

    /// Has what was measured chosen from now on.
    #[cfg(feature = "files")]
    pub(super) fn set(&self, measured: Option<Vec<Measured>>) {
        *lock(&self.known) = Arc::new(Known { measured, resolved: OnceLock::new() });
    }

    pub(super) fn force(&self, shape: Option<(u32, u32)>) {
        let packed = shape.map_or(0, |(index, splits)| u64::from(index + 1) << 32 | u64::from(splits));
        self.forced.store(packed, Ordering::Relaxed);
    }

    /// The index of the shape that is forced, and the parts of the sums.
    pub(crate) fn forced(&self) -> Option<(usize, usize)> {
        let packed = self.forced.load(Ordering::Relaxed);
        ((packed >> 32) as usize).checked_sub(1).map(|index| (index, packed as u32 as usize))
    }

    /// The measurements.
    pub(crate) fn known(&self) -> Arc<Known> {
        lock(&self.known).clone()
    }
}
