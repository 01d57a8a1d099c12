//! The compared models, and what stands for experts in the dense ones.
//!
//! All have the attention, embedding and number of layers of one configuration; only what routes is different. Capacity
//! is matched in the parameters that a layer holds: E experts of width f, or one SwiGLU of width E f. As soft routing
//! and the wide dense layer compute all of them for each token and top-K only K, a narrow dense layer of width K f is
//! there too, which matches top-K in what a token computes.
//!
//! A dense layer is the sum of the layers that groups of its hidden units make, so E random groups of equal size stand
//! for its experts, and E random groups of tokens for what is routed to them: what a dense model shows of the geometry.

use sdmoe::Result;
use sdmoe::analysis::routed::{Routed, permutation, permuted};
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{ExpertMatrix, ModelConfig};
use sdmoe::nn::model::Model;
use sdmoe::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One SwiGLU of width E f: the parameters of all experts
    DenseTotal,
    /// One SwiGLU of width K f: the parameters that top-K computes for a token
    DenseActive,
    /// E experts, each token visits K of them
    TopK,
    /// E experts, each token visits all, weighted by their scores
    Soft,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::DenseTotal, Kind::DenseActive, Kind::TopK, Kind::Soft];

    pub fn name(self) -> &'static str {
        match self {
            Kind::DenseTotal => "dense, E f wide",
            Kind::DenseActive => "dense, K f wide",
            Kind::TopK => "top-K",
            Kind::Soft => "soft",
        }
    }

    pub fn is_dense(self) -> bool {
        matches!(self, Kind::DenseTotal | Kind::DenseActive)
    }

    /// This kind's counterpart of `top_k`, the model with top-K routing.
    pub fn model(self, top_k: &ModelConfig) -> ModelConfig {
        let mut model = top_k.clone();
        let moe = &mut model.moe;
        let width = match self {
            Kind::DenseTotal => moe.experts,
            Kind::DenseActive => moe.top_k,
            Kind::TopK | Kind::Soft => 1,
        };
        match self {
            // One expert, always chosen with weight 1: nothing to balance, no logits to keep small.
            Kind::DenseTotal | Kind::DenseActive => {
                (moe.experts, moe.top_k, moe.d_expert) = (1, 1, width * moe.d_expert);
                (moe.balance_loss, moe.z_loss) = (0.0, 0.0);
            }
            Kind::TopK => {}
            Kind::Soft => moe.top_k = moe.experts,
        }
        model
    }
}

/// The experts' matrices of a layer, gate, up `[E, d, f]` and down `[E, f, d]`; of a dense layer those of `groups`
/// random groups of its hidden units.
///
/// # Errors
/// [`sdmoe::Error::Device`].
pub async fn experts(gpu: &Gpu, model: &Model, layer: usize, groups: usize, seed: u64) -> Result<[Tensor; 3]> {
    let [Some(gate), Some(up), Some(down)] = ExpertMatrix::ALL.map(|m| model.experts(layer, m).cloned()) else {
        return Err(sdmoe::Error::Data(format!("layer {layer} has no experts")));
    };
    let &[1, d, hidden] = gate.dims() else { return Ok([gate, up, down]) };
    let (order, f) = (permutation(hidden, seed), hidden / groups);
    let units = || order.chunks_exact(f);
    let mut found = Vec::new();
    for w in [&gate, &up] {
        let w = w.to_f32().await?;
        let columns = units().flat_map(|units| (0..d).flat_map(|i| units.iter().map(move |u| (i, u))));
        let split: Vec<f32> = columns.map(|(i, u)| w[i * hidden + u]).collect();
        found.push(Tensor::from_f32(gpu, [groups, d, f], &split)?);
    }
    let w = down.to_f32().await?;
    let split: Vec<f32> = units().flatten().flat_map(|u| &w[u * d..(u + 1) * d]).copied().collect();
    let [gate, up] = [found[0].clone(), found[1].clone()];
    Ok([gate, up, Tensor::from_f32(gpu, [groups, f, d], &split)?])
}

/// Which tokens belong to which experts: `[tokens, K]` experts and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub index: Vec<u32>,
    pub weight: Vec<f32>,
    pub top_k: usize,
    pub experts: usize,
}

impl Assignment {
    /// Each token with `top_k` random experts, weighted alike.
    pub fn random(tokens: usize, experts: usize, top_k: usize, seed: u64) -> Self {
        let choices = |t: usize| permutation(experts, seed + t as u64).into_iter().take(top_k).map(|e| e as u32);
        let index: Vec<u32> = (0..tokens).flat_map(choices).collect();
        Self { weight: vec![1.0 / top_k as f32; index.len()], index, top_k, experts }
    }

    /// The `top_k` experts of largest weight of each token, their weights summing to 1; experts are sorted by weight,
    /// as the router leaves them.
    pub fn best(&self, top_k: usize) -> Self {
        let index = self.index.chunks(self.top_k).flat_map(|row| &row[..top_k]).copied().collect();
        let scaled = |row: &[f32]| {
            let sum: f32 = row[..top_k].iter().sum();
            row[..top_k].iter().map(|w| w / sum).collect::<Vec<_>>()
        };
        let weight = self.weight.chunks(self.top_k).flat_map(scaled).collect();
        Self { index, weight, top_k, experts: self.experts }
    }

    /// The same choices and weights, at other tokens.
    pub fn permuted(&self, seed: u64) -> Self {
        let (index, weight) = permuted(&self.index, &self.weight, self.top_k, seed);
        Self { index, weight, ..*self }
    }

    /// With the inputs `x: [tokens, d]`.
    pub fn of<'a>(&'a self, x: &'a [f32], d: usize) -> Routed<'a> {
        let Assignment { index, weight, top_k, experts } = self;
        Routed { x, d, index, weight, top_k: *top_k, experts: *experts }
    }

    /// How many experts share a token: `exp` of the weights' entropy, the geometric mean over tokens.
    pub fn experts_a_token(&self) -> f64 {
        let entropy = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&w| f64::from(w)).sum();
            row.iter().map(|&w| f64::from(w) / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum::<f64>()
        };
        let tokens = (self.weight.len() / self.top_k) as f64;
        (self.weight.chunks(self.top_k).map(entropy).sum::<f64>() / tokens).exp()
    }
}
