//! Sparse upcycling: a dense model becomes one with experts, each a copy of its feed-forward network.
//!
//! The weights of the chosen experts are renormalised, so that copies give together what the dense network gave, whichever of
//! them a token visits: without noise the model computes what the dense one does, and training makes the experts different. From
//! Komatsuzaki et al., "Sparse upcycling" (ICLR 2023, arXiv 2212.05055); Qwen1.5-MoE was made in such a way.
//!
//! ```
//! use sdmoe::nn::config::Preset;
//! use sdmoe::nn::upcycle::{Upcycle, Upcycled};
//!
//! let mut dense = Preset::Tiny.model();
//! (dense.dense_layers, dense.d_dense) = ((0..dense.layers).collect(), 256);
//! let upcycled = Upcycled::new(&dense, Upcycle::new(8, 2))?;
//! assert_eq!((upcycled.config().moe.experts, upcycled.config().moe.d_expert), (8, 256));
//! # Ok::<(), sdmoe::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::linalg::random::normal;
use crate::nn::config::{ModelConfig, MoeConfig, SharedGate};
use crate::nn::model::Model;

/// How a dense model is upcycled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Upcycle {
    /// Experts in each layer.
    pub experts: usize,
    /// Experts a token visits.
    pub top_k: usize,
    /// Standard deviation of the normal noise on each expert's matrices, in units of the matrix' root mean square; 0 for none.
    pub noise: f32,
    /// Seed of the routers and of the noise.
    pub seed: u64,
    /// Hidden width of a shared expert, gated by a sigmoid, whose output starts at zero; 0 for none. Families that always have one
    /// need it.
    pub d_shared: usize,
}

impl Upcycle {
    /// `experts` in each layer, of which a token visits `top_k`; no noise, no shared expert.
    pub fn new(experts: usize, top_k: usize) -> Self {
        Self { experts, top_k, noise: 0.0, seed: 1, d_shared: 0 }
    }
}

/// The parameters of a model with experts, from those of a dense one.
#[derive(Clone, Debug)]
pub struct Upcycled {
    options: Upcycle,
    config: ModelConfig,
    /// Names and shapes of its parameters, in the order of [`Model::shapes`].
    shapes: Vec<(String, Vec<usize>)>,
}

/// Where a parameter comes from.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    /// The dense model's of that name.
    Same(String),
    /// A copy of it for each expert.
    Copies(String),
    /// Drawn, with this standard deviation.
    Drawn(f32),
    /// Zeros.
    Zeros,
}

impl Upcycled {
    /// The model that comes from a dense one of settings `dense`: all its layers get experts.
    ///
    /// # Errors
    /// [`Error::Config`] when `dense` has experts already, or for impossible numbers of experts or noise.
    pub fn new(dense: &ModelConfig, options: Upcycle) -> Result<Self> {
        if !dense.moe_layers().is_empty() {
            let message =
                format!("expected a dense model, got one with experts in {} layers", dense.moe_layers().len());
            return Err(Error::config("model", message));
        }
        if !(options.noise.is_finite() && (0.0..=10.0).contains(&options.noise)) {
            return Err(Error::config("noise", format!("expected a number from 0 to 10, got {}", options.noise)));
        }
        let mut config = dense.clone();
        config.moe = MoeConfig {
            experts: options.experts,
            top_k: options.top_k,
            d_expert: dense.d_dense,
            d_shared: options.d_shared,
            shared_gate: if options.d_shared > 0 { SharedGate::Sigmoid } else { SharedGate::None },
            renormalize: true,
            ..MoeConfig::default()
        };
        (config.dense_layers, config.d_dense) = (Vec::new(), 0);
        config.validate()?;
        Ok(Self { options, shapes: Model::shapes(&config), config })
    }

    /// The settings of the model with experts.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Names and shapes of its parameters.
    pub fn shapes(&self) -> &[(String, Vec<usize>)] {
        &self.shapes
    }

    /// The elements of parameter `name`; `dense` gives those of the dense model's parameters by name.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is not in [`Upcycled::shapes`]; those of `dense`; [`Error::Shape`] when it gives another
    /// number of elements.
    pub fn values<'a>(&self, name: &str, dense: impl Fn(&str) -> Result<&'a [f32]>) -> Result<Vec<f32>> {
        let stream = self.shapes.iter().position(|(known, _)| known == name);
        let stream = stream.ok_or_else(|| {
            Error::config("model", format!("expected a parameter of the upcycled model, got `{name}`"))
        })?;
        let shape = &self.shapes[stream].1;
        let (origin, count) = (origin(name, &self.config), shape.iter().product::<usize>());
        let draw = |i: usize| normal(self.options.seed, stream as u32, i as u32);
        let wanted = |values: &'a [f32], wanted: usize| match values.len() {
            len if len == wanted => Ok(values),
            len => Err(Error::shape("upcycle", format!("{wanted} numbers for {name} {shape:?}"), len.to_string())),
        };
        Ok(match origin {
            Origin::Same(name) => wanted(dense(&name)?, count)?.to_vec(),
            Origin::Copies(name) => {
                let matrix = wanted(dense(&name)?, count / self.options.experts)?;
                let noise = self.options.noise * root_mean_square(matrix);
                let mut copies = matrix.repeat(self.options.experts);
                if noise > 0.0 {
                    copies.iter_mut().enumerate().for_each(|(i, x)| *x += noise * draw(i));
                }
                copies
            }
            Origin::Drawn(std) => (0..count).map(|i| std * draw(i)).collect(),
            Origin::Zeros => vec![0.0; count],
        })
    }
}

/// Where parameter `name` of a model with experts comes from.
fn origin(name: &str, config: &ModelConfig) -> Origin {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["layers", layer, "moe_norm", "weight"] => Origin::Same(format!("layers.{layer}.ffn_norm.weight")),
        ["layers", layer, "moe", "experts", matrix] => Origin::Copies(format!("layers.{layer}.ffn.{matrix}")),
        ["layers", _, "moe", "router" | "shared_gate"] => Origin::Drawn(super::SMALL_STD),
        ["layers", _, "moe", "shared", "down"] => Origin::Zeros,
        ["layers", _, "moe", "shared", _] => Origin::Drawn(1.0 / (config.d_model as f32).sqrt()),
        _ => Origin::Same(name.to_owned()),
    }
}

fn root_mean_square(x: &[f32]) -> f32 {
    let sum: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    (sum / x.len().max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::nn::config::Preset;

    fn dense() -> ModelConfig {
        let mut config = Preset::Tiny.model();
        (config.layers, config.d_model, config.heads, config.kv_heads, config.head_dim) = (2, 8, 2, 1, 4);
        (config.dense_layers, config.d_dense) = (vec![0, 1], 6);
        config
    }

    fn parameters(config: &ModelConfig) -> BTreeMap<String, Vec<f32>> {
        let numbers = |(name, shape): (String, Vec<usize>)| {
            let first = name.len() as f32;
            let values = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin() + first);
            (name, values.collect())
        };
        Model::shapes(config).into_iter().map(numbers).collect()
    }

    #[test]
    fn every_parameter_has_an_origin_and_experts_are_copies() {
        let (dense, mut options) = (dense(), Upcycle::new(4, 2));
        options.d_shared = 4;
        let upcycled = Upcycled::new(&dense, options).unwrap();
        let own = parameters(&dense);
        for (name, shape) in upcycled.shapes() {
            let values = upcycled.values(name, |name| Ok(own[name].as_slice())).unwrap();
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
            if let Some((layer, matrix)) = name.split_once(".moe.experts.") {
                let copied = &own[&format!("{layer}.ffn.{matrix}")];
                assert!(values.chunks(copied.len()).all(|copy| copy == copied), "{name}");
            }
        }
        let down = upcycled.values("layers.1.moe.shared.down", |name| Ok(own[name].as_slice())).unwrap();
        assert!(down.iter().all(|x| *x == 0.0));
    }

    #[test]
    fn noise_is_relative_to_the_matrix_and_each_expert_has_its_own() {
        let (dense, mut options) = (dense(), Upcycle::new(3, 1));
        options.noise = 0.1;
        let own = parameters(&dense);
        let name = "layers.0.moe.experts.gate";
        let of =
            |options| Upcycled::new(&dense, options).unwrap().values(name, |name| Ok(own[name].as_slice())).unwrap();
        let (noisy, matrix) = (of(options), &own["layers.0.ffn.gate"]);
        let noise: Vec<f32> = noisy.iter().zip(matrix.repeat(3)).map(|(x, w)| x - w).collect();
        let relative = root_mean_square(&noise) / root_mean_square(matrix);
        assert!((relative - 0.1).abs() < 0.02, "{relative}");
        assert_ne!(noise[..48], noise[48..96]);
        assert_eq!(noisy, of(options));
        assert_ne!(noisy, of(Upcycle { seed: 2, ..options }));
    }

    #[test]
    fn what_cannot_be_upcycled_is_told() {
        let error = |config: &ModelConfig, options| Upcycled::new(config, options).unwrap_err().to_string();
        let sparse = Preset::Tiny.model();
        assert!(
            error(&sparse, Upcycle::new(4, 2)).contains("expected a dense model, got one with experts in 4 layers")
        );
        assert!(
            error(&dense(), Upcycle::new(2, 3)).contains("model.moe.top_k: expected at most model.moe.experts = 2")
        );
        assert!(error(&dense(), Upcycle::new(0, 1)).contains("model.moe.experts"));
        let noisy = Upcycle { noise: f32::NAN, ..Upcycle::new(4, 2) };
        assert!(error(&dense(), noisy).contains("noise: expected a number from 0 to 10, got NaN"));
    }
}
