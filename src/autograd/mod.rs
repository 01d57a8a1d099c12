//! Reverse-mode differentiation: an append-only [`Tape`] of [`Op`]s.
//!
//! A [`Var`] is an index; nodes are in topological order as they are pushed; [`Tape::backward`] is one reverse loop that
//! frees each value as soon as nobody reads it any more, and makes it again in backward where that was asked for. An op's f64
//! [`Op::reference`] serves twice: the GPU forward is compared with it, and the GPU backward with its central differences
//! ([`check`]).

mod array;
mod backward;
pub mod check;
mod hook;
mod op;
mod reads;
mod tape;
mod value;

pub use array::Array;
pub use backward::{Backward, Gradients};
pub use hook::GradientHook;
pub use op::{Forward, Op};
pub use reads::Reads;
pub use tape::Tape;
pub use value::Var;
