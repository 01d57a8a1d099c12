//! How far the driver is with compiling: what the recorder counts, and what
//! [`Gpu::compilation`](super::Gpu::compilation) and the warm-up read.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// How far the kernels of a step are compiled: `12 of 31 kernels`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compiling {
    /// Kernels that the device has run once, so that they are compiled whatever the driver does when.
    pub done: u64,
    /// Kernels that the step needs and that no step before has run.
    pub total: u64,
}

impl fmt::Display for Compiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} kernels", self.done, self.total)
    }
}

/// New pipelines that a submission has at most on software drivers: llvmpipe compiles at the first dispatch, so
/// a submission of many is seen to be done only after all of them.
pub(super) const NEW_PIPELINES: u64 = 4;

/// How far the driver is with the pipelines that were asked for.
#[derive(Debug, Default)]
pub(super) struct Compilation {
    pub(super) begun: AtomicU64,
    pub(super) done: AtomicU64,
    /// Held while work is submitted. Mesa 22.3 compiles within that call, and whoever asked the device how far it is
    /// would wait for the end of it.
    pub(super) submitting: Mutex<()>,
}
