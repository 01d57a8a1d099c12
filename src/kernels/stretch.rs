//! Flat arrays cut into threads, as lib/stretch.wgsl has it.

use crate::gpu::{Gpu, Kernel, Launch, Tier};

/// The constants of a variant for software adapters, for a module's list of kernels.
pub(crate) const VARIANT: [(&str, f64); 3] = [("WG", 8.0), ("ITEMS", 128.0), ("STRETCHES", 1.0)];

/// A launch of `kernel` over `count` elements. Threads, elements of a thread, and whether these are neighbours follow from
/// the cost of a workgroup (0.2 microseconds on llvmpipe) and of a cache miss on software adapters, from coalescing on GPUs.
pub(crate) fn launch<'a>(gpu: &Gpu, kernel: &'static Kernel, count: usize) -> Launch<'a> {
    let (threads, items, stretches) = match gpu.tier() {
        Tier::Subgroup => (gpu.adapter().subgroup_size.0, 128, 1),
        Tier::Workgroup | Tier::Plain => (64, 1, 0),
    };
    Launch::new(kernel)
        .constant("WG", threads)
        .constant("ITEMS", items)
        .constant("STRETCHES", stretches)
        .threads(count, threads * items)
}
