//! Layers and the model they make.

mod attention;
pub mod config;
pub mod families;
pub mod model;
pub mod moe;
pub mod params;
pub mod pass;
pub(crate) mod sample;
pub(crate) mod size;
