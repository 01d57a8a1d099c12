//! Mixture-of-Experts training with spectral decoupling (SD-MoE) on any GPU, through wgpu.

pub mod error;
pub mod nn;

pub use error::{Error, Result};
