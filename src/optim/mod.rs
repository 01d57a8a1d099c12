//! What turns gradients into new parameters.

pub mod config;
pub mod schedule;
