//! Layers and the model they make.

pub mod config;
pub mod sample;
