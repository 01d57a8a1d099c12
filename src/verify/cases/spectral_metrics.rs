//! The figures of decoupled experts in a training log, from the device's own matrices and bases in f64.

use nalgebra::DMatrix;

use super::sizes;
use super::spectral::{Mat, Sizes, gradients, read, start};
use crate::autograd::Array;
use crate::error::Result;
use crate::kernels::spectral::pair_overlaps;
use crate::nn::config::{Realign, SpectralConfig};
use crate::optim::{MetricOptions, Optimizer, OptimizerConfig};
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (level, shape) in [(Usual, [1, 2, 5, 1]), (Quick, [2, 3, 40, 4]), (Usual, [1, 5, 67, 16])] {
        all.push(Case::new(level, format!("spectral/overlaps/{}", sizes(&shape)), async move |c| {
            overlaps(c, shape).await
        }));
    }
    for (level, shape) in [(Quick, [2, 3, 40, 32, 4]), (Usual, [1, 2, 33, 70, 3])] {
        all.push(Case::new(level, format!("spectral/figures/{}", sizes(&shape)), async move |c| {
            figures(c, shape).await
        }));
    }
    all
}

/// `|U_a^T U_b|_F^2` of all pairs of bases of a layer.
async fn overlaps(context: &Context, [layers, e, m, r]: [usize; 4]) -> Result<Findings> {
    let mut found = Findings::default();
    let count = layers * e;
    let bases: Vec<Mat> = (0..count as u64)
        .map(|i| Array::random(&[m, r], 31 + i + 7919 * context.seed))
        .map(|x| Mat::from_row_slice(m, r, &x.data).qr().q().map(|x| f64::from(x as f32)))
        .collect();
    let data = bases.iter().flat_map(|u| u.transpose().as_slice().to_vec()).collect();
    let x = context.upload(&Array::new(&[layers, e, m, r], data))?;
    let got = context.twice("overlaps", &mut found, async || Ok(vec![pair_overlaps(&x)?.to_f32().await?])).await?;
    let over = |f: &dyn Fn(&Mat, &Mat) -> f64| {
        Array::from_fn(&[layers, e, e], |i| {
            let (layer, a, b) = (i / (e * e), i / e % e, i % e);
            f(&bases[layer * e + a], &bases[layer * e + b])
        })
    };
    let want = over(&|a, b| (a.transpose() * b).norm_squared());
    // Squares of sums, each of which is off by as much again.
    let bound = over(&|a, b| 2.0 * (a.abs().transpose() * b.abs()).norm_squared());
    found.sums("overlaps", &got[0], &want, &bound, m + r * r);
    Ok(found)
}

/// Three steps with a refresh at the second, without a projection, so that the unique parts drift.
async fn figures(context: &Context, shape: Sizes) -> Result<Findings> {
    const SUBSPACE: usize = 2;
    let [layers, _, m, n, k] = shape;
    let mut found = Findings::default();
    let config = SpectralConfig {
        refresh_every: 2,
        realign: Realign::None,
        project_update: false,
        rank: k,
        ..SpectralConfig::default()
    };
    let config = config.resolved();
    let adam = OptimizerConfig { clip: 1.0, eps: 1e-5, ..OptimizerConfig::default() };
    let (set, mut optimizer) = start(context, shape, &config, &adam)?;
    let now = async |optimizer: &Optimizer| -> Result<Vec<_>> {
        let mut all = Vec::with_capacity(layers);
        for layer in 0..layers {
            all.push(read(&set, optimizer, layer).await?);
        }
        Ok(all)
    };
    // Before and after the refresh, with the gradients of its step.
    let mut refreshed = None;
    for step in 1..=3 {
        let before = now(&optimizer).await?;
        let given = gradients(context, &set, shape, step)?;
        optimizer.step(step, 0.01)?;
        if step == config.refresh_every {
            refreshed = Some((given, before, now(&optimizer).await?));
        }
    }
    let end = now(&optimizer).await?;
    let read = async || optimizer.metrics(MetricOptions::default().subspace(SUBSPACE))?.read().await;
    let metrics = read().await?;
    let Some((given, before, after)) = refreshed else { return Ok(found) };
    for (i, one) in metrics.iter().enumerate() {
        let mut close = |what: &str, got: f64, want: f64, tolerance: f64| {
            found.at_most(
                &format!("{what} of layer {i}: {got:.6} for {want:.6}, off by"),
                (got - want).abs(),
                tolerance,
            );
        };
        // Relative errors of sums of some thousand products.
        let drift = |w_u: &[Mat], u: &Mat, v: &Mat| {
            [
                mean(w_u.iter().map(|w| (u.transpose() * w).norm() / w.norm())),
                mean(w_u.iter().map(|w| (w * v).norm() / w.norm())),
            ]
        };
        let (_, w_u, u, v) = &end[i];
        let [model, hidden] = drift(w_u, u, v);
        close("drift, model side", one.drift_model, model, 1e-5);
        close("drift, hidden side", one.drift_hidden, hidden, 1e-5);
        let ((_, _, u, v), (w_c, w_u, next_u, next_v)) = (&before[i], &after[i]);
        let unique = |x: &Mat| {
            let left = x - u * (u.transpose() * x);
            &left - (&left * v) * v.transpose()
        };
        let share = mean(given[i].iter().map(|g| (g - unique(g)).norm_squared() / g.norm_squared()));
        close("common share of the gradient", one.common_gradient_share.unwrap_or(f64::NAN), share, 1e-5);
        let Some(refresh) = one.refresh else {
            found.wrong("no figures of a refresh");
            continue;
        };
        let [model, hidden] = drift(w_u, u, v);
        close("drift before the refresh, model side", refresh.drift_model, model, 1e-5);
        close("drift before the refresh, hidden side", refresh.drift_hidden, hidden, 1e-5);
        let values = falling(w_c);
        close("gap", refresh.common_gap, values[k - 1] / values[k], 1e-4);
        let energy = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
        close(
            "energy beyond the rank",
            refresh.common_energy_beyond_rank,
            energy(&values[k..]) / energy(&values),
            1e-5,
        );
        let angle = [(u, next_u), (v, next_v)].map(|(a, b)| falling(&(b - a * (a.transpose() * b)))[0].min(1.0).asin());
        close("angle between the bases", refresh.basis_angle, angle[0].max(angle[1]), 1e-4);
        // A mean over pairs is right to 3e-4 where the spectrum is the flattest (src/optim/spectral/similarity.rs).
        let merged: Vec<Mat> = end[i].1.iter().map(|w| w + &end[i].0).collect();
        for (what, experts, got) in
            [("merged", &merged, one.similarity_merged), ("unique", &end[i].1, one.similarity_unique)]
        {
            let [model, hidden] = similarity(experts, SUBSPACE);
            let got = got.map_or([f64::NAN; 2], |s| [s.model, s.hidden]);
            close(&format!("similarity, {what}, model side"), got[0], model, 3e-4);
            close(&format!("similarity, {what}, hidden side"), got[1], hidden, 3e-4);
        }
        close("chance of the similarity", one.similarity_chance.model, SUBSPACE as f64 / m as f64, 1e-12);
        let chance = 1.0 - (1.0 - k as f64 / m as f64) * (1.0 - k as f64 / n as f64);
        close("chance of the share", one.common_gradient_chance, chance, 1e-12);
    }
    if metrics.len() != layers {
        found.wrong(format!("figures of {} layers, expected {layers}", metrics.len()));
    }
    context.gpu.fill_free(64 << 20, crate::verify::context::POISON)?;
    if read().await? != metrics {
        found.wrong("the figures differ once free memory is poisoned");
    }
    Ok(found)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Singular values, falling.
fn falling(x: &Mat) -> Vec<f64> {
    x.clone().singular_values().iter().copied().collect()
}

/// Mean of `|A^T B|_F^2 / r` over the pairs of experts, of their leading left and right singular vectors.
fn similarity(experts: &[Mat], r: usize) -> [f64; 2] {
    let leading: Vec<[DMatrix<f64>; 2]> = experts
        .iter()
        .map(|w| {
            let svd = w.clone().svd(true, true);
            let [u, v] = [svd.u, svd.v_t.map(|v| v.transpose())].map(Option::unwrap_or_default);
            [u.columns(0, r).into_owned(), v.columns(0, r).into_owned()]
        })
        .collect();
    [0, 1].map(|side| {
        let pairs: Vec<f64> = (0..experts.len())
            .flat_map(|a| (0..a).map(move |b| (a, b)))
            .map(|(a, b)| (leading[a][side].transpose() * &leading[b][side]).norm_squared() / r as f64)
            .collect();
        mean(pairs.into_iter())
    })
}
