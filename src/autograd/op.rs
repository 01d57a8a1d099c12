//! The op trait.

use std::rc::Rc;

use super::Array;
use super::backward::Backward;
use super::reads::Reads;
use crate::error::Result;
use crate::tensor::Tensor;

/// The results of an op's forward.
pub struct Forward {
    /// The result.
    pub output: Tensor,
    /// The tensors that backward needs besides inputs and output.
    pub saved: Vec<Tensor>,
}

impl From<Tensor> for Forward {
    fn from(output: Tensor) -> Self {
        Forward { output, saved: Vec::new() }
    }
}

/// A differentiable operation with one output.
///
/// Inputs of type u32 are indices and never differentiated; whatever else is discrete or frozen (chosen experts, spectral
/// bases) is an input that the caller puts on the tape with [`Tape::constant`](super::Tape::constant).
pub trait Op {
    /// The name in errors.
    fn name(&self) -> &'static str;

    /// Checks the shapes and records the forward kernels.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] when the inputs do not fit each other; [`crate::Error::Device`].
    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward>;

    /// Records the backward kernels: for each input that [`Backward::needs`] a gradient, either writes it into
    /// [`Backward::target`] or hands a tensor to [`Backward::add`].
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()>;

    /// The inputs and outputs that backward reads. What it does not read is freed as soon as the forward is done with it.
    fn reads(&self) -> Reads {
        Reads::ALL
    }

    /// The forward in f64 on the CPU.
    fn reference(&self, inputs: &[Array]) -> Array;
}

/// An op that is also used elsewhere.
impl<T: Op + ?Sized> Op for Rc<T> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        (**self).forward(inputs)
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        (**self).backward(pass)
    }

    fn reads(&self) -> Reads {
        (**self).reads()
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        (**self).reference(inputs)
    }
}
