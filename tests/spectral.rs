//! SD-MoE on the device against dense f64 projectors and full SVDs, and the invariants that METHOD §3 to §5 promise.

mod common;
mod reference;

use common::{gpu, open, tiers};
use pollster::block_on;
use reference::tape::Mat;
use reference::{Adam, Decoupled, Moments};
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::kernels::grouped::Groups;
use sdmoe::nn::config::{CommonGradient, ExpertMatrix, GradientForm, Realign, SpectralConfig};
use sdmoe::nn::params::{Group, ParamBuilder, ParamSet};
use sdmoe::nn::spectral::gradient_form;
use sdmoe::optim::{MetricOptions, Optimizer, OptimizerConfig, SpectralInit};
use sdmoe::tensor::Tensor;

/// Layers, experts, rows, columns, rank.
type Sizes = [usize; 5];

struct Rig {
    gpu: Gpu,
    set: ParamSet,
    optimizer: Optimizer,
    sizes: Sizes,
    adam: Adam,
    config: SpectralConfig,
}

fn adam_config() -> OptimizerConfig {
    OptimizerConfig { clip: 1.0, ..OptimizerConfig::default() }
}

fn weights(gpu: &Gpu, [layers, e, m, n, _]: Sizes) -> ParamSet {
    let mut builder = ParamBuilder::default();
    for layer in 0..layers {
        builder.add(format!("layers.{layer}.gate"), Group::Experts(ExpertMatrix::Gate), &[e, m, n]);
    }
    builder.add("embedding", Group::Decay, &[11, 3]);
    let set = builder.build(gpu).unwrap();
    for (i, param) in set.iter().enumerate() {
        let z = Array::random(param.value.dims(), 10 + i as u64).map(|x| x / (m as f64).sqrt());
        param.value.write_f32(&z.to_f32()).unwrap();
    }
    set
}

impl Rig {
    fn new(gpu: &Gpu, sizes: Sizes, config: SpectralConfig, init: SpectralInit) -> Self {
        let set = weights(gpu, sizes);
        let config = SpectralConfig { rank: sizes[4], ..config };
        let optimizer = Optimizer::new(gpu, &set, &adam_config(), &config, 7, init).unwrap();
        let adam = Adam::from(&adam_config());
        Self { gpu: gpu.clone(), set, optimizer, sizes, adam, config: config.resolved() }
    }

    fn state(&self, name: &str) -> Tensor {
        let state = self.optimizer.state().unwrap();
        state.into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn mats(&self, x: &Tensor) -> Vec<Mat> {
        let (rows, cols) = (x.dims()[x.dims().len() - 2], x.cols());
        let data = block_on(x.to_f32()).unwrap();
        let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
        wide.chunks(rows * cols).map(|c| Mat::from_row_slice(rows, cols, c)).collect()
    }

    fn part(&self, layer: usize, name: &str) -> Vec<Mat> {
        self.mats(&self.state(&format!("spectral.gate.{layer}.{name}")))
    }

    fn decoupled(&self, layer: usize) -> Decoupled {
        let one = |name| self.part(layer, name).remove(0);
        Decoupled { w_c: one("w_c"), w_u: self.part(layer, "w_u"), u: one("u"), v: one("v") }
    }

    fn merged(&self, layer: usize) -> Vec<Mat> {
        let param = self.set.iter().find(|p| p.name == format!("layers.{layer}.gate")).unwrap();
        self.mats(&param.value)
    }

    /// Writes gradients drawn from `seed`, and as large, with a part that all experts share; returns the experts' by layer.
    fn gradients(&self, seed: u64) -> Vec<Vec<Mat>> {
        let size = seed as f64;
        let [_, e, m, n, _] = self.sizes;
        let mut all = Vec::new();
        for (i, param) in self.set.iter().enumerate() {
            let noise = Array::random(param.value.dims(), seed * 100 + i as u64);
            let shared = Array::random(&[m * n], seed * 100 + 50 + i as u64);
            let g = Array::from_fn(param.value.dims(), |j| {
                // Sizes that differ from step to step: AdamW would not notice a common factor.
                size * (0.1 * noise.data[j] + 0.05 * shared.data[j % (m * n)])
            });
            let g = g.to_f32();
            param.gradient.write_f32(&g).unwrap();
            if param.name.contains("gate") {
                let wide: Vec<f64> = g.iter().map(|&x| f64::from(x)).collect();
                all.push(wide.chunks(m * n).map(|c| Mat::from_row_slice(m, n, c)).collect::<Vec<_>>());
                assert_eq!(all.last().unwrap().len(), e);
            }
        }
        all
    }

    fn embedding_gradient(&self) -> f64 {
        let param = self.set.iter().find(|p| p.name == "embedding").unwrap();
        block_on(param.gradient.to_f32()).unwrap().iter().map(|&x| f64::from(x).powi(2)).sum()
    }
}

fn close(what: &str, got: &Mat, want: &Mat, tolerance: f64) {
    let scale = want.amax().max(1e-3);
    let worst = (got - want).amax();
    assert!(worst <= tolerance * scale, "{what}: off by {worst:.3e} of {scale:.3e}");
}

fn projector(u: &Mat) -> Mat {
    u * u.transpose()
}

fn configs() -> Vec<SpectralConfig> {
    let base = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
    let mut all = vec![SpectralConfig { as_published: true, ..base.clone() }];
    all.push(SpectralConfig { common_gradient: CommonGradient::Mean, warm_start: false, ..base.clone() });
    for realign in [Realign::None, Realign::Project, Realign::Absorb] {
        for project_update in [true, false] {
            all.push(SpectralConfig { realign, project_update, ..base.clone() });
        }
    }
    all
}

/// Runs seven steps on the device and in f64 and compares all parts after each.
fn follow(gpu: &Gpu, sizes: Sizes, config: SpectralConfig, init: SpectralInit) {
    let mut rig = Rig::new(gpu, sizes, config, init);
    let layers = sizes[0];
    let mut want: Vec<Decoupled> = (0..layers).map(|l| rig.decoupled(l)).collect();
    let mut moments: Vec<(Moments, Vec<Moments>)> =
        want.iter().map(|d| (Moments::like(&d.w_c), d.w_u.iter().map(Moments::like).collect())).collect();
    let mut scales = Vec::new();
    for step in 1..=7u64 {
        let gradients = rig.gradients(step);
        let mut square = rig.embedding_gradient();
        let split: Vec<(Mat, Vec<Mat>)> = gradients
            .iter()
            .zip(&want)
            .map(|(g, d)| {
                let share = if rig.config.common_gradient == CommonGradient::Sum { 1.0 } else { 1.0 / g.len() as f64 };
                (g.iter().map(|g| d.common(g)).sum::<Mat>() * share, g.iter().map(|g| d.unique(g)).collect())
            })
            .collect();
        for (c, u) in &split {
            square += c.norm_squared() + u.iter().map(Mat::norm_squared).sum::<f64>();
        }
        let lr = 0.01;
        let output = rig.optimizer.step(step, lr).unwrap();
        let clip = block_on(output.norm.to_f32()).unwrap();
        assert!((f64::from(clip[0]) - square.sqrt()).abs() < 2e-5 * square.sqrt(), "{clip:?} {}", square.sqrt());
        let scale = rig.adam.clip_scale(square.sqrt());
        assert!((f64::from(clip[1]) - scale).abs() < 2e-5 * scale, "{clip:?}, expected a scale of {scale}");
        scales.push(scale);
        let (lr, t) = (f64::from(lr), step as i32);
        for ((d, (g_c, g_u)), (m_c, m_u)) in want.iter_mut().zip(&split).zip(&mut moments) {
            let direction = rig.adam.direction(m_c, &(g_c * scale), &d.w_c, true, t);
            let direction = if rig.config.project_update { d.common(&direction) } else { direction };
            d.w_c -= direction * lr;
            for (i, (m_u, g_u)) in m_u.iter_mut().zip(g_u).enumerate() {
                let direction = rig.adam.direction(m_u, &(g_u * scale), &d.w_u[i], true, t);
                let direction = if rig.config.project_update { d.unique(&direction) } else { direction };
                d.w_u[i] -= direction * lr;
            }
            if step % rig.config.refresh_every == 0 {
                d.refresh(rig.config.realign);
            }
        }
        for (layer, d) in want.iter().enumerate() {
            let got = rig.decoupled(layer);
            let what = |part: &str| format!("{part}, step {step}, layer {layer}, {sizes:?}, {:?}", rig.config);
            close(&what("P_U"), &projector(&got.u), &projector(&d.u), 1e-4);
            close(&what("P_V"), &projector(&got.v), &projector(&d.v), 1e-4);
            close(&what("W_c"), &got.w_c, &d.w_c, 1e-3);
            for ((got, merged), want) in got.w_u.iter().zip(rig.merged(layer)).zip(&d.w_u) {
                close(&what("W_u"), got, want, 1e-3);
                close(&what("W"), &merged, &(want + &d.w_c), 1e-3);
            }
        }
    }
    // So that a scale that is dropped shows in the moments.
    assert!(scales.iter().any(|s| *s < 0.7), "{scales:?}");
    assert!(scales[6] < 0.8 * scales[0], "{scales:?}");
}

#[test]
fn steps_and_refreshes_follow_dense_projectors_in_f64() {
    for gpu in tiers() {
        for config in configs() {
            follow(&gpu, [2, 3, 24, 16, 4], config.clone(), SpectralInit::Fresh);
            follow(&gpu, [2, 2, 40, 32, 8], config, SpectralInit::Fresh);
        }
        let config = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
        for sizes in [
            [1, 1, 7, 5, 2],
            [3, 2, 13, 9, 1],
            [2, 4, 5, 30, 3],
            [1, 5, 70, 66, 8],
            // What the kernels for eight lanes and rank 8 take, without and with rows past a block.
            [2, 3, 64, 40, 8],
            [2, 2, 41, 36, 8],
        ] {
            follow(&gpu, sizes, config.clone(), SpectralInit::Fresh);
        }
    }
}

#[test]
fn small_bindings_split_the_stacks_and_change_nothing() {
    let gpu = open(&GpuOptions { max_binding_bytes: Some(32 << 10), ..GpuOptions::default() });
    let config = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
    for sizes in [[2, 3, 66, 68, 8], [2, 2, 96, 96, 8], [1, 3, 96, 104, 4], [1, 3, 97, 103, 3], [1, 2, 97, 106, 2]] {
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
            for ((w_u, z), w) in d.w_u.iter().zip(&z).zip(rig.merged(layer)) {
                assert!((w_u - d.unique(z)).amax() < 2e-6 * z.amax());
                assert!((w - (w_u + &d.w_c)).amax() < 1e-6);
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
fn both_parts_add_up_to_the_gradient_and_are_orthogonal() {
    use sdmoe::kernels::spectral_update::{Mix, apply};
    for gpu in tiers() {
        for sizes in [[2, 3, 24, 16, 4], [1, 1, 17, 13, 3], [2, 2, 33, 8, 8], [1, 4, 6, 6, 6], [1, 2, 128, 100, 8]] {
            let mut rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::Fresh);
            let g = rig.gradients(3);
            rig.optimizer.plan(1e9).unwrap();
            let stack = &rig.optimizer.banks()[0].stacks[0];
            let factors = stack.basis.factors(&stack.basis.skinny(&stack.gradient).unwrap()).unwrap();
            let pass = Tensor::from_f32(&gpu, [4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
            let unique = stack.gradient.duplicate().unwrap();
            let common = Tensor::zeros(&gpu, unique.shape()).unwrap();
            for (x, factor) in [(&unique, -1.0), (&common, 1.0)] {
                let mix = Mix { full: 0.0, common: Some((factor, &factors)) };
                apply(x, None, mix, &stack.basis, None, &pass).unwrap();
            }
            let (unique, common) = (rig.mats(&unique), rig.mats(&common));
            let d = rig.decoupled(0);
            for (i, g) in g[0].iter().enumerate() {
                let scale = g.amax();
                assert!((&unique[i] + &common[i] - g).amax() < 1e-6 * scale);
                assert!((&unique[i] - d.unique(g)).amax() < 3e-6 * scale, "{sizes:?}");
                for common in common.iter().take(g.len().min(sizes[1])) {
                    let inner = unique[i].dot(common).abs();
                    assert!(inner < 1e-5 * g.norm_squared(), "{sizes:?}: {inner}");
                }
            }
        }
    }
}

/// Routed rows with garbage past the last expert: x, dy (both device and, by expert, host) and their groups.
fn routed(gpu: &Gpu, counts: &[usize], m: usize, n: usize) -> (Tensor, Tensor, Groups, Vec<(Mat, Mat)>) {
    let tile_rows = sdmoe::kernels::grouped::tile_rows(gpu);
    let rows: usize = counts.iter().sum();
    let capacity = Groups::capacity(rows, counts.len(), tile_rows) + tile_rows;
    let (mut x, mut dy) = (vec![f32::NAN; capacity * m], vec![f32::INFINITY; capacity * n]);
    let (mut offsets, mut tiles, mut host) = (vec![0u32], Vec::new(), Vec::new());
    for (e, &count) in counts.iter().enumerate() {
        let first = *offsets.last().unwrap() as usize;
        let padded = count.next_multiple_of(tile_rows);
        let (hx, hy) = (Array::random(&[count * m], 40 + e as u64), Array::random(&[count * n], 60 + e as u64));
        x[first * m..(first + padded) * m].fill(0.0);
        dy[first * n..(first + padded) * n].fill(0.0);
        x[first * m..(first + count) * m].copy_from_slice(&hx.to_f32());
        dy[first * n..(first + count) * n].copy_from_slice(&hy.to_f32());
        tiles.extend(vec![e as u32; padded / tile_rows]);
        offsets.push((first + padded) as u32);
        host.push((Mat::from_row_slice(count, m, &hx.data), Mat::from_row_slice(count, n, &hy.data)));
    }
    tiles.resize(capacity / tile_rows, sdmoe::kernels::grouped::NONE);
    let counts: Vec<u32> = counts.iter().map(|&c| c as u32).collect();
    let groups = Groups {
        experts: counts.len(),
        tile_rows,
        capacity,
        tile_expert: Tensor::from_u32(gpu, [tiles.len()], &tiles).unwrap(),
        offsets: Tensor::from_u32(gpu, [offsets.len()], &offsets).unwrap(),
        counts: Tensor::from_u32(gpu, [counts.len()], &counts).unwrap(),
    };
    let x = Tensor::from_f32(gpu, [capacity, m], &x).unwrap();
    let dy = Tensor::from_f32(gpu, [capacity, n], &dy).unwrap();
    (x, dy, groups, host)
}

#[test]
fn the_token_space_form_gives_what_the_direct_form_gives() {
    use sdmoe::autograd::Tape;
    use sdmoe::ops::ExpertMatMul;
    for gpu in tiers() {
        let (m, n, counts) = (24, 20, [5, 0, 37, 1]);
        let (x, dy, groups, host) = routed(&gpu, &counts, m, n);
        let mut merged = Vec::new();
        for form in [GradientForm::Direct, GradientForm::TokenSpace] {
            let config = SpectralConfig { gradient_form: form, refresh_every: 2, ..SpectralConfig::default() };
            let mut rig = Rig::new(&gpu, [1, 4, m, n, 4], config, SpectralInit::Fresh);
            for step in 1..=3 {
                let d = rig.decoupled(0);
                // A pass that no step follows, then two micro-batches: the first replaces, the second adds to it.
                for accumulate in [false, false, true] {
                    let param = rig.set.iter().find(|p| p.name.contains("gate")).unwrap();
                    let space = rig.optimizer.token_space(0, ExpertMatrix::Gate).unwrap();
                    assert_eq!(space.is_some(), form == GradientForm::TokenSpace);
                    let mut tape = Tape::new(&gpu);
                    let (vx, vw) = (tape.constant(&x), tape.parameter(&param.value, &param.gradient, accumulate));
                    let op = ExpertMatMul { token_space: space, ..ExpertMatMul::new(groups.clone()) };
                    let y = tape.apply(op, &[vx, vw]).unwrap();
                    tape.backward(&[(y, dy.clone())]).unwrap();
                }
                let g: Vec<Mat> = host.iter().map(|(x, dy)| 2.0 * x.transpose() * dy).collect();
                let square = g.iter().map(|g| d.common(g)).sum::<Mat>().norm_squared()
                    + g.iter().map(|g| d.unique(g).norm_squared()).sum::<f64>();
                let output = rig.optimizer.step(step, 0.01).unwrap();
                let norm = f64::from(block_on(output.norm.to_f32()).unwrap()[0]);
                assert!((norm - square.sqrt()).abs() < 1e-5 * norm, "{form:?}: {norm} {}", square.sqrt());
            }
            merged.push(rig.merged(0));
            let metrics = block_on(rig.optimizer.metrics(MetricOptions::default()).unwrap().read()).unwrap();
            assert_eq!(metrics[0].common_gradient_share.is_some(), form == GradientForm::Direct);
        }
        for (a, b) in merged[0].iter().zip(&merged[1]) {
            close("W", b, a, 1e-3);
        }
    }
}

#[test]
fn the_rule_chooses_the_cheaper_form() {
    assert_eq!(gradient_form(GradientForm::Auto, 128, 128, 86.0), GradientForm::Direct);
    assert_eq!(gradient_form(GradientForm::Auto, 128, 128, 85.0), GradientForm::TokenSpace);
    assert_eq!(gradient_form(GradientForm::Auto, 2048, 1408, 1000.0), GradientForm::TokenSpace);
    assert_eq!(gradient_form(GradientForm::Direct, 2048, 1408, 1.0), GradientForm::Direct);
    let mut rig = Rig::new(&gpu(), [1, 2, 64, 64, 8], SpectralConfig::default(), SpectralInit::Fresh);
    rig.optimizer.plan(10.0).unwrap();
    assert_eq!(rig.optimizer.banks()[0].form, GradientForm::TokenSpace);
}

#[test]
fn a_projected_update_keeps_the_unique_parts_in_the_double_complement() {
    let config = SpectralConfig { refresh_every: 100, ..SpectralConfig::default() };
    for (project_update, limits) in [(true, 0.0..1e-5), (false, 1e-2..1.0)] {
        let config = SpectralConfig { project_update, ..config.clone() };
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
        let config = SpectralConfig { realign, project_update: false, refresh_every: 100, ..SpectralConfig::default() };
        let mut rig = Rig::new(&gpu(), sizes, config.clone(), SpectralInit::Fresh);
        for step in 1..=5 {
            rig.gradients(step);
            rig.optimizer.step(step, 0.02).unwrap();
        }
        let mean = |rig: &Rig| rig.merged(1).iter().sum::<Mat>() / 4.0;
        let (before, mean_before, d) = (rig.merged(1), mean(&rig), rig.decoupled(1));
        let pass = Tensor::from_f32(&rig.gpu, [4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
        let config = SpectralConfig { rank: 4, ..config };
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
        let rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::FromWeights);
        for layer in 0..sizes[0] {
            let w = rig.mats(&before.iter().nth(layer).unwrap().value);
            assert_eq!(rig.merged(layer), w);
            let want = Decoupled::from_experts(&w, sizes[4]);
            let d = rig.decoupled(layer);
            // The mean of Gaussian experts has no gap: compare what the rank leaves over, not the subspace.
            let mean = w.iter().sum::<Mat>() / w.len() as f64;
            let (got, best) = ((&mean - &d.w_c).norm(), (&mean - &want.w_c).norm());
            assert!(got <= best * 1.01 + 1e-5 * mean.norm(), "{sizes:?}: {got} {best}");
            for (w_u, w) in d.w_u.iter().zip(&w) {
                close("W_u + W_c", &(w_u + &d.w_c), w, 1e-6);
            }
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
    let off = SpectralConfig { enabled: false, ..SpectralConfig::default() };
    assert_eq!(run(SpectralConfig::default()), run(off));
}

#[test]
fn the_state_restores_the_run_bit_for_bit() {
    let gpu = gpu();
    let config = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
    let mut rig = Rig::new(&gpu, [3, 2, 13, 9, 3], config.clone(), SpectralInit::Fresh);
    let run = |rig: &mut Rig, steps: std::ops::RangeInclusive<u64>| {
        for step in steps {
            rig.gradients(step);
            rig.optimizer.step(step, 0.01).unwrap();
        }
    };
    let everything = |rig: &Rig| -> Vec<(String, Vec<f32>)> {
        let params = rig.set.iter().map(|p| (p.name.clone(), p.value.clone()));
        let all = params.chain(rig.optimizer.state().unwrap());
        all.map(|(name, x)| (name, block_on(x.to_f32()).unwrap())).collect()
    };
    run(&mut rig, 1..=4);
    let saved = everything(&rig);
    run(&mut rig, 5..=8);
    let want = everything(&rig);
    let mut resumed = Rig::new(&gpu, [3, 2, 13, 9, 3], config, SpectralInit::Restored);
    let tensors: Vec<(String, Tensor)> = resumed.set.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
    for ((name, x), (saved_name, data)) in tensors.into_iter().chain(resumed.optimizer.state().unwrap()).zip(&saved) {
        assert_eq!(&name, saved_name);
        x.write_f32(data).unwrap();
    }
    resumed.optimizer.restored().unwrap();
    assert_eq!(everything(&resumed), saved);
    run(&mut resumed, 5..=8);
    assert_eq!(everything(&resumed), want);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_even_at_a_refresh() {
    let config = SpectralConfig { refresh_every: 1, ..SpectralConfig::default() };
    let mut rig = Rig::new(&gpu(), [1, 2, 12, 8, 2], config, SpectralInit::Fresh);
    rig.gradients(1);
    rig.optimizer.step(1, 0.01).unwrap();
    let snapshot = |rig: &Rig| -> Vec<(String, Vec<f32>)> {
        let state = rig.optimizer.state().unwrap().into_iter();
        state.map(|(name, x)| (name, block_on(x.to_f32()).unwrap())).collect()
    };
    let (before, merged) = (snapshot(&rig), rig.merged(0));
    let param = rig.set.iter().next().unwrap();
    param.gradient.write_f32(&vec![f32::NAN; param.gradient.numel()]).unwrap();
    let output = rig.optimizer.step(2, 0.1).unwrap();
    assert_eq!(block_on(output.norm.to_f32()).unwrap()[1..], [0.0, 1.0, 0.0]);
    assert!(before.iter().any(|(name, x)| name.contains("refresh.share") && x.iter().all(|x| *x > 0.0)));
    for ((name, x), (_, was)) in snapshot(&rig).iter().zip(&before) {
        assert_eq!(x, was, "{name}");
    }
    assert_eq!(rig.merged(0), merged);
}

#[test]
fn after_the_first_step_nothing_is_created_not_even_by_a_refresh() {
    let gpu = gpu();
    let config = SpectralConfig { refresh_every: 4, ..SpectralConfig::default() };
    let mut rig = Rig::new(&gpu, [2, 3, 24, 16, 4], config, SpectralInit::Fresh);
    rig.gradients(1);
    rig.optimizer.step(1, 0.01).unwrap();
    let before = gpu.counters();
    for step in 2..=9 {
        rig.optimizer.step(step, 0.01).unwrap();
    }
    let after = gpu.counters();
    assert_eq!(after.buffers_created, before.buffers_created);
    assert_eq!(after.bind_groups_created, before.bind_groups_created);
    assert_eq!(after.pipelines_created, before.pipelines_created);
    assert_eq!(after.waits, before.waits);
}

#[test]
fn similarities_and_shares_are_those_of_the_matrices() {
    let gpu = gpu();
    let sizes = [2, 3, 40, 30, 4];
    let config = SpectralConfig { refresh_every: 1, ..SpectralConfig::default() };
    let mut rig = Rig::new(&gpu, sizes, config, SpectralInit::Fresh);
    let g = rig.gradients(1);
    let split = rig.decoupled(0);
    let (_, e, r) = (2, 3, 2);
    rig.optimizer.step(1, 0.01).unwrap();
    let options = MetricOptions { subspace: r, ..MetricOptions::default() };
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

#[test]
fn moments_that_start_on_the_way_have_their_own_bias_correction() {
    let gpu = gpu();
    let sizes = [1, 3, 24, 16, 4];
    let set = weights(&gpu, sizes);
    let adam = OptimizerConfig { beta2: 0.999, clip: 0.0, weight_decay: 0.0, ..OptimizerConfig::default() };
    let config = SpectralConfig { rank: 4, project_update: false, ..SpectralConfig::default() };
    let mut optimizer = Optimizer::new(&gpu, &set, &adam, &config, 7, SpectralInit::FromWeights).unwrap();
    optimizer.common_since(999).unwrap();
    let mut rig = Rig { gpu, set, optimizer, sizes, adam: Adam::from(&adam), config: config.resolved() };
    assert_eq!(block_on(rig.state("spectral.common_since").to_f32()).unwrap(), [999.0]);
    let mut d = rig.decoupled(0);
    let mut moments = Moments::like(&d.w_c);
    for t in 1..=3 {
        let g: Mat = rig.gradients(t)[0].iter().map(|g| d.common(g)).sum();
        rig.optimizer.step(999 + t, 0.01).unwrap();
        d.w_c -= rig.adam.direction(&mut moments, &g, &d.w_c, true, t as i32) * f64::from(0.01f32);
        close("W_c", &rig.part(0, "w_c")[0], &d.w_c, 1e-4);
    }
}

#[test]
fn with_the_full_rank_the_unique_parts_stay_zero() {
    for sizes in [[2, 3, 12, 8, 8], [1, 2, 6, 6, 6]] {
        for (project_update, form) in
            [(true, GradientForm::Direct), (false, GradientForm::Direct), (false, GradientForm::TokenSpace)]
        {
            let config =
                SpectralConfig { project_update, gradient_form: form, refresh_every: 2, ..SpectralConfig::default() };
            let mut rig = Rig::new(&gpu(), sizes, config, SpectralInit::Fresh);
            let start = rig.decoupled(0).w_c;
            for step in 1..=5 {
                rig.gradients(step);
                rig.optimizer.step(step, 0.02).unwrap();
            }
            let d = rig.decoupled(0);
            assert!(d.w_u.iter().all(|w| w.amax() == 0.0), "{sizes:?}, {project_update}, {form:?}");
            assert!(rig.merged(0).iter().all(|w| *w == d.w_c));
            assert!(form == GradientForm::TokenSpace || (d.w_c - start).amax() > 0.05);
        }
    }
}
