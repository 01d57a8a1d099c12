//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

mod add;
mod attention;
mod bias;
mod clamp;
mod combine;
mod combine_weights;
mod concat;
mod cross_entropy;
pub mod elementwise;
mod embedding;
mod expert_matmul;
mod gather;
mod load_balance;
mod matmul;
mod multiply;
mod permute;
mod repeat_rows;
mod reshape;
mod rms_norm;
mod rope;
mod router_scores;
mod scale;
mod sigmoid_gate;
mod slice;
mod swiglu;
mod targets;
mod z_loss;

pub use add::Add;
pub use attention::{Attention, CachedAttention};
pub use bias::Bias;
pub use clamp::Clamp;
pub use combine::Combine;
pub use combine_weights::CombineWeights;
pub use concat::Concat;
pub use cross_entropy::CrossEntropy;
pub use elementwise::Elementwise;
pub use embedding::{Embedding, WideEmbedding};
pub use expert_matmul::ExpertMatMul;
pub use load_balance::LoadBalance;
pub use matmul::MatMul;
pub use multiply::Multiply;
pub use permute::Permute;
pub use repeat_rows::RepeatRows;
pub use reshape::Reshape;
pub use rms_norm::RmsNorm;
pub use rope::{Pairing, Rope, RotaryTable, Yarn};
pub use router_scores::{RouterScores, Score};
pub use scale::Scale;
pub use sigmoid_gate::SigmoidGate;
pub use slice::Slice;
pub use swiglu::SwiGlu;
pub use z_loss::ZLoss;

use crate::kernels::Variant;

/// Every kernel of the ops, in every variant.
pub fn kernels() -> Vec<Variant> {
    [
        add::kernels(),
        attention::kernels(),
        bias::kernels(),
        clamp::kernels(),
        combine::kernels(),
        combine_weights::kernels(),
        embedding::kernels(),
        load_balance::kernels(),
        multiply::kernels(),
        permute::kernels(),
        repeat_rows::kernels(),
        rms_norm::kernels(),
        rope::kernels(),
        router_scores::kernels(),
        sigmoid_gate::kernels(),
        swiglu::kernels(),
        z_loss::kernels(),
    ]
    .concat()
}
