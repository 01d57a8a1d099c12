//! Spectral decoupling: steps of a stack of experts against dense projectors and eigenvalues in f64.
//!
//! ```text
//! common(X) = P_U X + (I - P_U) X P_V      unique(X) = (I - P_U) X (I - P_V)
//! G_c = sum_i common(G_i), G_u,i = unique(G_i); AdamW or Muon on both; every few steps U, V from W_c
//! ```

use nalgebra::DMatrix;

use super::linalg::exact_newton_schulz;
use super::sizes;
use crate::autograd::Array;
use crate::error::Result;
use crate::nn::config::{CommonGradient, ExpertMatrix, Realign, SpectralConfig};
use crate::nn::params::{Group, Init, Param, ParamBuilder, ParamSet, trained};
use crate::optim::{Optimizer, OptimizerConfig, Rule, SpectralInit, SpectralSetup};
use crate::tensor::Tensor;
use crate::verify::Level::{self, Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

pub(super) type Mat = DMatrix<f64>;
/// Layers, experts, rows, columns, rank.
pub(super) type Sizes = [usize; 5];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let base = SpectralConfig { refresh_every: 3, ..SpectralConfig::default() };
    let by_muon = base.clone();
    let mut all = Vec::new();
    let mut add = |level: Level, what: &str, shape: Sizes, config: SpectralConfig| {
        let name = format!("spectral/steps/{what} {}", sizes(&shape));
        all.push(Case::new(level, name, async move |context| steps(context, shape, config, Rule::AdamW).await));
    };
    for (level, shape) in [
        (Usual, [1, 1, 7, 5, 2]),
        (Usual, [3, 2, 13, 9, 1]),
        (Quick, [2, 3, 24, 16, 4]),
        (Usual, [2, 4, 5, 30, 3]),
        (Quick, [2, 3, 64, 40, 8]),
        (Usual, [2, 2, 41, 40, 8]),
        (Usual, [2, 2, 41, 36, 8]),
        (Usual, [1, 5, 70, 66, 8]),
        (Usual, [1, 2, 300, 24, 8]),
        (Usual, [1, 2, 38, 300, 8]),
    ] {
        add(level, "default", shape, base.clone());
    }
    for realign in [Realign::None, Realign::Project, Realign::Absorb] {
        let config = SpectralConfig { realign, project_update: false, ..base.clone() };
        add(Usual, &format!("unprojected {realign:?}").to_lowercase(), [2, 2, 40, 32, 8], config);
    }
    let published = SpectralConfig { as_published: true, ..base.clone() };
    add(Usual, "as published", [2, 3, 24, 16, 4], published);
    let cold = SpectralConfig { common_gradient: CommonGradient::Mean, warm_start: false, ..base };
    add(Usual, "mean, cold", [2, 3, 24, 16, 4], cold);
    for (level, shape) in [(Quick, [2, 3, 24, 16, 4]), (Usual, [2, 2, 41, 30, 3]), (Usual, [2, 3, 64, 40, 8])] {
        let (config, name) = (by_muon.clone(), format!("spectral/steps/muon {}", sizes(&shape)));
        all.push(Case::new(level, name, async move |context| steps(context, shape, config, Rule::Muon).await));
    }
    all
}

/// `W_i = W_c + W_u,i` of one layer, with the rule's moments.
struct Layer {
    w_c: Mat,
    w_u: Vec<Mat>,
    u: Mat,
    v: Mat,
    moments_c: (Mat, Mat),
    moments_u: Vec<(Mat, Mat)>,
}

impl Layer {
    fn rest(&self, x: &Mat) -> Mat {
        x - &self.u * (self.u.transpose() * x)
    }

    fn unique(&self, x: &Mat) -> Mat {
        let left = self.rest(x);
        &left - (&left * &self.v) * self.v.transpose()
    }

    fn common(&self, x: &Mat) -> Mat {
        x - self.unique(x)
    }

    /// New bases from `W_c`, by the eigenvectors of its Gram matrix: the singular vectors' squares are far apart enough for that.
    fn refresh(&mut self, realign: Realign) {
        let k = self.u.ncols();
        let wide = self.w_c.nrows() < self.w_c.ncols();
        let w = if wide { self.w_c.transpose() } else { self.w_c.clone() };
        let eigen = (w.transpose() * &w).symmetric_eigen();
        let mut order: Vec<usize> = (0..w.ncols()).collect();
        order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]));
        let v = eigen.eigenvectors.select_columns(&order[..k]);
        let u = (&w * &v).qr().q();
        (self.u, self.v) = if wide { (v, u) } else { (u, v) };
        if realign == Realign::None {
            return;
        }
        let kept: Vec<Mat> = self.w_u.iter().map(|w| self.unique(w)).collect();
        if realign == Realign::Absorb {
            let removed: Mat = self.w_u.iter().zip(&kept).map(|(w, k)| w - k).sum();
            self.w_c += removed / self.w_u.len() as f64;
        }
        self.w_u = kept;
    }
}

/// The rule's direction at step `t`, the decay apart.
fn direction(adam: &OptimizerConfig, (m, v): &mut (Mat, Mat), g: &Mat, t: i32) -> Mat {
    if adam.rule == Rule::Muon {
        let momentum = f64::from(adam.momentum);
        *m = &*m * momentum + g;
        let scale = 0.2 * (g.nrows().max(g.ncols()) as f64).sqrt();
        return exact_newton_schulz(&(&*m * momentum + g)) * scale;
    }
    let (beta1, beta2) = (f64::from(adam.beta1), f64::from(adam.beta2));
    *m = &*m * beta1 + g * (1.0 - beta1);
    *v = &*v * beta2 + g.component_mul(g) * (1.0 - beta2);
    let (c1, c2) = (1.0 - beta1.powi(t), 1.0 - beta2.powi(t));
    m.zip_map(v, |m, v| (m / c1) / ((v / c2).sqrt() + f64::from(adam.eps)))
}

async fn matrices(x: &Tensor) -> Result<Vec<Mat>> {
    let (rows, columns) = (x.dims()[x.dims().len() - 2], x.cols());
    let data = x.to_f32().await?;
    let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
    Ok(wide.chunks(rows * columns).map(|c| Mat::from_row_slice(rows, columns, c)).collect())
}

/// The layer as it stands on the device.
pub(super) async fn read(set: &ParamSet, optimizer: &Optimizer, layer: usize) -> Result<(Mat, Vec<Mat>, Mat, Mat)> {
    let state = optimizer.state()?;
    let part = async |name: &str| -> Result<Mat> {
        let name = format!("spectral.gate.{layer}.{name}");
        let tensor = state.iter().find(|(n, _)| *n == name).map(|(_, x)| x);
        let tensor = tensor.ok_or_else(|| crate::Error::config("spectral", format!("no state `{name}`")))?;
        Ok(matrices(tensor).await?.remove(0))
    };
    let w_c = part("w_c").await?;
    let name = format!("layers.{layer}.gate");
    let merged: Vec<&Param> = set.iter().filter(|p| p.name == name).collect();
    let w_u = matrices(&merged[0].value).await?.iter().map(|w| w - &w_c).collect();
    Ok((w_c, w_u, part("u").await?, part("v").await?))
}

/// Experts with random matrices, in the order of their layers, and their optimizer.
pub(super) fn start(
    context: &Context,
    [layers, e, m, n, _]: Sizes,
    config: &SpectralConfig,
    adam: &OptimizerConfig,
) -> Result<(ParamSet, Optimizer)> {
    let mut builder = ParamBuilder::default();
    for layer in 0..layers {
        builder.add(format!("layers.{layer}.gate"), Group::Experts(ExpertMatrix::Gate), &[e, m, n], Init::Zeros);
    }
    let set = builder.build(&context.gpu)?;
    for (i, param) in set.iter().enumerate() {
        let z = Array::random(param.value.dims(), 10 + i as u64 + 7919 * context.seed).map(|x| x / (m as f64).sqrt());
        param.value.write_f32(&z.to_f32())?;
    }
    let setup = SpectralSetup { config, init: SpectralInit::Fresh, seed: 7, tokens_per_expert: f64::INFINITY };
    let optimizer = Optimizer::new(&context.gpu, &set, adam, setup)?;
    Ok((set, optimizer))
}

/// Gives the experts the gradients of a step; those of each layer.
pub(super) fn gradients(context: &Context, set: &ParamSet, [_, _, m, n, _]: Sizes, step: u64) -> Result<Vec<Vec<Mat>>> {
    let seed = step * 100 + 7919 * context.seed;
    let of_layer = |(i, param): (usize, &Param)| {
        let noise = Array::random(param.value.dims(), i as u64 + seed);
        let shared = Array::random(&[m * n], 50 + i as u64 + seed);
        // Sizes that differ from step to step: AdamW would not notice a common factor.
        let g = Array::from_fn(param.value.dims(), |j| {
            step as f64 * (0.1 * noise.data[j] + 0.05 * shared.data[j % (m * n)])
        });
        trained(&param.gradient)?.write_f32(&g.to_f32())?;
        let matrix = |c: &[f32]| Mat::from_row_iterator(m, n, c.iter().map(|&x| f64::from(x)));
        Ok(g.to_f32().chunks(m * n).map(matrix).collect())
    };
    set.iter().enumerate().map(of_layer).collect()
}

/// Seven steps with two refreshes, all parts compared after each.
async fn steps(context: &Context, shape: Sizes, config: SpectralConfig, rule: Rule) -> Result<Findings> {
    let [layers, e, m, n, k] = shape;
    let mut found = Findings::default();
    // Epsilon far above the rounding of a gradient: a first direction g / (|g| + eps) makes of an error in g one over eps as large.
    let adam = OptimizerConfig { rule, clip: 1.0, eps: 1e-5, ..OptimizerConfig::default() };
    let config = SpectralConfig { rank: k, ..config }.resolved();
    let (set, mut optimizer) = start(context, shape, &config, &adam)?;
    let mut want = Vec::new();
    for layer in 0..layers {
        let (w_c, w_u, u, v) = read(&set, &optimizer, layer).await?;
        let zero = || (Mat::zeros(m, n), Mat::zeros(m, n));
        want.push(Layer { w_c, w_u, u, v, moments_c: zero(), moments_u: (0..e).map(|_| zero()).collect() });
    }
    for step in 1..=7u64 {
        let mut square = 0.0;
        let mut split = Vec::new();
        for (g, layer) in gradients(context, &set, shape, step)?.iter().zip(&want) {
            let share = if config.common_gradient == CommonGradient::Sum { 1.0 } else { 1.0 / e as f64 };
            let common: Mat = g.iter().map(|g| layer.common(g)).sum::<Mat>() * share;
            let unique: Vec<Mat> = g.iter().map(|g| layer.unique(g)).collect();
            square += common.norm_squared() + unique.iter().map(Mat::norm_squared).sum::<f64>();
            split.push((common, unique));
        }
        let clip = optimizer.step(step, 0.01)?.norm.to_f32().await?;
        let what = |part: &str| format!("{part}, step {step}");
        found.at_most(&what("norm of the gradients, relative"), (f64::from(clip[0]) / square.sqrt() - 1.0).abs(), 2e-5);
        let scale = (f64::from(adam.clip) / (square.sqrt() + 1e-6)).min(1.0);
        let (lr, t) = (f64::from(0.01f32), step as i32);
        let kept = 1.0 - lr * f64::from(adam.weight_decay);
        for (i, (layer, (g_c, g_u))) in want.iter_mut().zip(&split).enumerate() {
            let mut moments = std::mem::take(&mut layer.moments_c);
            let d = direction(&adam, &mut moments, &(g_c * scale), t);
            layer.moments_c = moments;
            let d = if config.project_update { layer.common(&d) } else { d };
            layer.w_c = &layer.w_c * kept - d * lr;
            for (j, g) in g_u.iter().enumerate() {
                let mut moments = std::mem::take(&mut layer.moments_u[j]);
                let d = direction(&adam, &mut moments, &(g * scale), t);
                layer.moments_u[j] = moments;
                let d = if config.project_update { layer.unique(&d) } else { d };
                layer.w_u[j] = &layer.w_u[j] * kept - d * lr;
            }
            if step % config.refresh_every == 0 {
                layer.refresh(config.realign);
            }
            let (w_c, w_u, u, v) = read(&set, &optimizer, i).await?;
            let projector = |u: &Mat| u * u.transpose();
            let mut close = |part: &str, got: &Mat, want: &Mat, tolerance: f64| {
                let what = format!("{part}, step {step}, layer {i}: worst element, of the largest");
                found.at_most(&what, (got - want).amax() / want.amax().max(1e-3), tolerance);
            };
            close("P_U", &projector(&u), &projector(&layer.u), 1e-4);
            close("P_V", &projector(&v), &projector(&layer.v), 1e-4);
            close("W_c", &w_c, &layer.w_c, 1e-3);
            for (got, want) in w_u.iter().zip(&layer.w_u) {
                close("W_u", got, want, 1e-3);
            }
        }
    }
    Ok(found)
}
