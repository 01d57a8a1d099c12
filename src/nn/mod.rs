//! Layers and the model they make.

pub mod config;
pub mod params;
pub mod sample;
pub mod spectral;
