//! The training step: forward, backward, split, clip, AdamW or Muon, refresh, balance.

use std::collections::BTreeMap;

use sdmoe::nn::config::{CommonGradient, ExpertMatrix, ModelConfig, SpectralConfig};

use super::model::{Batch, Params, Pass, Routed, forward, shapes};
use super::spectral::{Decoupled, Drift, SpectralState};
use super::tape::Mat;
use super::{Adam, Array, Arrays, Moments};

/// What a step saw.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Mean cross-entropy in nats, before the update.
    pub loss: f64,
    /// Sum of the layers' auxiliary losses, before the update.
    pub aux: f64,
    /// Global norm of what the parameters received, before clipping.
    pub grad_norm: f64,
    /// By layer.
    pub routed: Vec<Routed>,
    /// In a step that refreshes: the drift of each decoupled matrix after the update, just before the refresh.
    pub before_refresh: BTreeMap<String, Drift>,
}

/// A model in training.
#[derive(Clone)]
pub struct Trainer {
    model: ModelConfig,
    spectral: SpectralConfig,
    adam: Adam,
    /// Everything that the forward pass reads; decoupled matrices merged.
    params: Params,
    shapes: BTreeMap<String, Vec<usize>>,
    decoupled: BTreeMap<String, Decoupled>,
    moments: BTreeMap<String, Vec<Moments>>,
    biases: Vec<Vec<f64>>,
    steps: i32,
}

/// The part of a decoupled matrix that AdamW sees as a parameter of its own.
fn part(name: &str, part: &str) -> String {
    format!("{name}.{part}")
}

impl Trainer {
    /// A trainer at step 0. A covered matrix starts from `states`, where it has one there (`params` need not hold it
    /// then), else from [`Decoupled::from_experts`]. Panics when names or shapes do not fit the model.
    pub fn new(
        model: ModelConfig,
        spectral: SpectralConfig,
        adam: Adam,
        mut params: Arrays,
        states: BTreeMap<String, SpectralState>,
    ) -> Self {
        let spectral = spectral.resolved();
        let mut decoupled = BTreeMap::new();
        for layer in 0..model.layers {
            for matrix in ExpertMatrix::ALL.into_iter().filter(|&m| spectral.covers(m)) {
                let name = format!("layers.{layer}.moe.experts.{}", matrix.name());
                let state = match states.get(&name) {
                    Some(state) => Decoupled::from_state(state),
                    None => Decoupled::from_experts(&params[&name].matrices(), spectral.rank),
                };
                assert_eq!(state.rank(), spectral.rank, "{name}: rank of U");
                params.insert(name.clone(), Array::from_stack(&state.merged()));
                decoupled.insert(name, state);
            }
        }
        let stray: Vec<_> = states.keys().filter(|name| !decoupled.contains_key(*name)).collect();
        assert!(stray.is_empty(), "spectral states of matrices that are not covered: {stray:?}");
        let shapes = shapes(&model);
        let got: BTreeMap<_, _> = params.iter().map(|(name, a)| (name.clone(), a.shape.clone())).collect();
        assert_eq!(got, shapes, "names and shapes of the parameters");

        let params: Params = params.iter().map(|(name, a)| (name.clone(), a.matrices())).collect();
        let like = |matrices: &[Mat]| matrices.iter().map(Moments::like).collect::<Vec<_>>();
        let mut moments = BTreeMap::new();
        for (name, matrices) in &params {
            if decoupled.contains_key(name) {
                moments.insert(part(name, "w_c"), like(&matrices[..1]));
                moments.insert(part(name, "w_u"), like(matrices));
            } else {
                moments.insert(name.clone(), like(matrices));
            }
        }
        let biases = vec![vec![0.0; model.moe.experts]; model.layers];
        Self { model, spectral, adam, params, shapes, decoupled, moments, biases, steps: 0 }
    }

    fn forward(&self, tokens: &[u32], targets: &[u32], batch: usize, seq: usize) -> Pass {
        forward(&self.model, &self.params, &self.biases, Batch { tokens, targets, batch, seq })
    }

    fn arrays(&self, values: &Params) -> Arrays {
        values.iter().map(|(name, m)| (name.clone(), Array::from_matrices(&self.shapes[name], m))).collect()
    }

    /// Cross-entropy and auxiliary loss, without a step.
    pub fn losses(&self, tokens: &[u32], targets: &[u32], batch: usize, seq: usize) -> (f64, f64) {
        let pass = self.forward(tokens, targets, batch, seq);
        (pass.tape.scalar(pass.loss), pass.tape.scalar(pass.aux))
    }

    /// The logits, `[batch * seq, vocab]`.
    pub fn logits(&self, tokens: &[u32], batch: usize, seq: usize) -> Array {
        let pass = self.forward(tokens, tokens, batch, seq);
        Array::from_matrix(pass.tape.value(pass.logits))
    }

    /// The gradient of cross-entropy plus auxiliary losses with respect to each (merged) parameter, neither split nor clipped.
    pub fn gradients(&self, tokens: &[u32], targets: &[u32], batch: usize, seq: usize) -> Arrays {
        self.arrays(&raw_gradients(&self.forward(tokens, targets, batch, seq)))
    }

    /// What the parameters receive, by the names that AdamW sees: a decoupled matrix has `{name}.w_c` and `{name}.w_u`.
    fn received(&self, raw: Params) -> Params {
        let mut received = Params::new();
        for (name, grads) in raw {
            if let Some(state) = self.decoupled.get(&name) {
                let sum: Mat = grads.iter().map(|g| state.common(g)).sum();
                let mean = self.spectral.common_gradient == CommonGradient::Mean;
                received.insert(part(&name, "w_c"), vec![if mean { sum / grads.len() as f64 } else { sum }]);
                received.insert(part(&name, "w_u"), grads.iter().map(|g| state.unique(g)).collect());
            } else {
                received.insert(name, grads);
            }
        }
        received
    }

    /// One optimizer step at learning rate `lr`.
    pub fn step(&mut self, tokens: &[u32], targets: &[u32], batch: usize, seq: usize, lr: f64) -> StepReport {
        self.step_over(&[(tokens, targets)], batch, seq, lr)
    }

    /// One optimizer step on the mean of the losses of several micro-batches, tokens and targets each.
    pub fn step_over(&mut self, micro: &[(&[u32], &[u32])], batch: usize, seq: usize, lr: f64) -> StepReport {
        let share = 1.0 / micro.len() as f64;
        let (mut loss, mut aux, mut raw, mut routed) = (0.0, 0.0, Params::new(), Vec::<Routed>::new());
        for (i, (tokens, targets)) in micro.iter().enumerate() {
            let pass = self.forward(tokens, targets, batch, seq);
            loss += share * pass.tape.scalar(pass.loss);
            aux += share * pass.tape.scalar(pass.aux);
            for (name, grads) in raw_gradients(&pass) {
                let scaled = grads.into_iter().map(|g| g * share);
                match raw.get_mut(&name) {
                    Some(sum) => sum.iter_mut().zip(scaled).for_each(|(sum, g)| *sum += g),
                    None => drop(raw.insert(name, scaled.collect())),
                }
            }
            if i == 0 {
                routed = pass.routed;
                continue;
            }
            for (sum, layer) in routed.iter_mut().zip(pass.routed) {
                sum.picks.iter_mut().zip(&layer.picks).for_each(|(sum, picks)| *sum += picks);
                sum.margin = sum.margin.min(layer.margin);
            }
        }
        let mut grads = self.received(raw);
        let grad_norm = grads.values().flatten().map(Mat::norm_squared).sum::<f64>().sqrt();
        let scale = self.adam.clip_scale(grad_norm);
        grads.values_mut().flatten().for_each(|g| *g *= scale);
        self.steps += 1;

        let names: Vec<String> = self.params.keys().cloned().collect();
        for name in names.iter().filter(|name| !self.decoupled.contains_key(*name)) {
            let kept = if self.shapes[name].len() >= 2 { self.adam.kept(lr) } else { 1.0 };
            let p = self.params.get_mut(name).expect("its own name");
            let moments = self.moments.get_mut(name).expect("every parameter has moments");
            for ((p, state), g) in p.iter_mut().zip(moments).zip(&grads[name]) {
                *p = &*p * kept - self.adam.direction_of(name, state, g, self.steps) * lr;
            }
        }
        for (name, state) in &mut self.decoupled {
            let (c, u) = (part(name, "w_c"), part(name, "w_u"));
            let project = self.spectral.project_update;
            let moments = &mut self.moments.get_mut(&c).expect("every parameter has moments")[0];
            let dir = self.adam.direction_of(name, moments, &grads[&c][0], self.steps);
            let dir = if project { state.common(&dir) } else { dir };
            state.w_c = &state.w_c * self.adam.kept(lr) - dir * lr;
            let moments = self.moments.get_mut(&u).expect("every parameter has moments");
            for (e, (moments, g)) in moments.iter_mut().zip(&grads[&u]).enumerate() {
                let dir = self.adam.direction_of(name, moments, g, self.steps);
                let dir = if project { state.unique(&dir) } else { dir };
                state.w_u[e] = &state.w_u[e] * self.adam.kept(lr) - dir * lr;
            }
        }

        let mut before_refresh = BTreeMap::new();
        if (self.steps as u64).is_multiple_of(self.spectral.refresh_every) {
            for (name, state) in &mut self.decoupled {
                before_refresh.insert(name.clone(), state.drift());
                state.refresh(self.spectral.realign);
            }
        }
        for (name, state) in &self.decoupled {
            self.params.insert(name.clone(), state.merged());
        }
        self.balance(&routed, micro.len() * batch * seq);
        StepReport { loss, aux, grad_norm, routed, before_refresh }
    }

    /// The loss-free balancing: an expert with less than its share becomes easier to choose.
    fn balance(&mut self, routed: &[Routed], tokens: usize) {
        let m = &self.model.moe;
        let share = (tokens * m.top_k) as f64 / m.experts as f64;
        for (bias, layer) in self.biases.iter_mut().zip(routed) {
            for (b, &picks) in bias.iter_mut().zip(&layer.picks) {
                let missing = share - picks as f64;
                *b += if missing == 0.0 { 0.0 } else { f64::from(m.balance_bias) * missing.signum() };
            }
        }
    }

    /// Every parameter, decoupled matrices merged.
    pub fn params(&self) -> Arrays {
        self.arrays(&self.params)
    }

    /// The decoupled matrices by name.
    pub fn spectral(&self) -> BTreeMap<String, SpectralState> {
        self.decoupled.iter().map(|(name, state)| (name.clone(), state.to_state())).collect()
    }

    /// The decoupled matrices' drift by name.
    pub fn drift(&self) -> BTreeMap<String, Drift> {
        self.decoupled.iter().map(|(name, state)| (name.clone(), state.drift())).collect()
    }

    /// Each layer's balance biases.
    pub fn biases(&self) -> &[Vec<f64>] {
        &self.biases
    }

    /// Replaces the balance biases, one row a layer.
    pub fn set_biases(&mut self, biases: Vec<Vec<f64>>) {
        assert_eq!(biases.len(), self.model.layers, "biases: one row a layer");
        assert!(biases.iter().all(|b| b.len() == self.model.moe.experts), "biases: one entry an expert");
        self.biases = biases;
    }
}

fn raw_gradients(pass: &Pass) -> Params {
    let grads = pass.tape.backward(pass.total);
    let of = |vars: &Vec<super::tape::Var>| vars.iter().map(|&v| grads.of(v).clone()).collect();
    pass.leaves.iter().map(|(name, vars)| (name.clone(), of(vars))).collect()
}
