//! The settings of the model and of the spectral decoupling, with their presets and their checks.
//!
//! Symbols: `d` model width, `f` expert hidden width, `E` routed experts, `K` experts a token, `k` common rank.

mod attention;
mod bounds;
mod model;
mod spectral;

pub use crate::kernels::routing_groups::GroupScore;
pub use crate::ops::{Pairing, Score};
pub use attention::{AttentionConfig, LatentConfig, QkNorm, YarnConfig};
pub(crate) use bounds::MAX_STEPS;
pub use model::{BalanceScope, ExpertMatrix, ModelConfig, MoeConfig, Precision, Preset, SharedGate};
pub use spectral::{CommonGradient, GradientForm, Realign, SpectralConfig};
