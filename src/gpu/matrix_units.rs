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
/// Products are being tried: kernels take them, and nobody is told yet that they do.
const TRIED: u8 = 1;
const RIGHT: u8 = 2;
const WRONG: u8 = 3;

impl MatrixUnits {
    pub(super) fn new(block: Option<u32>) -> Self {
        MatrixUnits { block, state: AtomicU8::new(UNCHECKED) }
    }

    /// Rows and columns of their blocks, where kernels take them.
    pub(super) fn in_use(&self) -> Option<u32> {
        self.block.filter(|_| [TRIED, RIGHT].contains(&self.state.load(Ordering::Relaxed)))
    }

    /// Whether they are there and their products right.
    pub(super) fn right(&self) -> bool {
        self.block.is_some() && self.state.load(Ordering::Relaxed) == RIGHT
    }

    /// Begins to try products on them; none where there are no units, or they were tried before.
    pub(crate) fn trial(&self) -> Option<Trial<'_>> {
        let began = || self.state.compare_exchange(UNCHECKED, TRIED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        (self.block.is_some() && began()).then_some(Trial { units: self, verdict: UNCHECKED })
    }

    /// Has them used, whatever their products are.
    #[cfg(feature = "verify")]
    pub(crate) fn use_untried(&self) {
        self.state.store(RIGHT, Ordering::Relaxed);
    }
}

/// A trial of products; one that ends without a verdict is as none.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    units: &'a MatrixUnits,
    verdict: u8,
}

impl Trial<'_> {
    /// Ends it: the units are used from now on, or not.
    pub(crate) fn end(mut self, right: bool) {
        self.verdict = if right { RIGHT } else { WRONG };
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.units.state.store(self.verdict, Ordering::Relaxed);
    }
}
