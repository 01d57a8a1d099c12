//! Mixture-of-Experts training with spectral decoupling (SD-MoE) on any GPU, through wgpu.

pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod error;
pub mod nn;
pub mod optim;
pub mod train;

pub use error::{Error, Result};
