//! How much of a checkpoint is understood, and what of its experts is missing.

use super::layer::ExpertLayer;
use super::names::shown;
use super::target::Target;

/// How much of a checkpoint is understood; the counts add up to its tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorCoverage {
    /// Expert matrices: E for each kind and layer, whether they lie in one tensor or in E.
    pub matrices: usize,
    /// Tensors that hold them.
    pub expert_tensors: usize,
    /// Routers of layers with experts.
    pub routers: usize,
    /// Decoupled parts: `W_c`, `W_u`, U, V.
    pub spectral: usize,
    /// Tensors known to be something else: attention, norms, embeddings, dense layers, shared experts, optimizer moments.
    pub other: usize,
    /// The names that are not understood.
    pub unknown: Vec<String>,
    /// Those of them that seem to belong to experts.
    pub unread_experts: Vec<String>,
}

/// The signs of experts that are not among `layers`, a sentence each without its full stop: one shard of several,
/// names that look like experts, a configuration with more of them.
pub(super) fn gaps(target: &Target, coverage: &TensorCoverage, layers: &[ExpertLayer]) -> Vec<String> {
    let mut gaps: Vec<String> = target.part.iter().cloned().collect();
    if let [first, more @ ..] = &coverage.unread_experts[..] {
        let (count, first) = (coverage.unread_experts.len(), shown(first));
        gaps.push(match more {
            [] => format!("1 tensor whose name looks like an expert\u{2019}s is left out ({first})"),
            _ => format!("{count} tensors whose names look like experts\u{2019} are left out ({first} and others)"),
        });
    }
    let short = |wanted: u64| layers.iter().find(|l| (l.experts as u64) < wanted);
    if let Some((wanted, layer)) = target.config.experts.and_then(|wanted| Some((wanted, short(wanted)?))) {
        let (number, experts) = (layer.number, layer.experts);
        gaps.push(format!("config.json has {wanted} experts a layer, layer {number} has {experts}"));
    }
    gaps
}
