//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

mod expert_matmul;
mod matmul;

pub use expert_matmul::ExpertMatMul;
pub use matmul::MatMul;
