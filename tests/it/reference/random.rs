//! Seeded parameters, spectral states and token batches, without the library's generators.

use std::collections::BTreeMap;

use sdmoe::nn::config::{ExpertMatrix, ModelConfig, SpectralConfig};

use super::model::shapes;
use super::spectral::{Decoupled, SpectralState};
use super::tape::Mat;
use super::{Array, Arrays};

/// A linear congruential generator with Knuth's MMIX constants; its high bits are good enough for test data.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        (0..4).for_each(|_| _ = random.uniform());
        random
    }

    /// In `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let (r, angle) = (self.uniform(), self.uniform());
        (-2.0 * (1.0 - r).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// A matrix of normal entries.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> Mat {
        Mat::from_fn(rows, cols, |_, _| self.normal())
    }

    fn orthonormal(&mut self, rows: usize, cols: usize) -> Mat {
        self.matrix(rows, cols).qr().q()
    }
}

/// Every parameter of the model: weights normal with variance 1 / inputs, norm weights around 1 (not at it, so that a norm
/// that forgets its weight is noticed).
pub fn random_params(model: &ModelConfig, seed: u64) -> Arrays {
    let mut random = Random::new(seed);
    let mut fill = |name: &str, shape: Vec<usize>| {
        let entries = shape.iter().product();
        let inputs = if name == "embed.weight" { model.d_model } else { shape[shape.len().saturating_sub(2)] };
        let (mean, deviation) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, (inputs as f64).powf(-0.5)) };
        Array::new(shape, (0..entries).map(|_| mean + deviation * random.normal()).collect())
    };
    shapes(model).into_iter().map(|(name, shape)| (name.clone(), fill(&name, shape))).collect()
}

/// METHOD's initial state of every covered matrix: `W_c = U S V^T` with graded S and the energy that the projection takes
/// from the experts, `W_u,i` in the double complement.
pub fn random_spectral(model: &ModelConfig, spectral: &SpectralConfig, seed: u64) -> BTreeMap<String, SpectralState> {
    let mut random = Random::new(seed);
    let mut states = BTreeMap::new();
    for layer in 0..model.layers {
        for matrix in ExpertMatrix::ALL.into_iter().filter(|&m| spectral.covers(m)) {
            let (m, n) = match matrix {
                ExpertMatrix::Gate | ExpertMatrix::Up => (model.d_model, model.moe.d_expert),
                ExpertMatrix::Down => (model.moe.d_expert, model.d_model),
            };
            let k = spectral.rank;
            let (u, v) = (random.orthonormal(m, k), random.orthonormal(n, k));
            let grade = |j: usize| 1.25 - 0.5 * if k > 1 { j as f64 / (k - 1) as f64 } else { 0.5 };
            let graded: f64 = (0..k).map(|j| grade(j) * grade(j)).sum();
            // Experts of variance 1 / m have energy n each.
            let energy = n as f64 * (1.0 - (1.0 - k as f64 / m as f64) * (1.0 - k as f64 / n as f64));
            let s = Mat::from_fn(k, k, |i, j| if i == j { grade(i) * (energy / graded).sqrt() } else { 0.0 });
            let mut state = Decoupled { w_c: &u * s * v.transpose(), w_u: Vec::new(), u, v };
            let deviation = (m as f64).powf(-0.5);
            state.w_u = (0..model.moe.experts).map(|_| state.unique(&(random.matrix(m, n) * deviation))).collect();
            states.insert(format!("layers.{layer}.moe.experts.{}", matrix.name()), state.to_state());
        }
    }
    states
}

/// Tokens and targets, uniform over the vocabulary.
pub fn random_batch(vocab: usize, count: usize, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut random = Random::new(seed);
    let mut draw = || (0..count).map(|_| random.below(vocab) as u32).collect();
    (draw(), draw())
}
