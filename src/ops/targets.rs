//! Gradient targets for kernels that write the gradients of two inputs at once.

use crate::autograd::Backward;
use crate::error::Result;
use crate::gpu::BufferSlice;
use crate::tensor::Tensor;

/// Where one launch writes the gradients of two inputs, with the factors (0 or 1) on what is there.
pub(super) struct TargetPair {
    pub(super) first: (Tensor, f32),
    pub(super) second: (Tensor, f32),
    /// The second input, if its gradient still has to be added.
    late: Option<usize>,
}

impl TargetPair {
    /// The targets of inputs `i` and `j`; temporaries where no gradient is wanted. Where both are one value, as in
    /// `swiglu(x, x)`, one target cannot take both: the second gradient is added by [`TargetPair::finish`].
    pub(super) fn new(pass: &mut Backward<'_>, i: usize, j: usize) -> Result<Self> {
        let [a, b] = [i, j].map(|input| BufferSlice::from(&pass.input(input)).buffer.id());
        let late = (a == b && pass.needs(j)).then_some(j);
        let first = target_or_temporary(pass, i, pass.needs(i))?;
        let second = target_or_temporary(pass, j, pass.needs(j) && late.is_none())?;
        Ok(Self { first, second, late })
    }

    /// To be called once both are written.
    pub(super) fn finish(self, pass: &mut Backward<'_>) -> Result<()> {
        self.late.map_or(Ok(()), |input| pass.add(input, self.second.0))
    }
}

fn target_or_temporary(pass: &mut Backward<'_>, i: usize, wanted: bool) -> Result<(Tensor, f32)> {
    if wanted {
        return pass.target(i);
    }
    let input = pass.input(i);
    Ok((Tensor::empty(input.gpu(), input.shape(), input.dtype())?, 0.0))
}
