//! Reverse-mode differentiation: an append-only [`Tape`] of [`Op`]s.
//!
//! A [`Var`] is an index; nodes are in topological order as they are pushed; [`Tape::backward`] is one reverse loop that
//! frees each node's saved tensors as soon as they are used. An op's f64 [`Op::reference`] serves twice: the GPU forward
//! is compared with it, and the GPU backward with its central differences ([`check`]).

mod array;
pub mod check;
mod tape;

pub use array::Array;
pub use tape::{Backward, Forward, Gradients, Op, Tape, Var};
