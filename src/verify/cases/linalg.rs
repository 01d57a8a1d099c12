//! Tall-skinny QR, small and randomized SVD on the spectra that break them: by what does not depend on signs and rotations.

use nalgebra::DMatrix;

use super::sizes;
use crate::autograd::Array;
use crate::error::Result;
use crate::linalg::newton_schulz::newton_schulz;
use crate::linalg::svd::{SvdOptions, randomized_svd};
use crate::linalg::svd_small::svd_small;
use crate::linalg::{qr, subspace};
use crate::tensor::Tensor;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

/// The bound on `|Q^T Q - I|`, entry by entry.
const ORTHONORMAL: f64 = 1e-5;
/// Backward error of a factorisation, relative to the largest singular value: a few dozen eps of f32 (6e-8), which the sums over up
/// to 64 columns and a few thousand rows reach.
const BACKWARD: f64 = 3e-6;

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (level, [m, n]) in [
        (Usual, [1, 1]),
        (Usual, [7, 1]),
        (Usual, [16, 16]),
        (Quick, [33, 5]),
        (Usual, [128, 16]),
        (Quick, [257, 31]),
        (Usual, [64, 64]),
        (Usual, [1031, 16]),
        (Usual, [1300, 64]),
    ] {
        all.push(Case::new(level, format!("linalg/qr/{}", sizes(&[m, n])), async move |c| verify_qr(c, m, n).await));
    }
    for (level, [m, n]) in [
        (Usual, [1, 1]),
        (Usual, [1, 9]),
        (Usual, [5, 1]),
        (Usual, [16, 16]),
        (Quick, [17, 13]),
        (Usual, [13, 40]),
        (Usual, [33, 33]),
        (Usual, [64, 64]),
    ] {
        all.push(Case::new(level, format!("linalg/small_svd/{}", sizes(&[m, n])), async move |c| small(c, m, n).await));
    }
    for (level, [m, n]) in [(Quick, [96, 80]), (Usual, [80, 131]), (Usual, [257, 70])] {
        all.push(Case::new(level, format!("linalg/randomized_svd/{}", sizes(&[m, n])), async move |c| {
            sketched(c, m, n).await
        }));
    }
    for (level, shape) in [(Usual, [1, 1, 1]), (Quick, [2, 33, 65]), (Usual, [3, 70, 9]), (Usual, [2, 64, 128])] {
        let name = format!("linalg/newton_schulz/{}", sizes(&shape));
        all.push(Case::new(level, name, async move |c| orthogonalized(c, shape).await));
    }
    all.push(Case::new(Quick, "linalg/subspaces/projections", projections));
    all.push(Case::new(Usual, "linalg/subspaces/angles", angles));
    all
}

/// Newton-Schulz iterations as [`newton_schulz`] has them.
pub(super) fn exact_newton_schulz(x: &DMatrix<f64>) -> DMatrix<f64> {
    if x.nrows() > x.ncols() {
        return exact_newton_schulz(&x.transpose()).transpose();
    }
    let mut x = x / (x.norm() + 1e-7);
    for _ in 0..5 {
        let a = &x * x.transpose();
        x = &x * 3.4445 + (&a * -4.7750 + &a * &a * 2.0315) * &x;
    }
    x
}

/// Newton-Schulz iterations of several matrices, of which the last is zero where there are several.
async fn orthogonalized(context: &Context, [count, m, n]: [usize; 3]) -> Result<Findings> {
    let mut found = Findings::default();
    let mut x = Array::random(&[count, m, n], 3 + context.seed);
    if count > 1 {
        x.data[(count - 1) * m * n..].fill(0.0);
    }
    let got = context
        .twice("newton_schulz", &mut found, async || {
            let device = context.upload(&x)?;
            newton_schulz(&device, 3.0)?;
            Ok(vec![device.to_f32().await?])
        })
        .await?;
    let exact = x.data.chunks(m * n).map(|x| 3.0 * exact_newton_schulz(&DMatrix::from_row_slice(m, n, x)));
    let want = exact.flat_map(|x| x.transpose().as_slice().to_vec()).collect();
    // Sums along a side, and five times 3.4445, by which small singular values grow.
    let tolerance = 6e-8 * 485.0 * (m.min(n) as f64).sqrt().max(4.0);
    found.compare("singular values near 3", &got[0], &Array::new(&[count, m, n], want), tolerance);
    Ok(found)
}

/// A basis takes a matrix apart into what lies in its span and what is orthogonal to that.
async fn projections(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let u = qr::orthonormalize(&context.upload(&Array::random(&[2, 50, 4], 1 + context.seed))?)?;
    let x = Array::random(&[2, 50, 7], 2 + context.seed);
    let device = context.upload(&x)?;
    let parts = context
        .twice("projections", &mut found, async || {
            let (inside, outside) = (subspace::project(&u, &device)?, subspace::complement(&u, &device)?);
            Ok(vec![inside.to_f32().await?, outside.to_f32().await?])
        })
        .await?;
    let basis = Array::from_f32(&[2, 50, 4], &u.to_f32().await?);
    for i in 0..2 {
        let (basis, x) = (basis.matrix(i), x.matrix(i));
        let inside = basis.matmul(&basis.transpose().matmul(&x));
        let outside = x.zip(&inside, |x, p| x - p);
        found.compare("what lies in the span", &parts[0][i * 350..(i + 1) * 350], &inside, 3e-6);
        found.compare("what is orthogonal to it", &parts[1][i * 350..(i + 1) * 350], &outside, 3e-6);
    }
    Ok(found)
}

/// Angles between two subspaces, from none to a right one.
async fn angles(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let want = [0.0, 1e-6, 1e-4, 0.01, 0.5, 0.785, 0.79, 1.2, 1.5607, std::f64::consts::FRAC_PI_2];
    let (m, r) = (64, want.len());
    let q = dense(&Array::random(&[m, 2 * r], 4 + context.seed)).qr().q();
    let a = Array::from_fn(&[1, m, r], |i| q[(i / r, i % r)]);
    let b = Array::from_fn(&[1, m, r], |i| {
        let t: f64 = want[i % r];
        t.cos() * q[(i / r, i % r)] + t.sin() * q[(i / r, r + i % r)]
    });
    let (a, b) = (context.upload(&a)?, context.upload(&b)?);
    let parts = context
        .twice("angles", &mut found, async || {
            let (angles, cosines) = (subspace::angles(&a, &b)?, subspace::cosines(&a, &b)?);
            let similarity = subspace::similarity(&a, &b)?;
            Ok(vec![angles.to_f32().await?, cosines.to_f32().await?, similarity.to_f32().await?])
        })
        .await?;
    let row = |f: fn(f64) -> f64| Array::new(&[r], want.iter().map(|&t| f(t)).collect());
    // The bases themselves are rounded to f32: 6e-8 an element, sqrt(64) of them.
    found.compare("angles", &parts[0], &row(|t| t), 1e-6);
    found.compare("cosines", &parts[1], &row(f64::cos), 2e-6);
    let similarity = want.iter().map(|t| t.cos().powi(2)).sum::<f64>() / r as f64;
    found.compare("similarity", &parts[2], &Array::new(&[1], vec![similarity]), 2e-6);
    Ok(found)
}

fn dense(x: &Array) -> DMatrix<f64> {
    DMatrix::from_row_slice(x.rows(), x.cols(), &x.data)
}

/// Singular values in f64, falling.
fn singular_values(x: &Array) -> Vec<f64> {
    let mut s: Vec<f64> = dense(x).singular_values().iter().copied().collect();
    s.sort_by(|a, b| b.total_cmp(a));
    s
}

fn diagonal(s: &[f64], [m, n]: [usize; 2]) -> Array {
    Array::from_fn(&[m, n], |i| if i / n == i % n { s.get(i % n).copied().unwrap_or(0.0) } else { 0.0 })
}

/// A matrix with these singular values and random singular vectors, rounded to f32.
fn with_spectrum(m: usize, n: usize, s: &[f64], seed: u64) -> Array {
    let basis = |rows: usize, seed| {
        let q = dense(&Array::random(&[rows, s.len()], seed)).qr().q();
        Array::from_fn(&[rows, s.len()], |i| q[(i / s.len(), i % s.len())])
    };
    let x = basis(m, seed).matmul(&diagonal(s, [s.len(), s.len()])).matmul(&basis(n, seed + 1).transpose());
    x.map(|&v| f64::from(v as f32))
}

/// `count` singular values from 1 down to `last`, in equal ratios.
fn geometric(count: usize, last: f64) -> Vec<f64> {
    (0..count).map(|i| last.powf(i as f64 / (count.max(2) - 1) as f64)).collect()
}

/// The matrices that break linear algebra, `m x n` each, in one batch.
fn awkward(m: usize, n: usize, seed: u64) -> (Vec<&'static str>, Vec<Array>) {
    let r = m.min(n);
    let repeated = Array::random(&[m, 1], 5 + seed);
    let gaussian = Array::random(&[m, n], 6 + seed);
    let scaled = |factor: f32| gaussian.map(|x| f64::from(*x as f32 * factor));
    vec![
        ("gaussian", gaussian.clone()),
        ("zero", Array::zeros(&[m, n])),
        ("rank 1", with_spectrum(m, n, &[3.0], 1 + seed)),
        ("rank deficient", with_spectrum(m, n, &vec![2.0; r.div_ceil(2)], 2 + seed)),
        ("ill-conditioned 1e7", with_spectrum(m, n, &geometric(r, 1e-7), 3 + seed)),
        ("one column repeated", Array::from_fn(&[m, n], |i| repeated.data[i / n])),
        ("all equal", Array::new(&[m, n], vec![1.0; m * n])),
        ("identity", diagonal(&vec![1.0; r], [m, n])),
        (
            "zero column and row",
            Array::from_fn(&[m, n], |i| if i % n == n / 2 || i / n == m / 2 { 0.0 } else { gaussian.data[i] }),
        ),
        ("huge", scaled(1e30)),
        ("tiny", scaled(1e-30)),
        (
            "columns of all scales",
            Array::from_fn(&[m, n], |i| f64::from((gaussian.data[i] * 10f64.powi(-((i % n) as i32 % 7) * 4)) as f32)),
        ),
    ]
    .into_iter()
    .unzip()
}

fn stacked(parts: &[Array]) -> Array {
    let [m, n] = [parts[0].rows(), parts[0].cols()];
    Array::new(&[parts.len(), m, n], parts.iter().flat_map(|p| p.data.clone()).collect())
}

/// Returns the factors of a stack that `run` gives, which it must give twice.
async fn factors(
    context: &Context,
    found: &mut Findings,
    parts: &[Array],
    run: impl Fn(&Tensor) -> Result<Vec<Tensor>>,
) -> Result<Vec<Array>> {
    let x = context.upload(&stacked(parts))?;
    let mut shapes = Vec::new();
    let data = context
        .twice("factors", found, async || {
            let given = run(&x)?;
            shapes = given.iter().map(|t| t.dims().to_vec()).collect();
            let mut parts = Vec::with_capacity(given.len());
            for tensor in &given {
                parts.push(tensor.to_f32().await?);
            }
            Ok(parts)
        })
        .await?;
    Ok(shapes.iter().zip(&data).map(|(shape, data)| Array::from_f32(shape, data)).collect())
}

fn orthonormal(found: &mut Findings, what: &str, q: &Array) {
    let gram = q.transpose().matmul(q);
    let identity = Array::from_fn(&gram.shape, |i| f64::from(u8::from(i / gram.cols() == i % gram.cols())));
    // `max_abs` passes over NaN.
    let finite = q.data.iter().all(|x| x.is_finite());
    let error = if finite { gram.zip(&identity, |a, b| a - b).max_abs() } else { f64::INFINITY };
    found.at_most(&format!("{what}: |Q^T Q - I|"), error, ORTHONORMAL);
}

async fn verify_qr(context: &Context, m: usize, l: usize) -> Result<Findings> {
    let mut found = Findings::default();
    let (names, parts) = awkward(m, l, context.seed);
    let given = factors(context, &mut found, &parts, |x| qr::qr(x).map(|(q, r)| vec![q, r])).await?;
    for (i, (name, y)) in names.iter().zip(&parts).enumerate() {
        let (q, r) = (given[0].matrix(i), given[1].matrix(i));
        orthonormal(&mut found, name, &q);
        // Column by column: each is scaled on its own.
        let residual = q.matmul(&r).zip(y, |a, b| a - b).transpose();
        let columns = y.transpose();
        for c in 0..l {
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let what = format!("{name}, column {c}: |QR - Y|");
            found.at_most(&what, norm(residual.row(c)), BACKWARD * norm(columns.row(c)) + 1e-300);
            if !(r.data[c * l + c] >= 0.0 && r.row(c)[..c].iter().all(|&v| v == 0.0)) {
                found.wrong(format!("{name}: R is not upper triangular with a diagonal that is not negative"));
            }
        }
    }
    Ok(found)
}

async fn small(context: &Context, m: usize, n: usize) -> Result<Findings> {
    let mut found = Findings::default();
    let r = m.min(n);
    let (names, parts) = awkward(m, n, context.seed);
    let given = factors(context, &mut found, &parts, |x| svd_small(x, r).map(|svd| vec![svd.u, svd.s, svd.v])).await?;
    for (i, (name, x)) in names.iter().zip(&parts).enumerate() {
        let (u, s, v) = (given[0].matrix(i), given[1].row(i), given[2].matrix(i));
        let want = singular_values(x);
        orthonormal(&mut found, &format!("{name}, U"), &u);
        orthonormal(&mut found, &format!("{name}, V"), &v);
        for (j, (got, exact)) in s.iter().zip(&want).enumerate() {
            found.at_most(&format!("{name}: s[{j}] is off by"), (got - exact).abs(), 2e-6 * want[0] + 1e-300);
        }
        if !s.is_sorted_by(|a, b| a >= b) {
            found.wrong(format!("{name}: singular values do not fall"));
        }
        let back = u.matmul(&diagonal(s, [r, r])).matmul(&v.transpose());
        let allowed = BACKWARD * (r as f64).sqrt() * want[0] + 1e-300;
        found.at_most(&format!("{name}: |U S V - X|"), back.zip(x, |a, b| a - b).norm(), allowed);
    }
    Ok(found)
}

/// Eight triplets of matrices whose spectra have a gap, none, or few values.
async fn sketched(context: &Context, m: usize, n: usize) -> Result<Findings> {
    const K: usize = 8;
    // What the ratio of the spectrum at k + oversampling leaves after two power iterations: (s_17 / s_8)^10 < 1e-5.
    const SLACK: f64 = 1e-4;
    let mut found = Findings::default();
    let scaled = |factor: f64| geometric(60, 1e-4).iter().map(|s| s * factor).collect::<Vec<_>>();
    let spectra = [
        ("geometric", scaled(1.0)),
        ("gap", [vec![8.0, 7.0, 6.5, 6.2, 5.0, 4.9, 4.8, 4.0], vec![0.5; 50]].concat()),
        ("rank 3", vec![1.0, 0.5, 0.25]),
        ("ill-conditioned 1e7", geometric(60, 1e-7)),
        ("repeated", [vec![2.0; 8], vec![0.1; 40]].concat()),
        ("huge", scaled(1e30)),
        ("tiny", scaled(1e-30)),
        ("zero", vec![0.0]),
    ];
    let seed = 10 * context.seed;
    let parts: Vec<Array> =
        spectra.iter().enumerate().map(|(i, (_, s))| with_spectrum(m, n, s, seed + i as u64)).collect();
    let given = factors(context, &mut found, &parts, |x| {
        let cold = randomized_svd(x, K, SvdOptions::default(), None)?;
        let warm = randomized_svd(x, K, SvdOptions::default(), Some(&cold.v))?;
        Ok(vec![cold.u, cold.s_all, cold.v, warm.u, warm.s_all, warm.v])
    })
    .await?;
    for (start, given) in [("cold", &given[..3]), ("warm", &given[3..])] {
        for (i, ((name, _), x)) in spectra.iter().zip(&parts).enumerate() {
            let (u, s, v) = (given[0].matrix(i), given[1].row(i), given[2].matrix(i));
            let (what, want) = (format!("{name}, {start}"), singular_values(x));
            let largest = want[0].max(1e-37);
            orthonormal(&mut found, &format!("{what}, U"), &u);
            orthonormal(&mut found, &format!("{what}, V"), &v);
            for j in 0..K {
                // 4e-6: products of length max(m, n) before the small SVD. Below: what the sketch may miss.
                let rounding = 4e-6 * largest;
                found.at_most(&format!("{what}: s[{j}] is too large by"), (s[j] - want[j]).max(0.0), rounding);
                let missing = (want[j] - s[j]).max(0.0);
                found.at_most(&format!("{what}: s[{j}] is too small by"), missing, SLACK * want[j] + rounding);
            }
            let back = u.matmul(&diagonal(&s[..K], [K, K])).matmul(&v.transpose());
            let best = want[K..].iter().map(|t| t * t).sum::<f64>().sqrt();
            let beyond = (back.zip(x, |a, b| a - b).norm() - best).max(0.0);
            let allowed = best * SLACK + 4e-6 * (K as f64).sqrt() * largest;
            found.at_most(&format!("{what}: |U S V - W| beyond the best of this rank"), beyond, allowed);
        }
    }
    Ok(found)
}
