//! The op trait.

use super::Array;
use super::backward::Backward;
use crate::error::Result;
use crate::tensor::Tensor;

/// What an op's forward gives.
pub struct Forward {
    /// The result.
    pub output: Tensor,
    /// What backward needs besides inputs and output.
    pub saved: Vec<Tensor>,
}

impl From<Tensor> for Forward {
    fn from(output: Tensor) -> Self {
        Forward { output, saved: Vec::new() }
    }
}

/// The inputs, and whether the output, that an op's backward reads; shapes can always be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// A bit for each input.
    inputs: u32,
    output: bool,
}

impl Reads {
    /// Everything.
    pub const ALL: Reads = Reads { inputs: u32::MAX, output: true };
    /// Nothing but the gradient of the output, and what forward saved.
    pub const NONE: Reads = Reads { inputs: 0, output: false };
    /// The output alone.
    pub const OUTPUT: Reads = Reads { inputs: 0, output: true };

    /// These inputs, of the first 32.
    pub const fn inputs<const N: usize>(inputs: [usize; N]) -> Reads {
        let (mut bits, mut i) = (0, 0);
        while i < N {
            bits |= 1 << inputs[i];
            i += 1;
        }
        Reads { inputs: bits, output: false }
    }

    /// These and the output.
    pub const fn and_output(self) -> Reads {
        Reads { output: true, ..self }
    }

    /// Whether input `i` is read.
    pub fn input(self, i: usize) -> bool {
        self.inputs == u32::MAX || (i < 32 && self.inputs >> i & 1 == 1)
    }

    /// Whether the output is read.
    pub fn output(self) -> bool {
        self.output
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

    /// What backward reads of inputs and output. What it does not is freed as soon as the forward is done with it.
    fn reads(&self) -> Reads {
        Reads::ALL
    }

    /// The forward in f64 on the CPU.
    fn reference(&self, inputs: &[Array]) -> Array;
}
