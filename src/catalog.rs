//! Every kernel of the project in every variant: what `tests/it/shaders.rs` validates and translates without a GPU.

use crate::kernels::{
    Variant, chunks, column_sum, columns, elementwise, expert_sums, gemm_table, loss, routing, routing_groups,
    software, spectral, spectral_blocks, spectral_momentum, spectral_shared, spectral_update, token_space,
};
use crate::optim::{adamw, clip, muon};
use crate::{linalg, ops};

/// All kernels. A module that adds one adds its list here.
pub fn kernels() -> Vec<Variant> {
    [
        elementwise::kernels(),
        column_sum::kernels(),
        columns::kernels(),
        chunks::kernels(),
        gemm_table::kernels(),
        loss::kernels(),
        routing::kernels(),
        routing_groups::kernels(),
        ops::kernels(),
        linalg::kernels(),
        #[cfg(feature = "analysis")]
        crate::analysis::jacobian::kernels(),
        expert_sums::kernels(),
        spectral::kernels(),
        spectral_blocks::kernels(),
        software::spectral_rows::kernels(),
        spectral_momentum::kernels(),
        spectral_shared::kernels(),
        spectral_update::kernels(),
        token_space::kernels(),
        adamw::kernels(),
        clip::kernels(),
        muon::kernels(),
    ]
    .concat()
}
