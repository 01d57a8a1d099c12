//! Launches that several ops share, and the list of all kernels.

pub mod elementwise;
pub mod gemm;
pub mod gemm_table;
pub mod grouped;
pub mod spectral;
mod spectral_place;
pub mod spectral_update;
pub mod token_space;
mod window;

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
    let kernels: [&'static Kernel; 2] = [&elementwise::AXPBY, &elementwise::FILL];
    let mut all: Vec<Variant> = kernels.into_iter().map(Variant::from).collect();
    all.extend(gemm_table::kernels());
    all.extend(crate::linalg::kernels());
    all.extend(spectral::kernels());
    all.extend(token_space::kernels());
    all.extend(spectral_update::kernels());
    all.extend(crate::optim::adamw::kernels());
    all.extend(crate::optim::clip::kernels());
    all
}
