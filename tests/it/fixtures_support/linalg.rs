//! Group `linalg/`: `svd.*` and `subspace.*`.
//!
//! Singular vectors are compared by orthonormality, residuals and, where there is a gap, projectors. All bounds are
//! relative to the largest singular value.

use super::Case;
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::linalg::svd::{Svd, SvdOptions, randomized_svd, sketched_svd};
use sdmoe::linalg::{MAX_COLUMNS, qr, random, subspace};
use sdmoe::tensor::Tensor;

/// METHOD section 5.
const ORTHONORMAL: f64 = 1e-5;
/// Singular values and residuals of f32 code: inputs rounded (6e-8 of each element), then products over a few hundred
/// elements and a few dozen rotations, each with a rounding error or two.
const ROUNDING: f64 = 4e-6;
/// Angles: the bases' elements are rounded to f32, 6e-8 each, and a sine is a norm over their rows.
const ANGLE: f64 = 1e-6;

pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    match case.name.split('.').next() {
        Some("svd") => svd(gpu, case),
        Some("subspace") => subspaces(gpu, case),
        _ => Err("neither svd.* nor subspace.*".into()),
    }
}

fn upload(gpu: &Gpu, x: &Array) -> Result<Tensor, String> {
    Tensor::from_f32(gpu, &x.shape, &x.to_f32()).map_err(|e| e.to_string())
}

fn download(x: &Tensor) -> Result<Array, String> {
    let data = block_on(x.to_f32()).map_err(|e| e.to_string())?;
    match data.iter().position(|v| !v.is_finite()) {
        Some(i) => Err(format!("element {i} of {x:?} is {}", data[i])),
        None => Ok(Array::from_f32(x.dims(), &data)),
    }
}

fn ensure(what: &str, error: f64, allowed: f64) -> Result<(), String> {
    if error <= allowed { Ok(()) } else { Err(format!("{what}: {error:.3e}, allowed {allowed:.3e}")) }
}

fn orthonormal(what: &str, q: &Array) -> Result<(), String> {
    let gram = q.transpose().matmul(q);
    let n = gram.cols();
    let identity = Array::from_fn(&[n, n], |i| f64::from(u8::from(i / n == i % n)));
    ensure(&format!("|{what}^T {what} - I|"), difference(&gram, &identity).max_abs(), ORTHONORMAL)
}

fn difference(a: &Array, b: &Array) -> Array {
    a.zip(b, |a, b| a - b)
}

/// The first `k` columns.
fn leading(x: &Array, k: usize) -> Array {
    Array::from_fn(&[x.rows(), k], |i| x.data[i / k * x.cols() + i % k])
}

fn projector(q: &Array) -> Array {
    q.matmul(&q.transpose())
}

struct Found {
    u: Array,
    s: Array,
    v: Array,
    low_rank: Array,
}

/// The result on the host, with `U S V^T`, after checking what every result must be.
fn found(svd: &Svd, k: usize) -> Result<Found, String> {
    let (u, v) = (download(&svd.u)?.matrix(0), download(&svd.v)?.matrix(0));
    let s = download(&svd.s_all)?;
    orthonormal("U", &u)?;
    orthonormal("V", &v)?;
    if !s.data.is_sorted_by(|a, b| a >= b) || s.data.iter().any(|&x| x < 0.0) {
        return Err(format!("singular values {:?}", s.data));
    }
    let us = Array::from_fn(&u.shape, |i| u.data[i] * s.data[i % k]);
    let low_rank = us.matmul(&v.transpose());
    Ok(Found { u, s, v, low_rank })
}

fn svd(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let a = case.tensor("A")?;
    let s = &case.tensor("S")?.data;
    let k = case.need(&["k"])? as usize;
    let largest = s[0];
    // The singular values must fit an f32 with room for products: METHOD's are between 1e-30 and 1e30.
    if largest > 1e30 || (largest > 0.0 && largest < 1e-30) {
        return Err(format!("the largest singular value is {largest:e}, beyond f32"));
    }
    let scale = largest.max(1e-37);
    let best = s[k..].iter().map(|x| x * x).sum::<f64>().sqrt();
    let device_a = upload(gpu, a)?;

    let svd = randomized_svd(&device_a, k, SvdOptions::default(), None).map_err(|e| e.to_string())?;
    let got = found(&svd, k)?;
    let whole = s.len() <= MAX_COLUMNS;
    for (j, (got, want)) in got.s.data.iter().zip(s).enumerate().take(if whole { s.len() } else { k }) {
        // Halko et al. with 8 oversamples and two power iterations; scikit-learn's worst of 20 seeds in the file.
        let sketch = case.number(&["sklearn_randomized_svd", "n_iter_2", "sigma_err_over_s0_max"]).unwrap_or(0.0);
        let allowed = (if whole { 0.0 } else { 2.0 * sketch } + ROUNDING) * scale;
        ensure(&format!("singular value {j}"), (got - want).abs(), allowed)?;
    }
    let rounding = ROUNDING * (k as f64).sqrt() * scale;
    ensure("|A - U S V^T| beyond the best", difference(&got.low_rank, a).norm() - best, rounding)?;
    check_sklearn(case, "randomized_svd", &got, a, scale, 1.0)?;
    let gap = case.number(&["gap_k"]).unwrap_or(largest);
    if gap > 1e-3 * scale && k < s.len() {
        // Davis and Kahan: the angle is at most the backward error over the gap.
        let allowed = 2.0 * ROUNDING * scale / gap * (k as f64).sqrt();
        let (u, v) = (leading(case.tensor("U")?, k), leading(&case.tensor("Vt")?.transpose(), k));
        ensure("U U^T", difference(&projector(&got.u), &projector(&u)).norm(), allowed)?;
        ensure("V V^T", difference(&projector(&got.v), &projector(&v)).norm(), allowed)?;
    }
    given_sketch(gpu, case, &device_a, k, scale)?;
    own_sketch(gpu, case, &device_a, k, scale)?;
    factors(case, &device_a)
}

/// The bounds of scikit-learn's randomized SVD, the worst of 20 seeds, times `slack` above the best possible.
fn check_sklearn(case: &Case, what: &str, got: &Found, a: &Array, scale: f64, slack: f64) -> Result<(), String> {
    let bound = |name| case.number(&["sklearn_randomized_svd", "n_iter_2", name]);
    let error = difference(&got.low_rank, a).norm();
    if let Some(over_norm) = bound("fro_err_over_norm_max") {
        let best = case.need(&["best_rank_k_fro_err"])?;
        let worst = best + slack * (over_norm * a.norm() - best).max(0.0);
        let k = got.u.cols() as f64;
        ensure(&format!("{what}: |A - U S V^T|"), error, worst + ROUNDING * k.sqrt() * scale)?;
    }
    if let Some(over_first) = bound("sigma_err_over_s0_max") {
        for (j, (got, want)) in got.s.data.iter().zip(&case.tensor("S")?.data).take(got.u.cols()).enumerate() {
            let allowed = (slack * over_first + ROUNDING) * scale;
            ensure(&format!("{what}: singular value {j}"), (got - want).abs(), allowed)?;
        }
    }
    Ok(())
}

/// With the file's own test matrix the results must be those in the file.
fn given_sketch(gpu: &Gpu, case: &Case, a: &Tensor, k: usize, scale: f64) -> Result<(), String> {
    let omega = case.tensor("omega")?;
    if omega.cols() > MAX_COLUMNS {
        return Ok(());
    }
    let host_a = case.tensor("A")?;
    let omega = upload(gpu, omega)?;
    for (name, tensor) in &case.tensors {
        let Some(q) = name.strip_prefix("rsvd_q").and_then(|rest| rest.strip_suffix("_S")) else { continue };
        let iterations = q.parse().map_err(|_| format!("`{name}`: how many power iterations?"))?;
        let got = found(&sketched_svd(a, &omega, k, iterations).map_err(|e| e.to_string())?, k)?;
        for (j, (got, want)) in got.s.data.iter().zip(&tensor.data).enumerate() {
            ensure(&format!("{name}[{j}]"), (got - want).abs(), ROUNDING * scale)?;
        }
        let want = difference(case.tensor(&format!("rsvd_q{q}_lowrank"))?, host_a).norm();
        let error = (difference(&got.low_rank, host_a).norm() - want).abs();
        ensure(&format!("rsvd_q{q}_lowrank: its distance to A"), error, ROUNDING * (k as f64).sqrt() * scale)?;
    }
    Ok(())
}

/// With our own Gaussian test matrix of the same width the result must be as good as scikit-learn's.
fn own_sketch(gpu: &Gpu, case: &Case, a: &Tensor, k: usize, scale: f64) -> Result<(), String> {
    let shape = &case.tensor("omega")?.shape;
    if shape[1] > MAX_COLUMNS {
        return Ok(());
    }
    let omega = Tensor::empty_f32(gpu, shape).map_err(|e| e.to_string())?;
    random::fill_normal(&omega, 0, 0, 1.0).map_err(|e| e.to_string())?;
    let got = found(&sketched_svd(a, &omega, k, 2).map_err(|e| e.to_string())?, k)?;
    // Their figure is the worst of 20 draws; one more draw of the same kind stays below twice that.
    check_sklearn(case, "own sketch", &got, case.tensor("A")?, scale, 2.0)
}

/// The QR of A, where R is unique.
fn factors(case: &Case, a: &Tensor) -> Result<(), String> {
    let [rows, columns] = *a.dims() else { return Err(format!("A {a:?}")) };
    if rows < columns || columns > MAX_COLUMNS {
        return Ok(());
    }
    let (q, r) = qr::qr(a).map_err(|e| e.to_string())?;
    let (q, r) = (download(&q)?, download(&r)?);
    orthonormal("Q", &q)?;
    let host_a = case.tensor("A")?;
    ensure("|QR - A|", difference(&q.matmul(&r), host_a).norm(), ROUNDING * host_a.norm())?;
    // R's relative error is at most the condition number times the backward error (Higham, theorem 19.4 and after).
    if let Some(condition) = case.number(&["cond"]).filter(|&c| c < 1e3) {
        let allowed = ROUNDING * condition * host_a.norm();
        ensure("R", difference(&r, case.tensor("R")?).norm(), allowed)?;
    }
    Ok(())
}

fn subspaces(gpu: &Gpu, case: &Case) -> Result<(), String> {
    let device = |e: sdmoe::Error| e.to_string();
    let basis = |name| qr::orthonormalize(&upload(gpu, case.tensor(name)?)?).map_err(device);
    let (a, b) = (basis("A")?, basis("B")?);
    let want = &case.tensor("angles")?.data;
    let angles = download(&subspace::angles(&a, &b).map_err(device)?)?;
    if angles.data.len() != want.len() {
        return Err(format!("{} angles, expected {}", angles.data.len(), want.len()));
    }
    for (j, (got, want)) in angles.data.iter().zip(want).enumerate() {
        ensure(&format!("angle {j}, {got:e} for {want:e}"), (got - want).abs(), ANGLE)?;
    }
    let size = (want.len() as f64).sqrt();
    let distances = subspace::distances(&angles.to_f32());
    for (name, got) in
        [("geodesic", distances.geodesic), ("chordal", distances.chordal), ("projection_2norm", distances.projection)]
    {
        ensure(name, (got - case.need(&["distances", name])?).abs(), ANGLE * size)?;
    }
    let similarity = download(&subspace::similarity(&a, &b).map_err(device)?)?.data[0];
    ensure("mean_sq_cos", (similarity - case.need(&["distances", "mean_sq_cos"])?).abs(), ANGLE)?;
    let cosines = download(&subspace::cosines(&a, &b).map_err(device)?)?;
    let mean = cosines.data.iter().sum::<f64>() / want.len() as f64;
    ensure("mean_cos", (mean - case.need(&["distances", "mean_cos"])?).abs(), ANGLE)
}
