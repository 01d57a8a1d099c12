//! Steps, refreshes and realignments.

use super::rig::{Rig, close, configs, follow, weights};
use crate::common::{gpu, open, tiers};
use crate::reference;
use crate::reference::tape::Mat;
use crate::reference::{Adam, Decoupled, Moments};
use pollster::block_on;
use sdmoe::gpu::{GpuOptions, Tier};
use sdmoe::nn::config::{GradientForm, Realign, SpectralConfig};
use sdmoe::optim::{MetricOptions, Optimizer, OptimizerConfig, SpectralInit, SpectralSetup};
use sdmoe::tensor::Tensor;

#[test]
fn steps_and_refreshes_follow_dense_projectors_in_f64() {
    for gpu in tiers() {
        for config in configs() {
            follow(&gpu, [2, 3, 24, 16, 4], config.clone(), SpectralInit::Fresh);
            follow(&gpu, [2, 2, 40, 32, 8], config, SpectralInit::Fresh);
        }
        let config = with!(SpectralConfig { refresh_every: 3, ..SpectralConfig::default() });
        for sizes in [
            [1, 1, 7, 5, 2],
            [3, 2, 13, 9, 1],
            [2, 4, 5, 30, 3],
            [1, 5, 70, 66, 8],
            // What the kernels for eight lanes and rank 8 take, without and with rows past a block, and not.
            [2, 3, 64, 40, 8],
            [2, 2, 41, 40, 8],
            [1, 2, 300, 24, 8],
            [2, 2, 41, 36, 8],
            // Two tiles of columns.
            [1, 2, 38, 300, 8],
        ] {
            follow(&gpu, sizes, config.clone(), SpectralInit::Fresh);
        }
    }
}

#[test]
fn small_bindings_split_the_stacks_and_change_nothing() {
    let small = |tier| open(&GpuOptions::default().tier(tier).max_binding_bytes(32 << 10));
    let (own, gpu) = (small(None), small(Some(Tier::Gpu)));
    let config = with!(SpectralConfig { refresh_every: 3, ..SpectralConfig::default() });
    for sizes in [
        [2, 3, 66, 72, 8],
        [1, 2, 100, 72, 8],
        [2, 2, 96, 96, 8],
        [1, 3, 96, 104, 4],
        [1, 3, 97, 103, 3],
        [1, 2, 97, 106, 2],
    ] {
        follow(&own, sizes, config.clone(), SpectralInit::Fresh);
    }
    // Matrices that are whole in a launch of their own, and some that are cut.
    for sizes in [[2, 2, 64, 72, 8], [1, 2, 100, 96, 8]] {
        follow(&gpu, sizes, config.clone(), SpectralInit::Fresh);
    }
}

#[test]
fn fresh_parts_start_in_their_subspaces_with_the_energy_of_a_plain_start() {
    for sizes in [[2, 3, 24, 16, 4], [1, 1, 9, 5, 1], [1, 2, 80, 72, 8], [1, 2, 8, 12, 8]] {
        let [layers, e, m, n, k] = sizes;
        let gpu = gpu();
        let before = weights(&gpu, sizes);
        let rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::Fresh);
        for layer in 0..layers {
            let z = rig.mats(&before.iter().nth(layer).unwrap().value);
            let d = rig.decoupled(layer);
            close("U^T U", &(d.u.transpose() * &d.u), &Mat::identity(k, k), 1e-5);
            close("V^T V", &(d.v.transpose() * &d.v), &Mat::identity(k, k), 1e-5);
            let mut energy = 0.0;
            for (w_u, z) in d.w_u.iter().zip(&z) {
                assert!((w_u - d.unique(z)).amax() < 2e-6 * z.amax());
                energy += (z.norm_squared() - w_u.norm_squared()) / e as f64;
            }
            assert!((d.w_c.norm_squared() / energy - 1.0).abs() < 1e-4, "{} {energy}", d.w_c.norm_squared());
            assert!((d.common(&d.w_c) - &d.w_c).amax() < 1e-5 * d.w_c.amax());
            let s = reference::svd(&d.w_c).1;
            if k > 1 {
                assert!((s[0] / s[k - 1] - 1.25 / 0.75).abs() < 1e-4, "{s:?}");
            }
            assert!(k == m.min(n) || s[k] < 1e-5 * s[0], "{s:?}");
        }
    }
}

#[test]
fn a_projected_update_keeps_the_unique_parts_in_the_double_complement() {
    let config = with!(SpectralConfig { refresh_every: 100, ..SpectralConfig::default() });
    for (project_update, limits) in [(true, 0.0..1e-5), (false, 1e-2..1.0)] {
        let config = with!(SpectralConfig { project_update, ..config.clone() });
        let mut rig = Rig::new(&gpu(), [1, 3, 40, 32, 8], config, SpectralInit::Fresh);
        for step in 1..=20 {
            rig.gradients(step);
            rig.optimizer.step(step, 0.02).unwrap();
        }
        let d = rig.decoupled(0).drift();
        assert!(limits.contains(&d.worst()), "{d:?}");
        let metrics = block_on(rig.optimizer.metrics(MetricOptions::default()).unwrap().read()).unwrap();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        assert!((metrics[0].drift_model - mean(&d.left)).abs() < 1e-6 + 1e-4 * mean(&d.left));
        assert!((metrics[0].drift_hidden - mean(&d.right)).abs() < 1e-6 + 1e-4 * mean(&d.right));
        assert!(metrics[0].refresh.is_none());
    }
}

#[test]
fn realignments_keep_what_they_promise() {
    let sizes = [2, 4, 30, 26, 4];
    for realign in [Realign::None, Realign::Project, Realign::Absorb] {
        // As the update is not projected, there is something to realign.
        let config =
            with!(SpectralConfig { realign, project_update: false, refresh_every: 100, ..SpectralConfig::default() });
        let mut rig = Rig::new(&gpu(), sizes, config.clone(), SpectralInit::Fresh);
        for step in 1..=5 {
            rig.gradients(step);
            rig.optimizer.step(step, 0.02).unwrap();
        }
        let mean = |rig: &Rig| rig.merged(1).iter().sum::<Mat>() / 4.0;
        let (before, mean_before, d) = (rig.merged(1), mean(&rig), rig.decoupled(1));
        let pass = Tensor::from_f32(&rig.gpu, [4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
        let config = with!(SpectralConfig { rank: 4, ..config });
        for stack in &rig.optimizer.banks()[0].stacks {
            stack.refresh(&config, 1, 2, &pass).unwrap();
        }
        let after = rig.decoupled(1);
        let change: f64 = rig.merged(1).iter().zip(&before).map(|(a, b)| (a - b).norm_squared()).sum();
        match realign {
            Realign::None => {
                assert_eq!(change, 0.0);
                assert_eq!(after.w_u, d.w_u);
            }
            Realign::Project => assert_eq!(after.w_c, d.w_c),
            Realign::Absorb => close("mean of W_i", &mean(&rig), &mean_before, 1e-6),
        }
        if realign != Realign::None {
            assert!(after.drift().worst() < 1e-5 && change > 1e-6, "{:?} {change}", after.drift());
        }
        // What the refresh measured, against the full SVD.
        let drift = d.drift();
        let metrics = block_on(rig.optimizer.metrics(MetricOptions::default()).unwrap().read()).unwrap();
        let seen = metrics.iter().find(|m| m.layer == 1).unwrap().refresh.unwrap();
        assert!((seen.common_gap / drift.gap - 1.0).abs() < 1e-3, "{seen:?} {drift:?}");
        assert!((seen.common_energy_beyond_rank - drift.tail_energy).abs() < 1e-5, "{seen:?} {drift:?}");
        let sine = (&after.u - &d.u * (d.u.transpose() * &after.u)).singular_values()[0];
        let sine = sine.max((&after.v - &d.v * (d.v.transpose() * &after.v)).singular_values()[0]);
        assert!((seen.basis_angle.sin() - sine).abs() < 1e-5, "{seen:?} {sine}");
        let left = drift.left.iter().sum::<f64>() / 4.0;
        assert!((seen.drift_model - left).abs() < 1e-5, "{seen:?} {left}");
    }
}

#[test]
fn parts_made_from_weights_leave_the_weights_as_they_are() {
    for sizes in [[2, 3, 24, 16, 4], [1, 1, 70, 90, 8], [1, 3, 5, 7, 5]] {
        let gpu = gpu();
        let before = weights(&gpu, sizes);
        let rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::FromWeights { step: 0 });
        for layer in 0..sizes[0] {
            let w = rig.mats(&before.iter().nth(layer).unwrap().value);
            assert_eq!(rig.merged(layer), w);
            let want = Decoupled::from_experts(&w, sizes[4]);
            let d = rig.decoupled(layer);
            // The mean of Gaussian experts has no gap: compare what the rank leaves over, not the subspace.
            let mean = w.iter().sum::<Mat>() / w.len() as f64;
            let (got, best) = ((&mean - &d.w_c).norm(), (&mean - &want.w_c).norm());
            assert!(got <= best * 1.01 + 1e-5 * mean.norm(), "{sizes:?}: {got} {best}");
        }
    }
}

#[test]
fn rank_zero_is_plain_adamw_bit_for_bit() {
    let gpu = gpu();
    let run = |config: SpectralConfig| {
        let mut rig = Rig::new(&gpu, [2, 3, 10, 12, 0], config, SpectralInit::Fresh);
        assert!(rig.optimizer.banks().is_empty());
        for step in 1..=3 {
            rig.gradients(step);
            rig.optimizer.step(step, 0.01).unwrap();
        }
        let names: Vec<String> = rig.optimizer.state().unwrap().into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"adam.layers.1.gate.m".to_owned()), "{names:?}");
        (rig.merged(0), rig.merged(1))
    };
    let off = with!(SpectralConfig { enabled: false, ..SpectralConfig::default() });
    assert_eq!(run(SpectralConfig::default()), run(off));
}

#[test]
fn moments_that_start_on_the_way_have_their_own_bias_correction() {
    let gpu = gpu();
    let sizes = [1, 3, 24, 16, 4];
    let set = weights(&gpu, sizes);
    let adam = with!(OptimizerConfig { beta2: 0.999, clip: 0.0, weight_decay: 0.0, ..OptimizerConfig::default() });
    let config = with!(SpectralConfig { rank: 4, project_update: false, ..SpectralConfig::default() });
    let init = SpectralInit::FromWeights { step: 999 };
    let setup = SpectralSetup { config: &config, init, seed: 7, tokens_per_expert: f64::INFINITY };
    let optimizer = Optimizer::new(&gpu, &set, &adam, setup).unwrap();
    let mut rig = Rig { gpu, set, optimizer, sizes, adam: Adam::from(&adam), config: config.resolved() };
    assert_eq!(block_on(rig.state("spectral.common_since").to_f32()).unwrap(), [999.0]);
    let mut d = rig.decoupled(0);
    let mut moments = Moments::like(&d.w_c);
    for t in 1..=3 {
        let g: Mat = rig.gradients(t)[0].iter().map(|g| d.common(g)).sum();
        rig.optimizer.step(999 + t, 0.01).unwrap();
        d.w_c -= rig.adam.direction(&mut moments, &g, t as i32) * f64::from(0.01f32);
        close("W_c", &rig.part(0, "w_c")[0], &d.w_c, 1e-4);
    }
}

#[test]
fn with_the_full_rank_the_unique_parts_only_decay() {
    let config = with!(SpectralConfig { realign: Realign::None, refresh_every: 2, ..SpectralConfig::default() });
    let mut rig = Rig::new(&gpu(), [1, 3, 12, 8, 8], config, SpectralInit::FromWeights { step: 0 });
    let before = rig.decoupled(0);
    for step in 1..=5 {
        rig.gradients(step);
        rig.optimizer.step(step, 0.02).unwrap();
    }
    let after = rig.decoupled(0);
    for (before, after) in before.w_u.iter().zip(&after.w_u) {
        assert!(before.amax() > 0.1);
        close("W_u", after, &(before * rig.adam.kept(f64::from(0.02f32)).powi(5)), 1e-5);
    }
    assert!((after.w_c - before.w_c).amax() > 0.05);
}

#[test]
fn with_the_full_rank_the_unique_parts_stay_zero() {
    for sizes in [[2, 3, 12, 8, 8], [1, 2, 6, 6, 6]] {
        for (project_update, form) in
            [(true, GradientForm::Direct), (false, GradientForm::Direct), (false, GradientForm::TokenSpace)]
        {
            let config = with!(SpectralConfig {
                project_update,
                gradient_form: form,
                refresh_every: 2,
                ..SpectralConfig::default()
            });
            let mut rig = Rig::new(&gpu(), sizes, config, SpectralInit::Fresh);
            let start = rig.decoupled(0).w_c;
            for step in 1..=5 {
                rig.gradients(step);
                rig.optimizer.step(step, 0.02).unwrap();
            }
            let d = rig.decoupled(0);
            assert!(rig.merged(0).iter().all(|w| *w == d.w_c), "{sizes:?}, {project_update}, {form:?}");
            assert!(form == GradientForm::TokenSpace || (d.w_c - start).amax() > 0.05);
        }
    }
}
