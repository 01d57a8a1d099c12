//! SD-MoE on the device against dense f64 projectors and full SVDs, and the invariants that METHOD §3 to §5 promise.

mod gradients;
mod rig;
mod similarity;
mod state;
mod steps;
