//! Differentiable operations, one a file: equation, launch, backward, f64 reference.

pub mod combine;
pub mod combine_weights;
pub mod load_balance;
pub mod permute;
pub mod router_scores;
pub mod sigmoid_gate;
pub mod swiglu;
mod targets;
pub mod z_loss;

pub use combine::Combine;
pub use combine_weights::CombineWeights;
pub use load_balance::LoadBalance;
pub use permute::Permute;
pub use router_scores::RouterScores;
pub use sigmoid_gate::SigmoidGate;
pub use swiglu::SwiGlu;
pub use z_loss::ZLoss;
