//! The values on a tape, and where the gradients of parameters go.

use std::rc::Rc;

use super::hook::GradientHook;
use crate::tensor::{DType, Shape, Tensor};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub(super) usize);

/// The part of a value that a tape keeps.
pub(super) struct Value {
    /// None once it is freed.
    pub(super) tensor: Option<Tensor>,
    pub(super) shape: Shape,
    pub(super) dtype: DType,
    pub(super) needs_gradient: bool,
    /// How often backward will read the value: by the ops that it went into, by its own, to make others again.
    pub(super) readers: usize,
    /// Whether the forward is done with it.
    pub(super) released: bool,
    /// Where the gradient of a parameter goes.
    pub(super) target: Option<Target>,
}

/// Where the gradient of a parameter goes.
pub(super) struct Target {
    pub(super) gradient: Tensor,
    /// Whether the gradient is added to what is there.
    pub(super) written: bool,
    /// The hook that was registered for it.
    pub(super) hook: Option<Rc<dyn GradientHook>>,
}
