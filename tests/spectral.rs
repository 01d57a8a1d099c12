//! SD-MoE on the device against dense f64 projectors and full SVDs, and the invariants that METHOD §3 to §5 promise.

mod common;
mod reference;

use common::{gpu, open, tiers};
use pollster::block_on;
use reference::tape::Mat;
use reference::{Adam, Decoupled, Moments};
use sdmoe::autograd::{Array, check::compare};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::kernels::gemm::{Trans, gemm};
use sdmoe::kernels::grouped::Groups;
use sdmoe::nn::config::{ExpertMatrix, GradientForm, Realign, SpectralConfig};
use sdmoe::nn::params::{Group, ParamBuilder, ParamSet};
use sdmoe::nn::spectral::gradient_form;
use sdmoe::optim::{AdamConfig, MetricOptions, Optimizer, SpectralInit};
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

fn adam_config() -> AdamConfig {
    AdamConfig { clip: 5.0, ..AdamConfig::default() }
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
        let optimizer = Optimizer::new(gpu, &set, adam_config(), &config, 7, init).unwrap();
        let adam = Adam { clip: adam_config().clip, ..Adam::default() };
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

    /// Writes gradients drawn from `seed`, with a part that all experts share, and returns the experts' by layer.
    fn gradients(&self, seed: u64) -> Vec<Vec<Mat>> {
        let [_, e, m, n, _] = self.sizes;
        let mut all = Vec::new();
        for (i, param) in self.set.iter().enumerate() {
            let noise = Array::random(param.value.dims(), seed * 100 + i as u64);
            let shared = Array::random(&[m * n], seed * 100 + 50 + i as u64);
            let g = Array::from_fn(param.value.dims(), |j| 0.1 * noise.data[j] + 0.05 * shared.data[j % (m * n)]);
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
    for step in 1..=7u64 {
        let gradients = rig.gradients(step);
        let mut square = rig.embedding_gradient();
        let split: Vec<(Mat, Vec<Mat>)> = gradients
            .iter()
            .zip(&want)
            .map(|(g, d)| (g.iter().map(|g| d.common(g)).sum::<Mat>(), g.iter().map(|g| d.unique(g)).collect()))
            .collect();
        for (c, u) in &split {
            square += c.norm_squared() + u.iter().map(Mat::norm_squared).sum::<f64>();
        }
        let lr = 0.01;
        let output = rig.optimizer.step(step, lr).unwrap();
        let clip = block_on(output.norm.to_f32()).unwrap();
        assert!((f64::from(clip[0]) - square.sqrt()).abs() < 2e-5 * square.sqrt(), "{clip:?} {}", square.sqrt());
        let scale = rig.adam.clip_scale(square.sqrt());
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
}

#[test]
fn steps_and_refreshes_follow_dense_projectors_in_f64() {
    for gpu in tiers() {
        for config in configs() {
            follow(&gpu, [2, 3, 24, 16, 4], config, SpectralInit::Fresh);
        }
        let config = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
        for sizes in [[1, 1, 7, 5, 2], [3, 2, 13, 9, 1], [2, 4, 5, 30, 3], [1, 5, 70, 66, 8]] {
            follow(&gpu, sizes, config.clone(), SpectralInit::Fresh);
        }
    }
}

#[test]
fn small_bindings_split_the_stacks_and_change_nothing() {
    let gpu = open(&GpuOptions { max_binding_bytes: Some(16 << 10), ..GpuOptions::default() });
    let config = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
    for sizes in [[2, 3, 32, 32, 8], [1, 3, 96, 64, 8]] {
        follow(&gpu, sizes, config.clone(), SpectralInit::Fresh);
    }
}
