//! Flat arrays cut into threads, as lib/stretch.wgsl has it.

use super::software::subgroup;
use crate::gpu::{Gpu, Kernel, Launch};

/// The constants of a variant for software adapters, for a module's list of kernels.
pub(crate) const VARIANT: [(&str, f64); 3] = [("WG", 8.0), ("ITEMS", 128.0), ("STRETCHES", 1.0)];

/// Threads of a workgroup, and whether a thread's elements are neighbours: by the cost of a workgroup (0.2 microseconds on
/// llvmpipe) and of a cache miss on software adapters, by coalescing on GPUs.
pub(crate) fn geometry(gpu: &Gpu) -> (u32, bool) {
    subgroup::threads(gpu).map_or((64, false), |threads| (threads, true))
}

/// A launch of `kernel` over `count` elements.
pub(crate) fn launch<'a>(gpu: &Gpu, kernel: &'static Kernel, count: usize) -> Launch<'a> {
    launch_of(gpu, kernel, if geometry(gpu).1 { 128 } else { 1 }, count)
}

/// A launch of `kernel` over `count` elements, with `items` elements for each thread.
pub(crate) fn launch_of<'a>(gpu: &Gpu, kernel: &'static Kernel, items: u32, count: usize) -> Launch<'a> {
    let (threads, stretches) = geometry(gpu);
    Launch::new(kernel)
        .constant("WG", threads)
        .constant("ITEMS", items)
        .constant("STRETCHES", u32::from(stretches))
        .threads(count, threads * items)
}
