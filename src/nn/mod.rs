//! Layers and the models they make.
//!
//! A layer registers its parameters with a [`ParamBuilder`](params::ParamBuilder) and runs on a
//! [`Tape`](crate::autograd::Tape) in a [`Pass`](pass::Pass). [`Model`](model::Model) makes of them whatever a
//! [`ModelConfig`](config::ModelConfig) describes; a model of one's own implements
//! [`LanguageModel`](language_model::LanguageModel).

pub mod attention;
pub mod block;
pub mod cache;
pub mod config;
pub mod experts;
#[cfg(feature = "files")]
pub mod families;
pub mod generate;
pub mod language_model;
pub mod linear;
pub mod mask;
pub mod memory;
pub mod model;
pub mod moe;
pub mod norm;
pub mod params;
pub mod part;
pub mod pass;
pub mod passage;
pub mod router;
pub mod sample;
pub(crate) mod size;
pub mod swiglu;
pub mod trace;
pub mod upcycle;

/// Standard deviation of embeddings and routers at the start: small, so that first logits and first routing are close to
/// uniform.
pub(crate) const SMALL_STD: f32 = 0.02;
