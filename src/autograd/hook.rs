//! Hooks of parameters' gradients.

use crate::error::Result;
use crate::kernels::grouped::Groups;
use crate::tensor::Tensor;

/// Changes the gradient of a parameter before it is made, from outside of the model: [`Tape::hook`](super::Tape::hook) registers it.
///
/// An op whose weight gradient is a product `x^T dy` asks for it with [`Backward::hook`](super::Backward::hook); other ops do not.
pub trait GradientHook {
    /// Records what takes the places of the rows `x: [R, m]` and `dy: [R, n]`, which are grouped as `groups` says. `beta` is 0
    /// where the gradient that they make replaces what is there, 1 where it is added.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the sizes are not those that the hook was made for; [`crate::Error::Device`].
    fn factors(&self, x: &Tensor, dy: &Tensor, groups: &Groups, beta: f32) -> Result<(Tensor, Tensor)>;
}
