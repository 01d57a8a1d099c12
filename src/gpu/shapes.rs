//! The shapes of kernels on one device, where they are not the table's.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is kept with a device.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// One more than the index of the shape that all products run in, where one is forced, and the parts of their sums.
    forced: AtomicU64,
}

impl Shapes {
    pub(super) fn force(&self, shape: Option<(u32, u32)>) {
        let packed = shape.map_or(0, |(index, splits)| u64::from(index + 1) << 32 | u64::from(splits));
        self.forced.store(packed, Ordering::Relaxed);
    }

    /// The index of the shape that is forced, and the parts of the sums.
    pub(crate) fn forced(&self) -> Option<(usize, usize)> {
        let packed = self.forced.load(Ordering::Relaxed);
        ((packed >> 32) as usize).checked_sub(1).map(|index| (index, packed as u32 as usize))
    }
}
