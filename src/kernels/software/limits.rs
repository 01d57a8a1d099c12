//! The bounds of loops: llvmpipe leaves every loop of an invocation, without an error, after so many iterations. It does so with
//! every kernel, those for GPUs included, so each launch whose loops grow with the sizes keeps to it.

use crate::gpu::Gpu;

/// Iterations that an invocation may make in all its loops together; without a limit on other drivers.
pub fn iterations(gpu: &Gpu) -> usize {
    gpu.adapter().loop_limit()
}

/// Steps of K of a product in one launch: no fragment makes more than an iteration a step.
pub(in crate::low_level::kernels) fn steps(gpu: &Gpu) -> usize {
    // A multiple of the rows of every tile.
    iterations(gpu) / 2 / 64 * 64
}

/// Rows of one launch of a weight gradient: a thread goes through them for each tile of its block, in fours.
pub(in crate::low_level::kernels) fn gradient_rows(gpu: &Gpu) -> usize {
    steps(gpu) / 2
}
