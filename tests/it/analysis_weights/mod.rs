//! The weight-only analysis on matrices whose singular values and subspaces are known by construction.

mod parts;
mod rig;
mod subspaces;
