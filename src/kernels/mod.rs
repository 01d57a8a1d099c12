//! Launches that several ops share.

pub mod column_sum;
pub mod column_sums;
pub mod elementwise;
pub mod gemm;
pub mod gemm_table;
pub mod grouped;
mod window;
pub mod loss;
pub mod routing;
pub mod rows;

use crate::gpu::Kernel;

/// A kernel with the override constants of one of its variants.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// The constants, as its launch sets them.
    pub constants: Vec<(&'static str, f64)>,
}

impl From<&'static Kernel> for Variant {
    fn from(kernel: &'static Kernel) -> Self {
        Variant { kernel, constants: Vec::new() }
    }
}

/// Every kernel of the project in every variant: what `tests/shaders.rs` validates and translates without a GPU.
pub fn all() -> Vec<Variant> {
    let kernels: [&'static Kernel; 3] = [&elementwise::AXPBY, &elementwise::FILL, &gemm::GEMM_PLAIN];
    let mut all: Vec<Variant> = kernels.into_iter().map(Variant::from).collect();
    all.extend([column_sum::kernels(), loss::kernels()].concat());
    all
    kernels.into_iter().map(Variant::from).chain(crate::linalg::kernels()).collect()
    all.extend(routing::kernels());
    all.push((&column_sums::COLUMN_SUMS).into());
    all
}
