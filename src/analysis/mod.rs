//! How specialised the experts of a Mixture-of-Experts model are: spectra, similarities, gates, activations, Jacobians,
//! routed PCA and load, each beside what chance would give (METHOD §6, §7).

mod control;
mod decoupling;
mod dense;
pub mod gates;
mod lanczos;
pub mod record;
pub mod similarity;
pub mod spectra;
pub mod weights;

pub use control::Controls;
