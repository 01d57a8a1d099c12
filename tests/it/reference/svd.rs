//! Singular value decomposition by one-sided Jacobi rotations (Hestenes 1958).
//!
//! Not nalgebra's: on rank-deficient matrices, which a freshly drawn `W_c` is, nalgebra 0.35 can return factors whose
//! product misses the matrix, without an error: at 128 x 128 with rank 8 in 4 of 20 random cases, by up to a third of the
//! norm. (Its `symmetric_eigen` held on the Gram matrices of the same cases.)

use super::tape::Mat;

/// Jacobi sweeps before giving up; ten are usual.
const SWEEPS: usize = 60;

/// `U`, the singular values in descending order, and `V`, with `w = U diag(s) V^T` and `min(m, n)` columns each. The
/// result is checked; panics when it does not give the matrix back.
pub fn svd(w: &Mat) -> (Mat, Vec<f64>, Mat) {
    if w.nrows() < w.ncols() {
        let (u, s, v) = svd(&w.transpose());
        return (v, s, u);
    }
    // Invariant: a = w v, v orthogonal. At the end the columns of a are orthogonal, so they are U diag(s).
    let n = w.ncols();
    let (mut a, mut v) = (w.clone(), Mat::identity(n, n));
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for i in 0..n {
            for j in i + 1..n {
                rotated |= orthogonalize(&mut a, &mut v, i, j);
            }
        }
        if !rotated {
            break;
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a.column(j).norm().total_cmp(&a.column(i).norm()));
    let (a, v) = (a.select_columns(&order), v.select_columns(&order));
    let values: Vec<f64> = a.column_iter().map(|c| c.norm()).collect();
    let u = left_vectors(a, &values);

    let scale = w.norm() + f64::MIN_POSITIVE;
    let error = (&u * Mat::from_diagonal(&values.clone().into()) * v.transpose() - w).norm();
    assert!(error <= 1e-13 * scale, "svd: residual {error:e} of a matrix of norm {scale:e}");
    for q in [&u, &v] {
        let error = (q.transpose() * q - Mat::identity(n, n)).norm();
        assert!(error <= 1e-12, "svd: vectors are orthonormal up to {error:e} only");
    }
    (u, values, v)
}

/// Turns columns i and j of `a` (and of `v`) so that those of `a` become orthogonal; false where they are already.
fn orthogonalize(a: &mut Mat, v: &mut Mat, i: usize, j: usize) -> bool {
    let (alpha, beta) = (a.column(i).norm_squared(), a.column(j).norm_squared());
    let gamma = a.column(i).dot(&a.column(j));
    if gamma.abs() <= 1e-15 * (alpha * beta).sqrt() {
        return false;
    }
    let zeta = (beta - alpha) / (2.0 * gamma);
    let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cos = 1.0 / t.hypot(1.0);
    let sin = cos * t;
    for q in [a, v] {
        let (x, y) = (q.column(i).into_owned(), q.column(j).into_owned());
        q.set_column(i, &(&x * cos - &y * sin));
        q.set_column(j, &(x * sin + y * cos));
    }
    true
}

/// The normalized columns of `a`. A column that is only rounding is replaced by what completes the basis: the unit vector
/// that sticks out of it the most, orthogonalized twice.
fn left_vectors(mut a: Mat, values: &[f64]) -> Mat {
    let m = a.nrows();
    for (j, &s) in values.iter().enumerate() {
        if s > 1e-13 * values[0] {
            let unit = a.column(j) / s;
            a.set_column(j, &unit);
            continue;
        }
        let basis = a.columns(0, j).into_owned();
        let outside = |r: &usize| 1.0 - basis.row(*r).norm_squared();
        let row = (0..m).max_by(|r, s| outside(r).total_cmp(&outside(s))).expect("a matrix has rows");
        let mut column = Mat::zeros(m, 1);
        column[row] = 1.0;
        for _ in 0..2 {
            column -= &basis * (basis.transpose() * &column);
        }
        a.set_column(j, &column.normalize().column(0));
    }
    a
}
