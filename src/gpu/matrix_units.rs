//! Whether a device's matrix units are used: not before products on them were found to be right.

use std::sync::atomic::{AtomicU8, Ordering};

/// The matrix units of a device.
#[derive(Debug)]
pub(crate) struct MatrixUnits {
    /// Rows and columns of their blocks, where the device has such.
    block: Option<u32>,
    state: AtomicU8,
}

const UNCHECKED: u8 = 0;
const RIGHT: u8 = 1;
const WRONG: u8 = 2;

impl MatrixUnits {
    pub(super) fn new(block: Option<u32>) -> Self {
        MatrixUnits { block, state: AtomicU8::new(UNCHECKED) }
    }

    /// Rows and columns of their blocks, where they are used.
    pub(super) fn in_use(&self) -> Option<u32> {
        self.block.filter(|_| self.state.load(Ordering::Relaxed) == RIGHT)
    }

    /// Whether there are some, and nothing is known of their products.
    pub(crate) fn unchecked(&self) -> bool {
        self.block.is_some() && self.state.load(Ordering::Relaxed) == UNCHECKED
    }

    /// Has them used from now on, or not.
    pub(crate) fn set(&self, right: bool) {
        self.state.store(if right { RIGHT } else { WRONG }, Ordering::Relaxed);
    }
}
