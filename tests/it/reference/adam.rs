//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), Muon for matrices of hidden layers (Jordan et al. 2024,
//! scaled as in arXiv 2502.16982), and clipping by the global norm.

use sdmoe::optim::{OptimizerConfig, Rule};

use super::tape::Mat;

/// AdamW's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of every tensor with at least two dimensions.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 for none.
    pub clip: f64,
    /// The momentum of Muon, where it moves the matrices of hidden layers.
    pub muon: Option<f64>,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0, muon: None }
    }
}

impl From<&OptimizerConfig> for Adam {
    fn from(config: &OptimizerConfig) -> Self {
        Self {
            beta1: f64::from(config.beta1),
            beta2: f64::from(config.beta2),
            eps: f64::from(config.eps),
            weight_decay: f64::from(config.weight_decay),
            clip: f64::from(config.clip),
            muon: (config.rule == Rule::Muon).then_some(f64::from(config.momentum)),
        }
    }
}

/// Whether a parameter of that name is a matrix of a hidden layer.
fn is_hidden(name: &str) -> bool {
    [".attn.w", ".experts.", ".shared.", ".ffn."].iter().any(|part| name.contains(part))
}

/// Five Newton-Schulz iterations with the quintic of Jordan et al.
pub fn newton_schulz(x: &Mat) -> Mat {
    if x.nrows() > x.ncols() {
        return newton_schulz(&x.transpose()).transpose();
    }
    let mut x = x / (x.norm() + 1e-7);
    for _ in 0..5 {
        let a = &x * x.transpose();
        x = &x * 3.4445 + (&a * -4.7750 + &a * &a * 2.0315) * &x;
    }
    x
}

/// The running moments of one matrix.
#[derive(Clone, Debug)]
pub struct Moments {
    m: Mat,
    v: Mat,
}

impl Moments {
    /// Zero moments for a matrix like `p`.
    pub fn like(p: &Mat) -> Self {
        Self { m: Mat::zeros(p.nrows(), p.ncols()), v: Mat::zeros(p.nrows(), p.ncols()) }
    }
}

impl Adam {
    /// The factor that brings a gradient of norm `norm` under the limit.
    pub fn clip_scale(&self, norm: f64) -> f64 {
        if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) } else { 1.0 }
    }

    /// Takes the gradient `g` of step `t` (counted from 1) in and returns the direction, the decay apart; the caller subtracts
    /// it times the learning rate.
    pub fn direction(&self, state: &mut Moments, g: &Mat, t: i32) -> Mat {
        state.m = &state.m * self.beta1 + g * (1.0 - self.beta1);
        state.v = &state.v * self.beta2 + g.component_mul(g) * (1.0 - self.beta2);
        let (c1, c2) = (1.0 - self.beta1.powi(t), 1.0 - self.beta2.powi(t));
        state.m.zip_map(&state.v, |m, v| (m / c1) / ((v / c2).sqrt() + self.eps))
    }

    /// As [`Adam::direction`] for the matrix `name`, or a part of it: by Muon where that is the rule for it.
    pub fn direction_of(&self, name: &str, state: &mut Moments, g: &Mat, t: i32) -> Mat {
        let Some(momentum) = self.muon.filter(|_| is_hidden(name)) else { return self.direction(state, g, t) };
        state.m = &state.m * momentum + g;
        let scale = 0.2 * (g.nrows().max(g.ncols()) as f64).sqrt();
        newton_schulz(&(&state.m * momentum + g)) * scale
    }

    /// The share of a matrix that a step's decay leaves.
    pub fn kept(&self, lr: f64) -> f64 {
        1.0 - lr * self.weight_decay
    }
}
