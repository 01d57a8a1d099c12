//! What looks at tokens, as a library: probes against exact Jacobians, and what may not depend on the experts' order.

use crate::common::{download, gpu, upload};
use pollster::block_on;
use sdmoe::analysis::jacobian::{Experts, JacobianOptions, Prepared, jacobians};
use sdmoe::analysis::record::{Pairs, RoutedPca};
use sdmoe::analysis::routed::Routed;
use sdmoe::analysis::routed_pca::{PcaOptions, routed_pca};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::tensor::Tensor;

/// Gate, up `[E, d, f]` and down `[E, f, d]`; the others are 0.9 of the first and 0.44 their own.
fn experts(gpu: &Gpu, [e, d, f]: [usize; 3]) -> [Tensor; 3] {
    [[e, d, f], [e, d, f], [e, f, d]].map(|shape| {
        let mut w = Array::random(&shape, shape[1] as u64 + 5);
        for i in d * f..w.data.len() {
            w.data[i] = 0.44 * w.data[i] + 0.9 * w.data[i % (d * f)];
        }
        upload(gpu, &w.map(|x| x / (shape[1] as f64).sqrt()))
    })
}

/// `A B^T` made symmetric, of d x d matrices.
fn symmetric(a: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    let product = |i: usize, j: usize| (0..d).map(|k| a[i * d + k] * b[j * d + k]).sum::<f64>();
    (0..d * d).map(|at| (at / d, at % d)).map(|(i, j)| (product(i, j) + product(j, i)) / 2.0).collect()
}

/// The cosine from P probes is `v S_ab v^T / sqrt(v S_aa v^T v S_bb v^T)`, each averaged over P Gaussian v. To first order it
/// deviates by a quadratic form in v with the matrix T, and the variance of `v T v^T` is `2 |T|_F^2`.
#[test]
fn probes_converge_to_the_exact_alignment_with_the_predicted_variance() {
    const SEEDS: u64 = 48;
    let (gpu, d) = (gpu(), 12);
    let [gate, up, down] = experts(&gpu, [2, d, 10]);
    let x = upload(&gpu, &Array::random(&[1, d], 1));
    let of = Experts { gate: &gate, up: &up, down: &down };
    let exact = download(&Prepared::new(of, &x, None).unwrap().at(0).unwrap());
    let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
    let (a, b) = exact.split_at(d * d);
    let [ab, aa, bb] = [(a, b), (a, a), (b, b)].map(|(a, b)| symmetric(a, b, d));
    let trace = |s: &[f64]| (0..d).map(|i| s[i * d + i]).sum::<f64>();
    let (na, nb) = (trace(&aa), trace(&bb));
    let cosine = trace(&ab) / (na * nb).sqrt();
    assert!((0.2..0.9).contains(&cosine), "experts that are alike in part: {cosine}");
    let t = (0..d * d).map(|i| ab[i] / (na * nb).sqrt() - cosine / 2.0 * (aa[i] / na + bb[i] / nb));
    let form = 2.0 * t.map(|t| t * t).sum::<f64>();

    for probes in [64, 256] {
        let one = |seed| {
            let options = JacobianOptions::default().probes(probes).seed(seed);
            block_on(jacobians(&gpu, 0, of, &x, options)).unwrap().mean_of_cosines[0][1].unwrap()
        };
        let found: Vec<f64> = (0..SEEDS).map(one).collect();
        let (n, predicted) = (SEEDS as f64, form / probes as f64);
        let mean = found.iter().sum::<f64>() / n;
        let variance = found.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / (n - 1.0);
        // Four deviations of the mean, and of the variance, sqrt(2 / (n - 1)); a ratio of means is off by about 1 / P.
        let bound = 4.0 * (predicted / n).sqrt() + 1.0 / probes as f64;
        assert!((mean - cosine).abs() < bound, "{probes} probes: {mean}, exact {cosine}, bound {bound}");
        let bound = 4.0 * (2.0 / (n - 1.0)).sqrt();
        assert!((variance / predicted - 1.0).abs() < bound, "{probes} probes: {variance}, predicted {predicted}");
    }
}

fn close(what: &str, got: &Pairs, want: &Pairs, order: &[usize], tolerance: f64) {
    for (i, &from) in order.iter().enumerate() {
        for (j, &other) in order.iter().enumerate() {
            match (got[i][j], want[from][other]) {
                (Some(a), Some(b)) => assert!((a - b).abs() < tolerance, "{what} {i} {j}: {a}, {b}"),
                (a, b) => assert_eq!(a, b, "{what} {i} {j}"),
            }
        }
    }
}

#[test]
fn the_order_of_experts_only_orders_jacobians() {
    let (gpu, [e, d, f], order) = (gpu(), [4, 16, 12], [2, 0, 3, 1]);
    let weights = experts(&gpu, [e, d, f]);
    let permuted = weights.clone().map(|w| {
        let (size, all) = (w.numel() / e, download(&w));
        let moved: Vec<f32> = order.iter().flat_map(|&i| &all[i * size..(i + 1) * size]).copied().collect();
        Tensor::from_f32(&gpu, w.dims(), &moved).unwrap()
    });
    let x = upload(&gpu, &Array::random(&[5, d], 2));
    let [before, after] = [&weights, &permuted].map(|[gate, up, down]| {
        let options = JacobianOptions::default().spectra(true).seed(1);
        block_on(jacobians(&gpu, 0, Experts { gate, up, down }, &x, options)).unwrap()
    });
    close("mean of cosines", &after.mean_of_cosines, &before.mean_of_cosines, &order, 1e-6);
    close("cosine of means", &after.cosine_of_means, &before.cosine_of_means, &order, 1e-6);
    for (i, &from) in order.iter().enumerate() {
        assert!((after.effective_rank[i].unwrap() / before.effective_rank[from].unwrap() - 1.0).abs() < 1e-6);
    }
}

#[test]
fn the_order_of_experts_only_orders_routed_subspaces_and_equal_groups_have_no_distance() {
    let (gpu, d, tokens, experts) = (gpu(), 24, 300, 6);
    let x: Vec<f32> = Array::random(&[tokens, d], 4).to_f32();
    // Experts 0 and 1 share their tokens, 2 to 4 theirs in part, 5 has none.
    let choices = |t: u32| if t < 120 { [0, 1] } else { [[2, 3], [2, 4], [3, 4]][t as usize % 3] };
    let index: Vec<u32> = (0..tokens as u32).flat_map(choices).collect();
    let weight = vec![0.5; index.len()];
    let of = |index: &[u32]| -> RoutedPca {
        let routed = Routed { x: &x, d, index, weight: &weight, top_k: 2, experts };
        block_on(routed_pca(&gpu, 0, routed, PcaOptions::default().r(6).seed(3))).unwrap()
    };
    let before = of(&index);
    for distance in [&before.geodesic, &before.chordal, &before.projection] {
        assert!(distance[0][1].unwrap() < 1e-5, "{distance:?}");
        assert!(distance[0][2].unwrap() > 0.1, "{distance:?}");
        assert_eq!(distance[5][..5], [None; 5]);
    }
    assert!((before.similarity[0][1].unwrap() - 1.0).abs() < 1e-5, "{:?}", before.similarity);
    // Expert i is called order[i].
    let order = [3, 1, 5, 0, 2, 4];
    let named: Vec<u32> = index.iter().map(|&e| order.iter().position(|&o| o == e as usize).unwrap() as u32).collect();
    let after = of(&named);
    for (what, got, want) in [
        ("similarity", &after.similarity, &before.similarity),
        ("geodesic", &after.geodesic, &before.geodesic),
        ("chordal", &after.chordal, &before.chordal),
        ("projection", &after.projection, &before.projection),
    ] {
        close(what, got, want, &order, 1e-5);
    }
}
