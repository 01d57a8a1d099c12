//! Tall-skinny QR, small and randomized SVD, subspaces: against f64, by what does not depend on signs
//! and rotations: orthonormality, residuals, singular values, projectors.

use crate::common::{gpu, open, own_gpu, tiers};
use nalgebra::DMatrix;
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::linalg::svd::{SvdOptions, randomized_svd, randomized_svd_into};
use sdmoe::linalg::svd_small::svd_small;
use sdmoe::linalg::{qr, subspace};
use sdmoe::tensor::{DType, Tensor};

/// The project's bound on `|Q^T Q - I|` (METHOD section 5), entry by entry.
const ORTHONORMAL: f64 = 1e-5;
/// Backward error of a factorisation, relative to the largest singular value: a few dozen eps of f32 (6e-8), which the
/// sums over up to 64 columns and a few thousand rows reach.
const BACKWARD: f64 = 3e-6;

fn upload(gpu: &Gpu, x: &Array) -> Tensor {
    Tensor::from_f32(gpu, &x.shape, &x.to_f32()).unwrap()
}

fn download(x: &Tensor) -> Array {
    Array::from_f32(x.dims(), &block_on(x.to_f32()).unwrap())
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

fn assert_orthonormal(what: &str, q: &Array) {
    assert!(q.data.iter().all(|x| x.is_finite()), "{what}: not finite");
    let gram = q.transpose().matmul(q);
    let identity = Array::from_fn(&gram.shape, |i| f64::from(u8::from(i / gram.cols() == i % gram.cols())));
    let error = gram.zip(&identity, |a, b| a - b).max_abs();
    assert!(error <= ORTHONORMAL, "{what}: |Q^T Q - I| = {error:.2e}");
}

fn diagonal(s: &[f64], shape: [usize; 2]) -> Array {
    Array::from_fn(
        &shape,
        |i| if i / shape[1] == i % shape[1] { s.get(i % shape[1]).copied().unwrap_or(0.0) } else { 0.0 },
    )
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

/// The matrices that break linear algebra, `m x n` each.
fn awkward(m: usize, n: usize) -> Vec<(&'static str, Array)> {
    let r = m.min(n);
    let repeated = Array::random(&[m, 1], 5);
    let gaussian = Array::random(&[m, n], 6);
    vec![
        ("gaussian", gaussian.clone()),
        ("zero", Array::zeros(&[m, n])),
        ("rank 1", with_spectrum(m, n, &[3.0], 1)),
        ("rank deficient", with_spectrum(m, n, &vec![2.0; r.div_ceil(2)], 2)),
        ("ill-conditioned 1e7", with_spectrum(m, n, &geometric(r, 1e-7), 3)),
        ("one column repeated", Array::from_fn(&[m, n], |i| repeated.data[i / n])),
        ("all equal", Array::new(&[m, n], vec![1.0; m * n])),
        ("identity", diagonal(&vec![1.0; r], [m, n])),
        (
            "zero column and row",
            Array::from_fn(&[m, n], |i| if i % n == n / 2 || i / n == m / 2 { 0.0 } else { gaussian.data[i] }),
        ),
        ("huge", gaussian.map(|x| f64::from(*x as f32 * 1e30))),
        ("tiny", gaussian.map(|x| f64::from(*x as f32 * 1e-30))),
        (
            "columns of all scales",
            Array::from_fn(&[m, n], |i| f64::from((gaussian.data[i] * 10f64.powi(-((i % n) as i32 % 7) * 4)) as f32)),
        ),
    ]
}

/// `count` singular values from 1 down to `last`, in equal ratios.
fn geometric(count: usize, last: f64) -> Vec<f64> {
    (0..count).map(|i| last.powf(i as f64 / (count.max(2) - 1) as f64)).collect()
}

fn check_qr(gpu: &Gpu, what: &str, parts: &[Array]) {
    let [m, l] = parts[0].shape[..] else { panic!("a matrix") };
    let stacked = Array::new(&[parts.len(), m, l], parts.iter().flat_map(|p| p.data.clone()).collect());
    let (q, r) = qr::qr(&upload(gpu, &stacked)).unwrap();
    let (q, r) = (download(&q), download(&r));
    for (i, y) in parts.iter().enumerate() {
        let what = format!("{what} {m} x {l}, matrix {i}, {:?}", gpu.tier());
        let (q, r) = (q.matrix(i), r.matrix(i));
        assert_orthonormal(&what, &q);
        // Column by column: each is scaled on its own.
        let residual = q.matmul(&r).zip(y, |a, b| a - b).transpose();
        let columns = y.transpose();
        for c in 0..l {
            let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let (error, scale) = (norm(residual.row(c)), norm(columns.row(c)));
            assert!(error <= BACKWARD * scale, "{what}: column {c}: |QR - Y| = {error:.2e}, |Y| = {scale:.2e}");
            assert!(r.data[c * l + c] >= 0.0 && r.row(c)[..c].iter().all(|&v| v == 0.0), "{what}: R");
        }
    }
}

#[test]
fn qr_is_orthonormal_and_exact_for_every_input() {
    for gpu in tiers() {
        for (m, l) in [(1, 1), (7, 1), (16, 16), (33, 5), (128, 16), (257, 31), (64, 64), (1031, 16), (1300, 64)] {
            let (names, parts): (Vec<_>, Vec<_>) = awkward(m, l).into_iter().unzip();
            check_qr(&gpu, &names.join(", "), &parts);
        }
    }
}

#[test]
fn qr_goes_over_several_levels_of_blocks() {
    check_qr(&gpu(), "gaussian", &[Array::random(&[20_011, 16], 1)]);
    check_qr(&gpu(), "zero", &[Array::zeros(&[65_536, 8])]);
}

#[test]
fn qr_refuses_wide_and_broad_matrices() {
    let gpu = gpu();
    for shape in [[3, 4], [100, 65]] {
        let error = qr::orthonormalize(&Tensor::zeros(&gpu, shape).unwrap()).unwrap_err().to_string();
        assert!(error.contains("l <= m and l <= 64"), "{error}");
    }
}

#[test]
fn factorisations_do_not_depend_on_the_binding_limit() {
    let small = open(&GpuOptions::default().max_binding_bytes(1 << 16));
    let y = Array::random(&[3, 1500, 9], 4);
    check_qr(&small, "split rows", &[Array::random(&[5000, 8], 3)]);
    let whole = download(&qr::orthonormalize(&upload(&gpu(), &y)).unwrap());
    let split = download(&qr::orthonormalize(&upload(&small, &y)).unwrap());
    assert_eq!(whole, split);
    let x = Array::random(&[37, 40, 40], 5);
    let whole = svd_small(&upload(&gpu(), &x), 3).unwrap();
    let split = svd_small(&upload(&small, &x), 3).unwrap();
    assert_eq!(download(&whole.u), download(&split.u));
    assert_eq!(download(&whole.s), download(&split.s));
    assert_eq!(download(&whole.v), download(&split.v));
}

#[test]
fn small_svd_is_orthonormal_and_exact_for_every_input() {
    for gpu in tiers() {
        for (m, n) in [(1, 1), (1, 9), (5, 1), (7, 7), (16, 16), (17, 13), (13, 40), (33, 33), (64, 64)] {
            let (names, parts): (Vec<_>, Vec<_>) = awkward(m, n).into_iter().unzip();
            let stacked = Array::new(&[parts.len(), m, n], parts.iter().flat_map(|p| p.data.clone()).collect());
            let r = m.min(n);
            let svd = svd_small(&upload(&gpu, &stacked), r).unwrap();
            let (u, s, v) = (download(&svd.u), download(&svd.s), download(&svd.v));
            for (i, x) in parts.iter().enumerate() {
                let what = format!("{} {m} x {n}, {:?}", names[i], gpu.tier());
                let want = singular_values(x);
                assert_orthonormal(&format!("U of {what}"), &u.matrix(i));
                assert_orthonormal(&format!("V of {what}"), &v.matrix(i));
                for (j, (got, want_j)) in s.row(i).iter().zip(&want).enumerate() {
                    assert!((got - want_j).abs() <= 2e-6 * want[0], "{what}: s[{j}] = {got:e}, expected {want_j:e}");
                }
                assert!(s.row(i).is_sorted_by(|a, b| a >= b), "{what}: {:?}", s.row(i));
                let back = u.matrix(i).matmul(&diagonal(s.row(i), [r, r])).matmul(&v.matrix(i).transpose());
                let error = back.zip(x, |a, b| a - b).norm();
                assert!(error <= BACKWARD * (r as f64).sqrt() * want[0], "{what}: |USV - X| = {error:.2e}");
            }
        }
    }
}

/// Checks k triplets of each matrix against the f64 spectrum. `slack`: how far beyond the best rank-k error.
fn check_svd(gpu: &Gpu, names: &[String], parts: &[Array], k: usize, slack: f64, warm: Option<&Tensor>) -> Tensor {
    let [m, n] = parts[0].shape[..] else { panic!("a matrix") };
    let stacked = Array::new(&[parts.len(), m, n], parts.iter().flat_map(|p| p.data.clone()).collect());
    let svd = randomized_svd(&upload(gpu, &stacked), k, SvdOptions::default(), warm).unwrap();
    let (u, s, v) = (download(&svd.u), download(&svd.s_all), download(&svd.v));
    for (i, x) in parts.iter().enumerate() {
        let what = format!("{} {m} x {n}, k = {k}, {:?}", names[i], gpu.tier());
        let want = singular_values(x);
        let largest = want[0].max(1e-37);
        assert_orthonormal(&format!("U of {what}"), &u.matrix(i));
        assert_orthonormal(&format!("V of {what}"), &v.matrix(i));
        let s = s.row(i);
        assert!(s.is_sorted_by(|a, b| a >= b) && s.len() >= k, "{what}: {s:?}");
        for j in 0..k {
            // 4e-6: products of length max(m, n) <= 2048 before the small SVD. Below: what the sketch may miss.
            assert!(s[j] <= want[j] + 4e-6 * largest, "{what}: s[{j}] = {:e}, expected {:e}", s[j], want[j]);
            assert!(s[j] >= want[j] * (1.0 - slack) - 4e-6 * largest, "{what}: s[{j}] = {:e} of {:e}", s[j], want[j]);
        }
        let back = u.matrix(i).matmul(&diagonal(&s[..k], [k, k])).matmul(&v.matrix(i).transpose());
        let error = back.zip(x, |a, b| a - b).norm();
        let best = want[k..].iter().map(|t| t * t).sum::<f64>().sqrt();
        let allowed = best * (1.0 + slack) + 4e-6 * (k as f64).sqrt() * largest;
        assert!(error <= allowed, "{what}: |USV - W| = {error:.3e}, best {best:.3e}");
    }
    svd.v
}

#[test]
fn svd_of_matrices_with_a_small_side_is_the_full_svd() {
    for gpu in tiers() {
        for (m, n) in [(1, 1), (1, 30), (30, 1), (12, 12), (60, 40), (16, 220), (300, 64), (64, 64)] {
            for k in [1, 5, m.min(n)] {
                let (names, parts): (Vec<_>, Vec<_>) =
                    awkward(m, n).into_iter().map(|(name, x)| (name.to_owned(), x)).unzip();
                check_svd(&gpu, &names, &parts, k.min(m.min(n)), 0.0, None);
            }
        }
    }
}

#[test]
fn sketched_svd_finds_the_leading_part_cold_and_warm() {
    for gpu in tiers() {
        for (m, n) in [(96, 80), (80, 131), (257, 70)] {
            let (names, parts): (Vec<_>, Vec<_>) = [
                ("geometric", geometric(60, 1e-4)),
                ("gap", [vec![8.0, 7.0, 6.5, 6.2, 5.0, 4.9, 4.8, 4.0], vec![0.5; 50]].concat()),
                ("rank 3", vec![1.0, 0.5, 0.25]),
                ("ill-conditioned", geometric(60, 1e-7)),
                ("repeated", [vec![2.0; 8], vec![0.1; 40]].concat()),
                ("huge", geometric(60, 1e-4).iter().map(|s| s * 1e30).collect()),
                ("tiny", geometric(60, 1e-4).iter().map(|s| s * 1e-30).collect()),
                ("zero", vec![0.0]),
            ]
            .into_iter()
            .enumerate()
            .map(|(i, (name, s))| (name.to_owned(), with_spectrum(m, n, &s, 10 + i as u64)))
            .unzip();
            // The ratio of the spectrum at k + p decides; after two power iterations it is (s_17 / s_8)^10 < 1e-5.
            let v = check_svd(&gpu, &names, &parts, 8, 1e-4, None);
            check_svd(&gpu, &names, &parts, 8, 1e-4, Some(&v));
        }
    }
}

#[test]
fn a_warm_start_needs_no_power_iteration() {
    let gpu = gpu();
    let spectrum = [vec![8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.5, 2.0], vec![0.9; 100]].concat();
    let w = with_spectrum(160, 144, &spectrum, 3);
    let first = randomized_svd(&upload(&gpu, &w), 8, SvdOptions::default(), None).unwrap();
    // A step of training moves the matrix a little.
    let moved = w.zip(&Array::random(&[160, 144], 9), |a, b| f64::from((a + 1e-3 * b) as f32));
    let want = singular_values(&moved);
    let options = with!(SvdOptions { power_iterations: 0, ..SvdOptions::default() });
    let error = |warm: Option<&Tensor>| {
        let s = download(&randomized_svd(&upload(&gpu, &moved), 8, options, warm).unwrap().s_all);
        (0..8).map(|j| (s.data[j] - want[j]).abs() / want[j]).fold(0.0, f64::max)
    };
    let (cold, warm) = (error(None), error(Some(&first.v)));
    assert!(warm < 1e-4 && cold > 10.0 * warm, "cold {cold:.1e}, warm {warm:.1e}");
}

#[test]
fn a_refresh_writes_to_its_targets_and_allocates_nothing_new() {
    let gpu = own_gpu();
    let w = upload(&gpu, &Array::random(&[3, 96, 80], 2));
    let u = Tensor::persistent(&gpu, [3, 96, 8], DType::F32).unwrap();
    let v = Tensor::persistent(&gpu, [3, 80, 8], DType::F32).unwrap();
    let options = SvdOptions::default();
    randomized_svd_into(&w, &u, &v, options, false).unwrap();
    let refresh = || {
        let s = randomized_svd_into(&w, &u, &v, options, true).unwrap();
        (block_on(u.to_f32()).unwrap(), block_on(s.to_f32()).unwrap())
    };
    refresh();
    let before = gpu.counters();
    refresh();
    let after = gpu.counters();
    assert_eq!(before.buffers_created, after.buffers_created);
    assert_eq!(before.bind_groups_created, after.bind_groups_created);
    assert_eq!(before.pipelines_created, after.pipelines_created);
    assert_orthonormal("u", &download(&u).matrix(2));
    println!("a refresh: {} dispatches", after.dispatches - before.dispatches);
}

#[test]
fn the_same_matrix_gives_the_same_bits_in_any_batch() {
    let gpu = gpu();
    let w = Array::random(&[3, 90, 100], 8);
    let bits = |x: &Array| -> Vec<u64> {
        let svd = randomized_svd(&upload(&gpu, x), 6, SvdOptions::default(), None).unwrap();
        let last = |t: &Tensor| download(t).matrix(t.dims()[0] - 1).data;
        last(&svd.u).iter().chain(&last(&svd.v)).map(|v| v.to_bits()).collect()
    };
    assert_eq!(bits(&w), bits(&w));
    assert_eq!(bits(&w), bits(&w.matrix(2)));
}

#[test]
fn svd_refuses_impossible_ranks_and_foreign_starts() {
    let gpu = gpu();
    let w = Tensor::zeros(&gpu, [2, 80, 70]).unwrap();
    for k in [0, 65, 71] {
        assert!(randomized_svd(&w, k, SvdOptions::default(), None).unwrap_err().to_string().contains("1 <= k"));
    }
    let v = Tensor::zeros(&gpu, [2, 80, 4]).unwrap();
    assert!(randomized_svd(&w, 4, SvdOptions::default(), Some(&v)).unwrap_err().to_string().contains("warm"));
    let u = Tensor::zeros(&gpu, [1, 80, 4]).unwrap();
    assert!(randomized_svd_into(&w, &u, &v, SvdOptions::default(), false).is_err());
}

#[test]
fn projections_split_a_matrix_into_orthogonal_parts() {
    for gpu in tiers() {
        let u = qr::orthonormalize(&upload(&gpu, &Array::random(&[2, 50, 4], 1))).unwrap();
        let x = Array::random(&[2, 50, 7], 2);
        let inside = download(&subspace::project(&u, &upload(&gpu, &x)).unwrap());
        let outside = download(&subspace::complement(&u, &upload(&gpu, &x)).unwrap());
        assert!(inside.zip(&outside, |a, b| a + b).zip(&x, |a, b| a - b).max_abs() < 2e-6);
        for i in 0..2 {
            let basis = download(&u).matrix(i);
            assert!(basis.transpose().matmul(&outside.matrix(i)).max_abs() < 3e-6);
            let want = basis.matmul(&basis.transpose().matmul(&x.matrix(i)));
            assert!(want.zip(&inside.matrix(i), |a, b| a - b).max_abs() < 3e-6);
        }
    }
}

#[test]
fn principal_angles_are_accurate_from_nothing_to_a_right_angle() {
    let want = [0.0, 1e-6, 1e-4, 0.01, 0.5, 0.785, 0.79, 1.2, 1.5607, std::f64::consts::FRAC_PI_2];
    let (m, r) = (64, want.len());
    let q = dense(&Array::random(&[m, 2 * r], 4)).qr().q();
    let a = Array::from_fn(&[1, m, r], |i| q[(i / r, i % r)]);
    let b = Array::from_fn(&[1, m, r], |i| {
        let t: f64 = want[i % r];
        t.cos() * q[(i / r, i % r)] + t.sin() * q[(i / r, r + i % r)]
    });
    for gpu in tiers() {
        let (a, b) = (upload(&gpu, &a), upload(&gpu, &b));
        let got = download(&subspace::angles(&a, &b).unwrap());
        for (g, w) in got.data.iter().zip(want) {
            // The bases themselves are rounded to f32: 6e-8 an element, sqrt(64) of them.
            assert!((g - w).abs() < 1e-6, "{g} for {w}");
        }
        let similarity = download(&subspace::similarity(&a, &b).unwrap()).data[0];
        let mean = want.iter().map(|t| t.cos().powi(2)).sum::<f64>() / r as f64;
        assert!((similarity - mean).abs() < 1e-6, "{similarity} for {mean}");
        let cosines = download(&subspace::cosines(&a, &b).unwrap());
        assert!(cosines.data.iter().zip(want).all(|(g, w)| (g - w.cos()).abs() < 2e-6), "{:?}", cosines.data);
        let distances = subspace::distances(&got.to_f32());
        let norm = |f: fn(f64) -> f64| want.iter().map(|&t| f(t).powi(2)).sum::<f64>().sqrt();
        assert!((distances.geodesic - norm(|t| t)).abs() < 1e-5 && (distances.chordal - norm(f64::sin)).abs() < 1e-5);
        assert!((distances.projection - 1.0).abs() < 1e-6);
    }
}

#[test]
fn what_is_not_finite_has_no_singular_values_and_says_so() {
    for gpu in tiers() {
        for [m, n] in [[1, 1], [5, 1], [3, 7], [64, 64], [3, 300], [100, 90]] {
            let (k, size) = (m.min(n).min(4), m * n);
            let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            let places = [0, size / 2, size - 1];
            // A good matrix, then one for each number and place.
            let mut x = Array::random(&[10, m, n], 3).to_f32();
            for (i, (bad, at)) in bad.iter().flat_map(|b| places.map(|at| (*b, at))).enumerate() {
                x[(i + 1) * size + at] = bad;
            }
            let x = Tensor::from_f32(&gpu, [10, m, n], &x).unwrap();
            let svd = randomized_svd(&x, k, SvdOptions::default(), None).unwrap();
            let what = format!("{m} x {n}, {:?}", gpu.tier());
            let message = block_on(svd.values()).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(message.contains("svd: expected finite numbers, got "), "{what}: {message}");
            let (s, u, v) = (download(&svd.s_all), download(&svd.u), download(&svd.v));
            let (good, broken) = s.data.split_at(s.cols());
            assert!(good.iter().all(|s| s.is_finite() && *s >= 0.0), "{what}: {good:?}");
            assert!(broken.iter().all(|s| s.is_nan()), "{what}: {broken:?}");
            assert_orthonormal(&what, &u.matrix(0));
            assert_orthonormal(&what, &v.matrix(0));
            for i in 1..10 {
                let vectors = [u.matrix(i).data, v.matrix(i).data].concat();
                assert!(vectors.iter().all(|x| x.is_nan()), "{what}: vectors of matrix {i}");
            }
        }
    }
}

#[test]
fn singular_values_of_finite_matrices_are_read_as_they_are() {
    let gpu = gpu();
    let x = upload(&gpu, &Array::random(&[3, 9, 5], 4));
    let small = svd_small(&x, 5).unwrap();
    assert_eq!(block_on(small.values()).unwrap(), block_on(small.s.to_f32()).unwrap());
}
