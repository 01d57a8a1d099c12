//! Small dense linear algebra in f64 on the host, by the crate faer: what is too small or too delicate for the device.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Par};

use crate::error::{Error, Result};

/// A failed iteration, which finite input has not been seen to cause.
fn unfinished(what: &str, rows: usize, columns: usize) -> Error {
    Error::Data(format!("{what} of a matrix {rows} x {columns} did not converge"))
}

/// Row-major elements, widened.
pub(super) fn widened(rows: usize, columns: usize, x: &[f32]) -> Mat<f64> {
    Mat::from_fn(rows, columns, |i, j| f64::from(x[i * columns + j]))
}

/// Row-major elements, narrowed.
pub(super) fn rows(x: MatRef<'_, f64>) -> impl Iterator<Item = f32> {
    x.transpose().col_iter().flat_map(|row| row.iter().map(|&x| x as f32))
}

/// `A^T B`.
pub(super) fn transposed_product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut c = Mat::zeros(a.ncols(), b.ncols());
    matmul(&mut c, Accum::Replace, a.transpose(), b, 1.0, Par::Seq);
    c
}

/// `A B`.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut c = Mat::zeros(a.nrows(), b.ncols());
    matmul(&mut c, Accum::Replace, a, b, 1.0, Par::Seq);
    c
}

/// `C -= A B`.
pub(super) fn subtract_product(c: &mut Mat<f64>, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    matmul(c, Accum::Add, a, b, -1.0, Par::Seq);
}

/// The orthonormal factor of `y: [m, l]`, l <= m, and the diagonal of the triangular one.
pub(super) fn orthonormal(y: MatRef<'_, f64>) -> (Mat<f64>, Vec<f64>) {
    let qr = y.qr();
    let r = qr.thin_R();
    let diagonal = (0..y.ncols()).map(|j| r[(j, j)]).collect();
    (qr.compute_thin_Q(), diagonal)
}

/// Eigenvalues, falling and not negative, of the symmetric positive `A^T A`, with its leading `keep` eigenvectors.
///
/// # Errors
/// [`Error::Data`] when the iteration does not converge.
pub(super) fn gram_eigen(a: MatRef<'_, f64>, keep: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let size = a.ncols();
    let mut gram = Mat::zeros(size, size);
    let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    triangular::matmul(&mut gram, lower, Accum::Replace, a.transpose(), full, a, full, 1.0, Par::Seq);
    eigen(gram.as_ref(), keep)
}

/// Eigenvalues, falling and not negative, of a symmetric positive matrix, of which the lower half is read, with its
/// leading `keep` eigenvectors.
///
/// # Errors
/// [`Error::Data`] when the iteration does not converge, or the matrix holds a number that is not finite.
pub(super) fn eigen(a: MatRef<'_, f64>, keep: usize) -> Result<(Vec<f64>, Mat<f64>)> {
    let size = a.ncols();
    let failed = || unfinished("eigenvalues", size, size);
    let eigen = a.self_adjoint_eigen(faer::Side::Lower).map_err(|_| failed())?;
    let values = eigen.S().column_vector();
    if values.iter().any(|l| !l.is_finite()) {
        return Err(failed());
    }
    let falling = (0..size).rev().map(|i| values[i].max(0.0)).collect();
    let vectors = Mat::from_fn(size, keep, |i, j| eigen.U()[(i, size - 1 - j)]);
    Ok((falling, vectors))
}

/// `exp(-sum p ln p)` with `p = x / sum x`: how many equal parts have that entropy. None where the sum is not positive.
pub(super) fn effective_rank(x: impl Iterator<Item = f64> + Clone) -> Option<f64> {
    let sum: f64 = x.clone().sum();
    (sum > 0.0).then(|| (-x.map(|v| v / sum).filter(|p| *p > 0.0).map(|p| p * p.ln()).sum::<f64>()).exp())
}

/// All singular values, falling.
///
/// # Errors
/// [`Error::Data`] when the iteration does not converge.
pub(super) fn singular_values(x: MatRef<'_, f64>) -> Result<Vec<f64>> {
    x.singular_values().map_err(|_| unfinished("singular values", x.nrows(), x.ncols()))
}

/// Sum of the singular values of a small matrix, each right to about 1e-8 of the largest.
///
/// # Errors
/// [`Error::Data`] when the iteration does not converge; [`Error::Undefined`] for numbers that are not finite.
pub(super) fn nuclear_norm(x: MatRef<'_, f64>) -> Result<f64> {
    finite(x)?;
    if x.ncols() == 1 {
        return Ok(x.norm_l2());
    }
    let gram = transposed_product(x, x);
    let values = gram
        .self_adjoint_eigenvalues(faer::Side::Lower)
        .map_err(|_| unfinished("singular values", x.nrows(), x.ncols()))?;
    Ok(values.into_iter().map(|l| l.max(0.0).sqrt()).sum())
}

/// All singular values, falling, and with `vectors` the left and right singular vectors.
///
/// # Errors
/// [`Error::Data`] when the iteration does not converge; [`Error::Undefined`] for numbers that are not finite.
pub(super) fn svd(x: MatRef<'_, f64>) -> Result<(Vec<f64>, Mat<f64>, Mat<f64>)> {
    finite(x)?;
    let svd = x.thin_svd().map_err(|_| unfinished("singular values", x.nrows(), x.ncols()))?;
    let s = svd.S().column_vector().iter().copied().collect();
    Ok((s, svd.U().to_owned(), svd.V().to_owned()))
}

/// Checks that a matrix that is to be decomposed is finite: an iteration on what is not may end anywhere.
fn finite(x: MatRef<'_, f64>) -> Result<()> {
    match x.col_iter().flat_map(|column| column.iter()).find(|x| !x.is_finite()) {
        Some(&value) => Err(Error::Undefined { op: "svd", value: value as f32 }),
        None => Ok(()),
    }
}

/// The columns `range`.
pub(super) fn columns(x: MatRef<'_, f64>, range: std::ops::Range<usize>) -> Mat<f64> {
    x.subcols(range.start, range.len()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Array;

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        widened(rows, columns, &Array::random(&[rows, columns], seed).to_f32())
    }

    fn largest(x: &Mat<f64>) -> f64 {
        x.col_iter().flat_map(|c| c.iter().copied().collect::<Vec<_>>()).fold(0.0, |a, b| a.max(b.abs()))
    }

    /// The worst of |U S V^T - A| / |A|, |U^T U - I|, |V^T V - I|.
    fn defect(a: &Mat<f64>) -> f64 {
        let (s, u, v) = svd(a.as_ref()).unwrap();
        assert!(s.is_sorted_by(|a, b| a >= b) && s.iter().all(|&x| x >= 0.0), "{s:?}");
        let us = Mat::from_fn(u.nrows(), u.ncols(), |i, j| u[(i, j)] * s[j]);
        let residual = largest(&(product(us.as_ref(), v.transpose()) - a)) / largest(a).max(1e-300);
        let unit = |q: &Mat<f64>| {
            largest(&(transposed_product(q.as_ref(), q.as_ref()) - Mat::<f64>::identity(s.len(), s.len())))
        };
        residual.max(unit(&u)).max(unit(&v))
    }

    #[test]
    fn the_library_decomposes_what_others_fail_on() {
        let low = product(random(40, 3, 1).as_ref(), random(3, 25, 2).as_ref());
        let rank_one = product(random(9, 1, 3).as_ref(), random(1, 30, 4).as_ref());
        let (q, _) = orthonormal(random(20, 20, 5).as_ref());
        let graded = Mat::from_fn(20, 20, |i, j| q[(i, j)] * 10f64.powf(-(j as f64) * 0.35));
        let cases = [
            ("tall", random(37, 11, 6)),
            ("wide", random(11, 37, 7)),
            ("rank 3", low.clone()),
            ("rank 3, transposed", low.transpose().to_owned()),
            ("rank 1", rank_one),
            ("zero", Mat::zeros(12, 7)),
            ("identity", Mat::identity(30, 30)),
            ("repeated", q.clone()),
            ("condition 5e6", graded),
            ("1 x 1", random(1, 1, 8)),
            ("row", random(1, 17, 9)),
            ("column", random(17, 1, 10)),
        ];
        for (name, a) in cases {
            assert!(defect(&a) < 1e-13, "{name}: {:e}", defect(&a));
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error_wherever_it_stands() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for (rows, columns, at) in [(1, 1, (0, 0)), (5, 3, (4, 2)), (3, 40, (0, 20)), (30, 30, (29, 0))] {
                let mut a = random(rows, columns, 12);
                a[at] = bad;
                for message in
                    [svd(a.as_ref()).unwrap_err(), nuclear_norm(a.as_ref()).unwrap_err()].map(|e| e.to_string())
                {
                    assert!(message.starts_with("svd: expected finite numbers, got "), "{message}");
                }
            }
        }
    }

    #[test]
    fn a_nuclear_norm_is_the_sum_of_the_singular_values() {
        for (rows, columns) in [(1, 1), (4, 4), (7, 3), (3, 7)] {
            let a = random(rows, columns, 11);
            let want: f64 = svd(a.as_ref()).unwrap().0.iter().sum();
            let got = nuclear_norm(a.as_ref()).unwrap();
            assert!((got - want).abs() < 1e-7 * want, "{rows} x {columns}: {got}, expected {want}");
        }
    }
}
