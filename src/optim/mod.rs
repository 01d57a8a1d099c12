//! The optimizer: AdamW over flat groups, clipping by the global norm, the spectral step of decoupled experts.

pub mod adamw;
pub mod clip;

pub use adamw::AdamConfig;
