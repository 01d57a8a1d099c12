//! Eigenvalues of symmetric matrices on the host, in f64.

use faer::{Mat, Side};

use crate::error::{Error, Result};

/// Eigenvalues, falling, and eigenvectors of a symmetric matrix.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// Falling.
    pub values: Vec<f64>,
    /// Column j belongs to `values[j]`.
    pub vectors: Mat<f64>,
}

/// The eigendecomposition of the symmetric `a: [n, n]`, by rows, of which the lower half is read.
///
/// # Errors
/// [`Error::Data`] when it does not converge: the matrix holds a number that is not finite.
pub fn symmetric(a: &[f64], n: usize) -> Result<Eigen> {
    let matrix = Mat::from_fn(n, n, |i, j| a[i * n + j]);
    let failed = || Error::Data(format!("eigenvalues of a {n} x {n} matrix: expected finite numbers"));
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(|_| failed())?;
    let rising: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
    let values: Vec<f64> = rising.iter().rev().copied().collect();
    if values.iter().any(|v| !v.is_finite()) {
        return Err(failed());
    }
    let vectors = Mat::from_fn(n, n, |i, j| eigen.U()[(i, n - 1 - j)]);
    Ok(Eigen { values, vectors })
}

/// `exp(-sum p ln p)` with `p = x / sum x`: how many equal parts have that entropy. None where the sum is not positive.
pub fn effective_rank(x: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let sum: f64 = x.clone().sum();
    (sum > 0.0).then(|| (-x.map(|v| v / sum).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>()).exp())
}
