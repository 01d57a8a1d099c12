//! An independent f64 implementation of the model, its gradients, AdamW and SD-MoE, for holding the GPU path against.
//!
//! It shares only the settings' types with the library. Everything here is written the plain way: every expert runs on
//! every token (a combine weight of zero hides what was not chosen), the gradient split multiplies by dense projectors, the
//! bases come from a full SVD. Where the library is clever, this is not; that is its use.

mod adam;
mod model;
mod random;
mod spectral;
pub mod svd;
pub mod tape;
mod trainer;

use std::collections::BTreeMap;

use tape::Mat;

pub use adam::{Adam, Moments, newton_schulz};
pub use model::{attention, moe, rms_norm, shapes};
pub use random::{Random, random_batch, random_params, random_spectral};
pub use spectral::{Decoupled, SpectralState};
pub use svd::svd;
pub use trainer::{StepReport, Trainer};

/// A tensor at the border of this module: row-major, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first; one to three of them.
    pub shape: Vec<usize>,
    /// The entries, row-major.
    pub data: Vec<f64>,
}

impl Array {
    /// An array; panics when the number of entries does not fit the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "Array: {shape:?} does not fit the entries");
        Self { shape, data }
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let data = vec![0.0; shape.iter().product()];
        Self { shape, data }
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// One matrix.
    pub(crate) fn from_matrix(m: &Mat) -> Self {
        // nalgebra stores columns, so the transpose's storage is the row-major order.
        Self { shape: vec![m.nrows(), m.ncols()], data: m.transpose().as_slice().to_vec() }
    }

    /// A stack of equally large matrices.
    pub(crate) fn from_stack(stack: &[Mat]) -> Self {
        let data = stack.iter().flat_map(|m| Self::from_matrix(m).data).collect();
        Self { shape: vec![stack.len(), stack[0].nrows(), stack[0].ncols()], data }
    }

    /// The array as matrices: a vector as one row, a matrix as itself, three dimensions as a stack.
    pub(crate) fn matrices(&self) -> Vec<Mat> {
        let (rows, cols) = match self.shape[..] {
            [n] => (1, n),
            [m, n] | [_, m, n] => (m, n),
            _ => panic!("Array: expected one to three dimensions, got {:?}", self.shape),
        };
        self.data.chunks(rows * cols).map(|c| Mat::from_row_slice(rows, cols, c)).collect()
    }

    /// The inverse of [`Array::matrices`].
    pub(crate) fn from_matrices(shape: &[usize], matrices: &[Mat]) -> Self {
        Self::new(shape, matrices.iter().flat_map(|m| Self::from_matrix(m).data).collect())
    }
}

/// Parameters or gradients by name.
pub type Arrays = BTreeMap<String, Array>;
