//! How specialised the experts of a Mixture-of-Experts model are: spectra, similarities, gates, activations, Jacobians,
//! routed PCA, load and outputs, each beside what chance would give (METHOD §6, §7).

pub mod activations;
mod control;
pub mod curves;
pub mod data;
mod decoupling;
mod dense;
pub mod gates;
pub mod jacobian;
mod lanczos;
pub mod load;
pub mod observe;
mod outputs;
pub mod pairs;
pub mod positions;
pub mod prune;
pub mod record;
mod reduce;
pub mod routed;
pub mod routed_pca;
pub mod saliency;
pub mod similarity;
pub mod spectra;
mod stack;
mod tokens;
pub mod trace;
pub mod weights;
pub mod whole;

pub use control::Controls;
