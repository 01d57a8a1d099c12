//! How specialised the experts of a Mixture-of-Experts model are: spectra, similarities, gates, activations, Jacobians,
//! routed PCA and load, each beside what chance would give (METHOD §6, §7).

pub mod record;
