//! How far the driver is with compiling: what the recorder counts, and what
//! [`Gpu::compilation`](super::Gpu::compilation) and the warm-up read.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

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
