//! A stack of experts on the device, and the same in f64.

use crate::reference::tape::Mat;
use crate::reference::{Adam, Decoupled, Moments};
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{CommonGradient, ExpertMatrix, Realign, SpectralConfig};
use sdmoe::nn::params::{Group, Init, ParamBuilder, ParamSet};
use sdmoe::optim::{Optimizer, OptimizerConfig, SpectralInit, SpectralSetup};
use sdmoe::tensor::Tensor;

/// Layers, experts, rows, columns, rank.
pub type Sizes = [usize; 5];

pub struct Rig {
    pub gpu: Gpu,
    pub set: ParamSet,
    pub optimizer: Optimizer,
    pub sizes: Sizes,
    pub adam: Adam,
    pub config: SpectralConfig,
}

/// `eps` far above the rounding of a gradient, which is 1e-9 where elements are about 5e-3 after clipping. A first direction
/// `g / (|g| + eps)` makes of an error in `g` one over eps as large where `g` is next to zero: with the default of 1e-8 a single
/// such element among 10,000 moved `W_c` by 1e-4 in one family of kernels and by less in another, and the subspaces by that over
/// the gap of the singular values, which is about 1 here (Wedin's theorem).
pub fn adam_config() -> OptimizerConfig {
    with!(OptimizerConfig { clip: 1.0, eps: 1e-5, ..OptimizerConfig::default() })
}

pub fn weights(gpu: &Gpu, [layers, e, m, n, _]: Sizes) -> ParamSet {
    let mut builder = ParamBuilder::default();
    for layer in 0..layers {
        builder.add(format!("layers.{layer}.gate"), Group::Experts(ExpertMatrix::Gate), &[e, m, n], Init::Zeros);
    }
    builder.add("embedding", Group::Decay, &[11, 3], Init::Zeros);
    let set = builder.build(gpu).unwrap();
    for (i, param) in set.iter().enumerate() {
        let z = Array::random(param.value.dims(), 10 + i as u64).map(|x| x / (m as f64).sqrt());
        param.value.write_f32(&z.to_f32()).unwrap();
    }
    set
}

impl Rig {
    pub fn new(gpu: &Gpu, sizes: Sizes, config: SpectralConfig, init: SpectralInit) -> Self {
        Self::with_tokens(gpu, sizes, config, init, f64::INFINITY)
    }

    /// As [`Rig::new`], for so many routed tokens an expert and step.
    pub fn with_tokens(
        gpu: &Gpu,
        sizes: Sizes,
        config: SpectralConfig,
        init: SpectralInit,
        tokens_per_expert: f64,
    ) -> Self {
        let set = weights(gpu, sizes);
        let config = with!(SpectralConfig { rank: sizes[4], ..config });
        let setup = SpectralSetup { config: &config, init, seed: 7, tokens_per_expert };
        let optimizer = Optimizer::new(gpu, &set, &adam_config(), setup).unwrap();
        let adam = Adam::from(&adam_config());
        Self { gpu: gpu.clone(), set, optimizer, sizes, adam, config: config.resolved() }
    }

    pub fn state(&self, name: &str) -> Tensor {
        let state = self.optimizer.state().unwrap();
        state.into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    pub fn mats(&self, x: &Tensor) -> Vec<Mat> {
        let (rows, cols) = (x.dims()[x.dims().len() - 2], x.cols());
        let data = block_on(x.to_f32()).unwrap();
        let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
        wide.chunks(rows * cols).map(|c| Mat::from_row_slice(rows, cols, c)).collect()
    }

    pub fn part(&self, layer: usize, name: &str) -> Vec<Mat> {
        self.mats(&self.state(&format!("spectral.gate.{layer}.{name}")))
    }

    pub fn decoupled(&self, layer: usize) -> Decoupled {
        let one = |name| self.part(layer, name).remove(0);
        let w_c = one("w_c");
        let w_u = self.merged(layer).iter().map(|w| w - &w_c).collect();
        Decoupled { w_c, w_u, u: one("u"), v: one("v") }
    }

    pub fn merged(&self, layer: usize) -> Vec<Mat> {
        let param = self.set.iter().find(|p| p.name == format!("layers.{layer}.gate")).unwrap();
        self.mats(&param.value)
    }

    /// Writes gradients drawn from `seed`, and as large, with a part that all experts share; returns the experts' by layer.
    pub fn gradients(&self, seed: u64) -> Vec<Vec<Mat>> {
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
            param.gradient.as_ref().unwrap().write_f32(&g).unwrap();
            if param.name.contains("gate") {
                let wide: Vec<f64> = g.iter().map(|&x| f64::from(x)).collect();
                all.push(wide.chunks(m * n).map(|c| Mat::from_row_slice(m, n, c)).collect::<Vec<_>>());
                assert_eq!(all.last().unwrap().len(), e);
            }
        }
        all
    }

    pub fn embedding_gradient(&self) -> f64 {
        let param = self.set.iter().find(|p| p.name == "embedding").unwrap();
        block_on(param.gradient.as_ref().unwrap().to_f32()).unwrap().iter().map(|&x| f64::from(x).powi(2)).sum()
    }
}

pub fn close(what: &str, got: &Mat, want: &Mat, tolerance: f64) {
    let scale = want.amax().max(1e-3);
    let worst = (got - want).amax();
    assert!(worst <= tolerance * scale, "{what}: off by {worst:.3e} of {scale:.3e}");
}

pub fn projector(u: &Mat) -> Mat {
    u * u.transpose()
}

pub fn configs() -> Vec<SpectralConfig> {
    let base = with!(SpectralConfig { refresh_every: 3, ..SpectralConfig::default() });
    let mut all = vec![with!(SpectralConfig { as_published: true, ..base.clone() })];
    all.push(with!(SpectralConfig { common_gradient: CommonGradient::Mean, warm_start: false, ..base.clone() }));
    for realign in [Realign::None, Realign::Project, Realign::Absorb] {
        for project_update in [true, false] {
            all.push(with!(SpectralConfig { realign, project_update, ..base.clone() }));
        }
    }
    all
}

/// Runs seven steps on the device and in f64 and compares all parts after each.
pub fn follow(gpu: &Gpu, sizes: Sizes, config: SpectralConfig, init: SpectralInit) {
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
            let direction = rig.adam.direction(m_c, &(g_c * scale), t);
            let direction = if rig.config.project_update { d.common(&direction) } else { direction };
            d.w_c = &d.w_c * rig.adam.kept(lr) - direction * lr;
            for (i, (m_u, g_u)) in m_u.iter_mut().zip(g_u).enumerate() {
                let direction = rig.adam.direction(m_u, &(g_u * scale), t);
                let direction = if rig.config.project_update { d.unique(&direction) } else { direction };
                d.w_u[i] = &d.w_u[i] * rig.adam.kept(lr) - direction * lr;
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
            for (got, want) in got.w_u.iter().zip(&d.w_u) {
                close(&what("W_u"), got, want, 1e-3);
            }
        }
    }
    // So that a scale that is dropped shows in the moments.
    assert!(scales.iter().any(|s| *s < 0.7), "{scales:?}");
    assert!(scales[6] < 0.8 * scales[0], "{scales:?}");
}
