//! The weight-only analysis on matrices whose singular values and subspaces are known by construction.

#[path = "../common/mod.rs"]
mod common;

mod parts;
mod rig;
mod subspaces;
