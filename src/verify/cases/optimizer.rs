//! The norm of all gradients, clipping by it, the loss scale, and AdamW and Muon against loops in f64.

use nalgebra::DMatrix;

use super::linalg::exact_newton_schulz;
use crate::autograd::Array;
use crate::error::Result;
use crate::nn::config::ExpertMatrix;
use crate::nn::params::{Group, Init, ParamBuilder, ParamSet, trained};
use crate::optim::OptimizerConfig;
use crate::optim::adamw::AdamGroup;
use crate::optim::clip::{GradientNorm, LossScale};
use crate::optim::muon::MuonWeights;
use crate::tensor::Tensor;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(Usual, "optimizer/norm/signed and masked", masked),
        Case::new(Quick, "optimizer/norm/not finite", not_finite),
        Case::new(Usual, "optimizer/loss scale/halves and doubles", loss_scale),
        Case::new(Quick, "optimizer/adamw/10 clipped steps", adamw),
        Case::new(Quick, "optimizer/muon/4 clipped steps", muon),
    ]
}

fn params(context: &Context) -> Result<ParamSet> {
    let mut builder = ParamBuilder::default();
    builder.add("norm", Group::NoDecay, &[7], Init::Zeros);
    builder.add("bias", Group::NoDecay, &[1], Init::Zeros);
    builder.add("matrix", Group::Decay, &[13, 17], Init::Zeros);
    builder.add("large", Group::Decay, &[211, 101], Init::Zeros);
    builder.add("experts", Group::Experts(ExpertMatrix::Gate), &[3, 5, 7], Init::Zeros);
    builder.build(&context.gpu)
}

/// Sums of squares with a weight, and of the columns from one on.
async fn masked(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let (x, y) = (Array::random(&[5, 7, 6], 1 + context.seed), Array::random(&[3001], 2 + context.seed));
    let (a, b) = (context.upload(&x)?, context.upload(&y)?);
    let got = context
        .twice("clip", &mut found, async || {
            let mut norm = GradientNorm::new();
            norm.add(1.0, &b);
            norm.add_columns(-2.0, &a, 4);
            let clip = Tensor::zeros(&context.gpu, [4])?;
            norm.finish(0.0, &clip)?;
            Ok(vec![clip.to_f32().await?])
        })
        .await?;
    let masked: f64 = (0..35).flat_map(|r| x.row(r)[4..].to_vec()).map(|v| v * v).sum();
    let want = (y.dot(&y) - 2.0 * masked).sqrt();
    found.compare("norm", &got[0][..1], &Array::new(&[1], vec![want]), 1e-5);
    found.compare("scale and state", &got[0][1..], &Array::new(&[3], vec![1.0, 0.0, 0.0]), 0.0);
    Ok(found)
}

/// A norm that is not finite is told, and changes nothing. WGSL lets a compiler assume that there is none; the kernels must not.
async fn not_finite(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    for bad in [f32::NAN, f32::INFINITY, 3e30] {
        let set = params(context)?;
        let Some(param) = set.iter().find(|p| p.name == "matrix") else { continue };
        let p = Array::random(param.value.dims(), 3).to_f32();
        param.value.write_f32(&p)?;
        let mut g = vec![0.5; p.len()];
        g[100] = bad;
        trained(&param.gradient)?.write_f32(&g)?;
        let Some(group) = set.group(Group::Decay) else { continue };
        let group = AdamGroup::new(group)?;
        let mut norm = GradientNorm::new();
        norm.add(1.0, group.gradients());
        let clip = Tensor::zeros(&context.gpu, [4])?;
        norm.finish(1.0, &clip)?;
        group.step(&OptimizerConfig::default(), 1, 0.1, &clip)?;
        let got = clip.to_f32().await?;
        if got[0].is_finite() || got[1..] != [0.0, 1.0, 0.0] {
            found.wrong(format!("a gradient with {bad}: expected a norm that is not finite and 0, 1, 0, got {got:?}"));
        }
        if param.value.to_f32().await? != p || group.m.to_f32().await?.iter().any(|&m| m != 0.0) {
            found.wrong(format!("a gradient with {bad} changed a weight or a moment"));
        }
    }
    Ok(found)
}

/// The loss scale halves with each step that overflows, and doubles after three that did not.
async fn loss_scale(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let scaling = LossScale::new(&context.gpu, 64.0, 3)?;
    let mut decide = async |gradient: [f32; 2], want: [f32; 2]| -> Result<()> {
        let clip = Tensor::zeros(&context.gpu, [4])?;
        let mut norm = GradientNorm::new();
        norm.add(1.0, &Tensor::from_f32(&context.gpu, [2], &gradient)?);
        norm.finish_scaled(2.0, Some(&scaling), &clip)?;
        let state = scaling.state.to_f32().await?;
        if state[..2] != want {
            found.wrong(format!(
                "after a gradient of {gradient:?}: expected scale and good steps {want:?}, got {state:?}"
            ));
        }
        Ok(())
    };
    decide([192.0, 256.0], [64.0, 1.0]).await?;
    decide([1.0, f32::INFINITY], [32.0, 0.0]).await?;
    decide([f32::NAN, 1.0], [16.0, 0.0]).await?;
    for (scale, good) in [(16.0, 1.0), (16.0, 2.0), (32.0, 0.0)] {
        decide([3.0, 4.0], [scale, good]).await?;
    }
    Ok(found)
}

/// Ten steps of parameters of odd sizes, some of them clipped.
async fn adamw(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let set = params(context)?;
    let adam = OptimizerConfig { clip: 20.0, ..OptimizerConfig::default() };
    let groups = set.groups().iter().map(AdamGroup::new).collect::<Result<Vec<AdamGroup>>>()?;
    let random = |shape: &[usize], seed: u64| Array::random(shape, seed + 7919 * context.seed);
    // p, m, v of each parameter.
    let mut want: Vec<[Array; 3]> = Vec::new();
    for (i, param) in set.iter().enumerate() {
        let p = random(param.value.dims(), 100 + i as u64);
        param.value.write_f32(&p.to_f32())?;
        want.push([p.clone(), Array::zeros(&p.shape), Array::zeros(&p.shape)]);
    }
    for t in 1..=10u64 {
        let mut gradients = Vec::new();
        for (i, param) in set.iter().enumerate() {
            let g = random(param.value.dims(), t * 1000 + i as u64).map(|x| x * 0.05 * t as f64).to_f32();
            trained(&param.gradient)?.write_f32(&g)?;
            gradients.push(Array::from_f32(param.value.dims(), &g));
        }
        let mut norm = GradientNorm::new();
        groups.iter().for_each(|group| norm.add(1.0, group.gradients()));
        let clip = Tensor::zeros(&context.gpu, [4])?;
        norm.finish(adam.clip, &clip)?;
        groups.iter().try_for_each(|group| group.step(&adam, t, 0.01, &clip))?;
        let exact = gradients.iter().map(|g| g.dot(g)).sum::<f64>().sqrt();
        let scale = (f64::from(adam.clip) / (exact + 1e-6)).min(1.0);
        let got = clip.to_f32().await?;
        // 1024 squares a thread, then a tree: far below 100 roundings.
        found.compare("norm", &got[..1], &Array::new(&[1], vec![exact]), 6e-6);
        found.compare("scale", &got[1..2], &Array::new(&[1], vec![scale]), 6e-6);
        let (beta1, beta2, lr) = (f64::from(adam.beta1), f64::from(adam.beta2), f64::from(0.01f32));
        for ((param, [p, m, v]), g) in set.iter().zip(&mut want).zip(&gradients) {
            let decay = if param.group == Group::NoDecay { 0.0 } else { f64::from(adam.weight_decay) };
            for i in 0..p.data.len() {
                let g = g.data[i] * scale;
                m.data[i] = beta1 * m.data[i] + (1.0 - beta1) * g;
                v.data[i] = beta2 * v.data[i] + (1.0 - beta2) * g * g;
                let root = (v.data[i] / (1.0 - beta2.powi(t as i32))).sqrt() + f64::from(adam.eps);
                p.data[i] -= lr * (m.data[i] / (1.0 - beta1.powi(t as i32)) / root + decay * p.data[i]);
            }
        }
    }
    for (param, [p, ..]) in set.iter().zip(&want) {
        // Each step's direction is at most about 1 and rounded to a few ulps (division and root: 2.5 ulps each).
        found.compare(&param.name, &param.value.to_f32().await?, p, 2e-6);
    }
    Ok(found)
}

/// Four steps of matrices alone, two of one shape, and of a bank.
async fn muon(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let mut builder = ParamBuilder::default();
    for (name, shape) in [("one", [13, 17]), ("other", [13, 17]), ("tall", [64, 40])] {
        builder.add_hidden(name, shape, Init::Zeros);
    }
    builder.add("experts", Group::Experts(ExpertMatrix::Gate), &[3, 24, 32], Init::Zeros);
    let set = builder.build(&context.gpu)?;
    let mut weights = MuonWeights::default();
    for group in set.groups() {
        weights.add_part(group, 0..group.values.numel())?;
    }
    set.iter().try_for_each(|param| weights.add_matrices(param))?;
    let (config, lr) = (OptimizerConfig { clip: 20.0, ..OptimizerConfig::default() }, 0.01f32);
    let (momentum, decay) = (f64::from(config.momentum), f64::from(config.weight_decay));
    let random = |shape: &[usize], seed: u64| Array::random(shape, seed + 7919 * context.seed);
    let mut want: Vec<[Array; 2]> = Vec::new();
    for (i, param) in set.iter().enumerate() {
        let w = random(param.value.dims(), 100 + i as u64);
        param.value.write_f32(&w.to_f32())?;
        want.push([w.clone(), Array::zeros(&w.shape)]);
    }
    for t in 1..=4u64 {
        let gradients: Vec<Array> = set
            .iter()
            .enumerate()
            .map(|(i, p)| random(p.value.dims(), t * 1000 + i as u64).map(|x| x * 0.2 * t as f64))
            .collect();
        for (param, g) in set.iter().zip(&gradients) {
            trained(&param.gradient)?.write_f32(&g.to_f32())?;
        }
        let clip = Tensor::zeros(&context.gpu, [4])?;
        let mut norm = GradientNorm::new();
        weights.gradients().for_each(|g| norm.add(1.0, g));
        norm.finish(config.clip, &clip)?;
        weights.step(&config, lr, &clip)?;
        let exact = gradients.iter().map(|g| g.dot(g)).sum::<f64>().sqrt();
        let scale = (f64::from(config.clip) / (exact + 1e-6)).min(1.0);
        for ([w, m], g) in want.iter_mut().zip(&gradients) {
            *m = m.zip(g, |m, g| momentum * m + scale * g);
            let mixed = m.zip(g, |m, g| momentum * m + scale * g);
            let (rows, columns) = (w.shape[w.shape.len() - 2], w.cols());
            let factor = 0.2 * (rows.max(columns) as f64).sqrt();
            let directions = mixed.data.chunks(rows * columns).flat_map(|x| {
                let x = exact_newton_schulz(&DMatrix::from_row_slice(rows, columns, x));
                x.transpose().as_slice().to_vec()
            });
            for (w, d) in w.data.iter_mut().zip(directions) {
                *w -= f64::from(lr) * (factor * d + decay * *w);
            }
        }
    }
    for (param, [w, _]) in set.iter().zip(&want) {
        // Directions of about 0.2, four times 0.01 of them, whose small singular values are off by up to 485 eps times the root of a
        // side; of weights of about 4.
        found.compare(&param.name, &param.value.to_f32().await?, w, 1e-6);
    }
    Ok(found)
}
