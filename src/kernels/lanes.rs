//! What the kernels share that treat one row a workgroup, or one element of four numbers a thread.

use crate::gpu::{Gpu, Kernel, Tier};

/// A row kernel in the form for rows of whole `vec4`s and in the form for any length.
#[derive(Clone, Copy, Debug)]
pub struct LaneKernels {
    /// For lengths that are a multiple of 4: vec4 loads run twice as fast on software adapters.
    pub vec4: &'static Kernel,
    /// For every other length.
    pub scalar: &'static Kernel,
}

impl LaneKernels {
    /// The kernel for rows of `length` numbers, and the row's length in the kernel's elements.
    pub fn of(self, length: usize) -> (&'static Kernel, usize) {
        if length.is_multiple_of(4) { (self.vec4, length / 4) } else { (self.scalar, length) }
    }
}

/// Threads of a workgroup that treats one row: a single subgroup on software adapters, where what the row's threads
/// share is then loaded once; 64 elsewhere. `row_sum` of `lib/row_sum_*.wgsl` needs this number.
pub fn row_threads(gpu: &Gpu) -> u32 {
    if gpu.tier() == Tier::Subgroup { gpu.adapter().subgroup_size.0 } else { 64 }
}
