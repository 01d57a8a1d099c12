//! AdamW and clipping against f64 loops.

use crate::common::{open, tiers};
use pollster::block_on;
use sdmoe::autograd::{Array, check::compare};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::nn::params::{Group, Init, ParamBuilder, ParamSet};
use sdmoe::optim::OptimizerConfig;
use sdmoe::optim::adamw::AdamGroup;
use sdmoe::optim::clip::GradientNorm;
use sdmoe::tensor::Tensor;

fn params(gpu: &Gpu) -> ParamSet {
    let mut builder = ParamBuilder::default();
    builder.add("norm", Group::NoDecay, &[7], Init::Zeros);
    builder.add("bias", Group::NoDecay, &[1], Init::Zeros);
    builder.add("matrix", Group::Decay, &[13, 17], Init::Zeros);
    builder.add("large", Group::Decay, &[211, 101], Init::Zeros);
    builder.add("experts", Group::Experts(ExpertMatrix::Gate), &[3, 5, 7], Init::Zeros);
    builder.build(gpu).unwrap()
}

struct Reference {
    p: Array,
    m: Array,
    v: Array,
    decay: f64,
}

impl Reference {
    fn step(&mut self, adam: &OptimizerConfig, t: i32, lr: f64, g: &Array, scale: f64) {
        for i in 0..self.p.data.len() {
            let g = g.data[i] * scale;
            let (beta1, beta2) = (f64::from(adam.beta1), f64::from(adam.beta2));
            let (m, v) = (&mut self.m.data[i], &mut self.v.data[i]);
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let root = (*v / (1.0 - beta2.powi(t))).sqrt() + f64::from(adam.eps);
            let direction = *m / (1.0 - beta1.powi(t)) / root + self.decay * self.p.data[i];
            self.p.data[i] -= lr * direction;
        }
    }
}

#[test]
fn adamw_with_clipping_follows_an_f64_loop_over_odd_sizes() {
    let mut gpus = tiers();
    gpus.push(open(&GpuOptions::default().max_binding_bytes(16 << 10)));
    for gpu in gpus {
        let set = params(&gpu);
        let adam = with!(OptimizerConfig { clip: 20.0, ..OptimizerConfig::default() });
        let groups: Vec<AdamGroup> = set.groups().iter().map(|g| AdamGroup::new(g).unwrap()).collect();
        let mut references = Vec::new();
        for (i, param) in set.iter().enumerate() {
            let p = Array::random(param.value.dims(), 100 + i as u64);
            param.value.write_f32(&p.to_f32()).unwrap();
            let zeros = Array::zeros(&p.shape);
            let decay = if param.group == Group::NoDecay { 0.0 } else { f64::from(adam.weight_decay) };
            references.push(Reference { m: zeros.clone(), v: zeros, p, decay });
        }
        for t in 1..=10 {
            let gradients: Vec<Array> = set
                .iter()
                .enumerate()
                .map(|(i, p)| Array::random(p.value.dims(), t * 1000 + i as u64).map(|x| x * 0.05 * t as f64))
                .map(|g| Array::from_f32(&g.shape, &g.to_f32()))
                .collect();
            let mut norm = GradientNorm::new();
            for (param, g) in set.iter().zip(&gradients) {
                param.gradient.as_ref().unwrap().write_f32(&g.to_f32()).unwrap();
            }
            for group in &groups {
                norm.add(1.0, group.gradients());
            }
            let clip = Tensor::zeros(&gpu, [4]).unwrap();
            norm.finish(adam.clip, &clip).unwrap();
            for group in &groups {
                group.step(&adam, t, 0.01, &clip).unwrap();
            }
            let want = gradients.iter().map(|g| g.dot(g)).sum::<f64>().sqrt();
            let scale = (f64::from(adam.clip) / (want + 1e-6)).min(1.0);
            assert_eq!(scale < 1.0, t > 2, "the limit lies between the steps' norms: {want}");
            let got = block_on(clip.to_f32()).unwrap();
            // 1024 squares a thread, then a tree: far below 100 roundings.
            let expected = Array::new(&[4], vec![want, scale, 0.0, 0.0]);
            compare("clip", &got[..1], &Array::new(&[1], vec![expected.data[0]]), 6e-6).unwrap();
            compare("clip", &got[1..], &Array::new(&[3], expected.data[1..].to_vec()), 6e-6).unwrap();
            for (reference, g) in references.iter_mut().zip(&gradients) {
                reference.step(&adam, t as i32, f64::from(0.01f32), g, scale);
            }
        }
        for (param, reference) in set.iter().zip(&references) {
            let got = block_on(param.value.to_f32()).unwrap();
            // Each step's direction is at most about 1 and rounded to a few ulps (division and root: 2.5 ulps each).
            compare(&param.name, &got, &reference.p, 2e-6).unwrap();
        }
    }
}

#[test]
fn without_a_limit_the_scale_is_one_and_terms_are_signed_and_masked() {
    for gpu in tiers() {
        let (x, y) = (Array::random(&[5, 7, 6], 1), Array::random(&[3001], 2));
        let a = Tensor::from_f32(&gpu, [5, 7, 6], &x.to_f32()).unwrap();
        let b = Tensor::from_f32(&gpu, [3001], &y.to_f32()).unwrap();
        let mut norm = GradientNorm::new();
        norm.add(1.0, &b);
        norm.add_columns(-2.0, &a, 4);
        let clip = Tensor::zeros(&gpu, [4]).unwrap();
        norm.finish(0.0, &clip).unwrap();
        let got = block_on(clip.to_f32()).unwrap();
        let masked: f64 = (0..35).flat_map(|r| x.row(r)[4..].to_vec()).map(|v| v * v).sum();
        let want = (y.dot(&y) - 2.0 * masked).sqrt();
        assert!((f64::from(got[0]) - want).abs() < 1e-5 * want, "{got:?} {want}");
        assert_eq!(got[1..], [1.0, 0.0, 0.0]);
        GradientNorm::new().finish(1.0, &clip).unwrap();
        let none = block_on(clip.to_f32()).unwrap();
        assert_eq!(none, [0.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn a_norm_that_is_not_finite_is_flagged_and_changes_nothing() {
    for (gpu, bad) in tiers().into_iter().flat_map(|g| [(g.clone(), f32::NAN), (g.clone(), f32::INFINITY), (g, 3e30)]) {
        let set = params(&gpu);
        let param = set.iter().find(|p| p.name == "matrix").unwrap();
        let p = Array::random(param.value.dims(), 3).to_f32();
        param.value.write_f32(&p).unwrap();
        let mut g = vec![0.5; p.len()];
        g[100] = bad;
        param.gradient.as_ref().unwrap().write_f32(&g).unwrap();
        let group = AdamGroup::new(set.group(Group::Decay).unwrap()).unwrap();
        let mut norm = GradientNorm::new();
        norm.add(1.0, group.gradients());
        let clip = Tensor::zeros(&gpu, [4]).unwrap();
        norm.finish(1.0, &clip).unwrap();
        group.step(&OptimizerConfig::default(), 1, 0.1, &clip).unwrap();
        let got = block_on(clip.to_f32()).unwrap();
        assert!(!got[0].is_finite(), "{got:?}");
        assert_eq!(got[1..], [0.0, 1.0, 0.0]);
        assert_eq!(block_on(param.value.to_f32()).unwrap(), p);
        assert!(block_on(group.m.to_f32()).unwrap().iter().all(|&m| m == 0.0));
    }
}

#[test]
fn settings_out_of_range_are_named() {
    for (adam, field) in [
        (with!(OptimizerConfig { beta1: 1.0, ..OptimizerConfig::default() }), "optimizer.beta1"),
        (with!(OptimizerConfig { clip: -1.0, ..OptimizerConfig::default() }), "optimizer.clip"),
        (with!(OptimizerConfig { eps: f32::NAN, ..OptimizerConfig::default() }), "optimizer.eps"),
        (with!(OptimizerConfig { eps: 0.0, ..OptimizerConfig::default() }), "optimizer.eps"),
    ] {
        assert!(adam.validate().unwrap_err().to_string().contains(field));
    }
    OptimizerConfig::default().validate().unwrap();
}
