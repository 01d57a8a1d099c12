//! Mixture-of-Experts training with spectral decoupling (SD-MoE) on any GPU, through wgpu.

pub mod autograd;
pub mod error;
pub mod gpu;
pub mod kernels;
pub mod linalg;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod tensor;

pub use error::{Error, Result};
