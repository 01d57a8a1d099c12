//! How alike experts are, and their gradients.

use super::rig::Rig;
use crate::common::gpu;
use crate::reference;
use crate::reference::tape::Mat;
use pollster::block_on;
use sdmoe::nn::config::SpectralConfig;
use sdmoe::optim::{MetricOptions, SpectralInit};

#[test]
fn similarities_and_shares_are_those_of_the_matrices() {
    let gpu = gpu();
    let sizes = [2, 3, 40, 30, 4];
    let config = with!(SpectralConfig { refresh_every: 1, ..SpectralConfig::default() });
    let mut rig = Rig::new(&gpu, sizes, config, SpectralInit::Fresh);
    let g = rig.gradients(1);
    let split = rig.decoupled(0);
    let (_, e, r) = (2, 3, 2);
    rig.optimizer.step(1, 0.01).unwrap();
    let options = with!(MetricOptions { subspace: r, ..MetricOptions::default() });
    let metrics = block_on(rig.optimizer.metrics(options).unwrap().read()).unwrap();
    assert_eq!(metrics.len(), 2);
    for m in &metrics {
        let d = rig.decoupled(m.layer);
        for (got, mats) in [(m.similarity_merged, d.merged()), (m.similarity_unique, d.w_u.clone())] {
            let tops: Vec<(Mat, Mat)> = mats
                .iter()
                .map(|w| {
                    let (u, _, v) = reference::svd(w);
                    (u.columns(0, r).into_owned(), v.columns(0, r).into_owned())
                })
                .collect();
            let mean = |side: &dyn Fn(&(Mat, Mat)) -> Mat| {
                let pairs = (0..e * e).filter(|i| i / e != i % e);
                let s = |i: usize| (side(&tops[i / e]).transpose() * side(&tops[i % e])).norm_squared() / r as f64;
                pairs.map(s).sum::<f64>() / (e * (e - 1)) as f64
            };
            let got = got.unwrap();
            let (model, hidden) = (mean(&|t| t.0.clone()), mean(&|t| t.1.clone()));
            // Sizes up to 64 get a full SVD, so only f32 and the gap limit the accuracy.
            assert!((got.model - model).abs() < 1e-3 && (got.hidden - hidden).abs() < 1e-3, "{got:?} {model} {hidden}");
        }
        assert_eq!(m.similarity_chance.model, 2.0 / 40.0);
        assert_eq!(m.similarity_chance.hidden, 2.0 / 30.0);
    }
    let want = g[0].iter().map(|g| split.common(g).norm_squared() / g.norm_squared()).sum::<f64>() / 3.0;
    let got = metrics[0].common_gradient_share.unwrap();
    assert!((got - want).abs() < 1e-5, "{got} {want}");
    assert!((metrics[0].common_gradient_chance - (1.0 - 0.9 * 26.0 / 30.0)).abs() < 1e-12);
}

#[test]
fn independent_experts_are_as_alike_as_chance_on_both_sides() {
    let gpu = gpu();
    let sizes = [1, 32, 384, 384, 8];
    let rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::Fresh);
    let metrics = block_on(rig.optimizer.metrics(MetricOptions::default()).unwrap().read()).unwrap();
    let mean = |f: fn(&sdmoe::optim::MatrixMetrics) -> f64| metrics.iter().map(f).sum::<f64>() / metrics.len() as f64;
    // The random directions lie in the 376 dimensions that the common basis leaves.
    let chance = 4.0 / 376.0;
    assert_eq!(mean(|m| m.similarity_chance.model), 4.0 / 384.0);
    for (side, got) in [
        ("model", mean(|m| m.similarity_unique.unwrap().model)),
        ("hidden", mean(|m| m.similarity_unique.unwrap().hidden)),
    ] {
        println!("similarity on the {side} side {got:.5}, chance {chance:.5}");
        // A pair's similarity scatters by sqrt(2) / 376; 496 pairs: 1.7e-4. Four times that.
        assert!((got - chance).abs() < 6.8e-4, "{side} side: {got}, chance {chance}");
    }
}
