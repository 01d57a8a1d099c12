//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

mod add;
mod attention;
mod combine;
mod combine_weights;
mod cross_entropy;
pub mod elementwise;
mod embedding;
mod expert_matmul;
mod gather;
mod load_balance;
mod matmul;
mod permute;
mod rms_norm;
mod rope;
mod router_scores;
mod sigmoid_gate;
mod swiglu;
mod targets;
mod z_loss;

pub use add::Add;
pub use attention::Attention;
pub use combine::Combine;
pub use combine_weights::CombineWeights;
pub use cross_entropy::CrossEntropy;
pub use elementwise::Elementwise;
pub use embedding::Embedding;
pub use expert_matmul::ExpertMatMul;
pub use load_balance::LoadBalance;
pub use matmul::MatMul;
pub use permute::Permute;
pub use rms_norm::RmsNorm;
pub use rope::Rope;
pub use router_scores::{RouterScores, Score};
pub use sigmoid_gate::SigmoidGate;
pub use swiglu::SwiGlu;
pub use z_loss::ZLoss;

use crate::kernels::Variant;

/// Every kernel of the ops, in every variant.
pub fn kernels() -> Vec<Variant> {
    [
        add::kernels(),
        attention::kernels(),
        combine::kernels(),
        combine_weights::kernels(),
        embedding::kernels(),
        load_balance::kernels(),
        permute::kernels(),
        rms_norm::kernels(),
        rope::kernels(),
        router_scores::kernels(),
        sigmoid_gate::kernels(),
        swiglu::kernels(),
        z_loss::kernels(),
    ]
    .concat()
}
