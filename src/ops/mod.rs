//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

mod expert_matmul;
mod matmul;

pub use expert_matmul::ExpertMatMul;
pub use matmul::MatMul;
pub mod add;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod rms_norm;
pub mod rope;

pub use add::Add;
pub use attention::Attention;
pub use cross_entropy::CrossEntropy;
pub use embedding::Embedding;
pub use rms_norm::RmsNorm;
pub use rope::Rope;

use crate::kernels::Variant;

/// Every kernel of the ops, in every variant.
pub fn kernels() -> Vec<Variant> {
    [add::kernels(), attention::kernels(), embedding::kernels(), rms_norm::kernels(), rope::kernels()].concat()
}
