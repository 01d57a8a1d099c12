//! Layers and the model they make.

pub mod attention;
pub mod config;
pub mod model;
pub mod moe;
pub mod params;
pub mod pass;
pub mod sample;
pub(crate) mod size;
