//! The operands of the kernels of decoupled matrices: bases, products with them, the common part as factors, and AdamW's numbers.

use crate::error::{Error, Result};
use crate::kernels::stack_parts::StackPart;
use crate::tensor::Tensor;

/// Threads of a workgroup.
pub(crate) const THREADS: u32 = 64;

/// The bases of all layers.
#[derive(Clone, Debug)]
pub struct Basis {
    /// Left basis *U*, `[layers, m, k]`, orthonormal columns.
    pub u: Tensor,
    /// Right basis *V*, `[layers, n, k]`, orthonormal columns.
    pub v: Tensor,
    /// `V^T`, `[layers, k, n]`; [`Basis::update_transpose`] makes it.
    pub vt: Tensor,
}

/// The skinny products of a stack `X: [layers, experts, m, n]` with the bases.
#[derive(Clone, Debug)]
pub struct Skinny {
    /// `U^T X`, `[layers, experts, k, n]`.
    pub a: Tensor,
    /// `X V`, `[layers, experts, m, k]`.
    pub b: Tensor,
}

/// The skinny products of a stack, and what is made along with them.
#[derive(Clone, Debug)]
pub(crate) struct Products {
    /// `U^T X` and `X V`.
    pub(crate) skinny: Skinny,
    /// `U^T X V`, `[layers, experts, k, k]`.
    pub(crate) square: Tensor,
    /// `[layers, experts, number]`: sums that add up to each matrix's squared norm, where the same pass gives them.
    pub(crate) squares: Option<Tensor>,
}

/// The common part of a stack as a product of rank 2k.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `[U | (I - P_U) X V]`, `[layers, experts, m, 2k]`.
    pub left: Tensor,
    /// `U^T X`, `[layers, experts, k, n]`; the other half of the right factor is `V^T`.
    pub right: Tensor,
}

/// Layers, experts, rows and columns of a stack.
pub(crate) fn sizes(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    x.dims().try_into().map_err(|_| Error::shape(op, "[layers, experts, m, n]", format!("{x:?}")))
}

crate::params! {
    /// AdamW's factors of one step, rounded from f64 once; the names are those of lib/adam.wgsl.
    pub struct AdamFactors {
        /// Learning rate.
        lr: f32,
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// `1 - beta1`.
        rest1: f32,
        /// `1 - beta2`.
        rest2: f32,
        /// On the root of the second moment: `(1 - beta1^t) / sqrt(1 - beta2^t)`, the corrections of both moments.
        root: f32,
        /// Added to that: epsilon times `1 - beta1^t`.
        eps: f32,
        /// Weight decay.
        decay: f32,
    }
}

/// `full X + common C`, X a stack and C the common part that the factors are of. What has the factor 0 is not read.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a> {
    /// Factor on X.
    pub full: f32,
    /// Factor on C and C, if it takes part.
    pub common: Option<(f32, &'a Factors)>,
}

impl Mix<'_> {
    /// The factor on C.
    pub(crate) fn factor(&self) -> f32 {
        self.common.map_or(0.0, |(factor, _)| factor)
    }

    /// The parts of left, right and V^T that `part` needs; `unused` where C takes no part.
    pub(crate) fn bindings(&self, part: &StackPart, basis: &Basis, unused: &Tensor) -> Result<[Tensor; 3]> {
        match self.common {
            None => Ok([unused.clone(), unused.clone(), unused.clone()]),
            Some((_, f)) => Ok([part.rows(&f.left)?, part.matrices(&f.right)?, part.layers(&basis.vt)?]),
        }
    }
}

/// First and second moments of a stack, `[layers, experts, m, n]` each.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// First moment.
    pub m: &'a Tensor,
    /// Second moment.
    pub v: &'a Tensor,
}

/// A stack that AdamW moves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack<'a> {
    /// Weights, `[layers, experts, m, n]`.
    pub(crate) weight: &'a Tensor,
    /// Their moments.
    pub(crate) moments: Moments<'a>,
}

/// The `left` and `right` of a kernel that passes over AdamW's state, and where in `right` V^T begins: it has no binding to spare, so V^T
/// and the clip, with four further numbers, lie behind U^T X. Without a common part `left` is U.
pub(crate) fn packed(part: &StackPart, mix: Mix<'_>, basis: &Basis, clip: &Tensor) -> Result<(Tensor, Tensor, usize)> {
    let vt = part.layers(&basis.vt)?;
    let (left, a) = match mix.common {
        Some((_, factors)) => (part.rows(&factors.left)?, Some(part.matrices(&factors.right)?)),
        None => (part.layers(&basis.u)?, None),
    };
    let vt_first = a.as_ref().map_or(0, Tensor::numel);
    let right = Tensor::empty_f32(clip.gpu(), [vt_first + vt.numel() + 8])?;
    if let Some(a) = a {
        right.slice(0..vt_first)?.copy_from(&a)?;
    }
    right.slice(vt_first..vt_first + vt.numel())?.copy_from(&vt)?;
    right.slice(vt_first + vt.numel()..right.numel() - 4)?.copy_from(clip)?;
    Ok((left, right, vt_first))
}
