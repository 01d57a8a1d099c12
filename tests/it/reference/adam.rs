//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) and clipping by the global norm.

use sdmoe::optim::OptimizerConfig;

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
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: 1.0 }
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
        }
    }
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

    /// The share of a matrix that a step's decay leaves.
    pub fn kept(&self, lr: f64) -> f64 {
        1.0 - lr * self.weight_decay
    }
}
