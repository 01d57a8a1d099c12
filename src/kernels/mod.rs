//! Launches that several ops share.

pub(crate) mod attention;
pub mod chunks;
pub mod column_sum;
pub mod columns;
pub mod cuts;
pub(crate) mod decoupled;
pub mod elementwise;
pub mod expert_sums;
pub mod gemm;
pub mod gemm_table;
pub mod grouped;
pub mod loss;
pub mod matrix_shapes;
mod matrix_units;
pub mod octs;
mod product;
pub mod routing;
pub mod routing_groups;
pub mod rows;
pub mod shapes;
pub mod software;
pub mod spectral;
pub mod spectral_blocks;
pub mod spectral_momentum;
pub mod spectral_shared;
pub mod spectral_update;
mod stack_parts;
pub(crate) mod stretch;
pub mod token_space;
pub(crate) mod window;

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
