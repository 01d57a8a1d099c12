//! Every kernel of the project in every variant: what `tests/shaders.rs` validates and translates without a GPU.

use crate::kernels::Variant;
use crate::kernels::{elementwise, gemm_table};

/// All kernels. A module that adds one adds its list here.
pub fn kernels() -> Vec<Variant> {
    [elementwise::kernels(), gemm_table::kernels()].concat()
}
