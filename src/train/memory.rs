//! Where the device's memory is, by kind.
//!
//! Training cannot do with less than weights, gradients, optimizer state and the activations that backward needs; what the
//! peak has above their sum is the gradients of activations, temporaries, and what the pool's rounding and its buffers of
//! other sizes cost.

use std::fmt;

use serde::Serialize;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::nn::params::ParamSet;
use crate::optim::Optimizer;

/// Bytes on the device by kind, for a trainer that has the device to itself: the pool and the peak are the device's, and
/// whatever else lives on it counts as `other`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryReport {
    /// The model's parameters, in mixed precision with their f16 copies.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// State that the optimizer keeps from step to step: the update rule's moments, `W_c` with its moments, and the bases.
    pub optimizer: u64,
    /// Values that backward needs of the forward: the values that it reads and what ops saved, at the end of the forward, without
    /// rounding. 0 before the first step.
    pub activations: u64,
    /// Buffers for what lives within a step: activations, their gradients, temporaries. In use and free.
    pub pool: u64,
    /// Those of the pool that are free now.
    pub pool_free: u64,
    /// The rest: parameters of launches, staging, the batch, figures, sums of the gradient split.
    pub other: u64,
    /// All buffers now.
    pub allocated: u64,
    /// The most that all buffers have been since the device was opened.
    pub peak: u64,
}

impl MemoryReport {
    pub(super) fn new(gpu: &Gpu, params: &ParamSet, optimizer: &Optimizer, activations: u64) -> Result<Self> {
        let counters = gpu.counters();
        let weights = params.groups().iter().map(|g| g.values.bytes() + g.half.as_ref().map_or(0, |h| h.bytes())).sum();
        let gradients = params.groups().iter().map(|g| g.gradients.bytes()).sum();
        let optimizer = optimizer.state()?.iter().map(|(_, tensor)| tensor.bytes()).sum();
        let (allocated, pool) = (counters.bytes_allocated, counters.pooled_bytes);
        Ok(Self {
            weights,
            gradients,
            optimizer,
            activations,
            pool,
            pool_free: counters.pooled_free_bytes,
            other: allocated.saturating_sub(weights + gradients + optimizer + pool),
            allocated,
            peak: counters.peak_bytes,
        })
    }

    /// The bytes that a step cannot do without: weights, gradients, optimizer state and activations.
    pub fn needed(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.activations
    }

    /// The lines of the report, in order: the kinds that a step needs, their sum, what comes on top, the peak. Bytes.
    pub fn kinds(&self) -> [(&'static str, u64); 8] {
        [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer state", self.optimizer),
            ("activations that backward needs", self.activations),
            ("sum of these", self.needed()),
            ("pool beyond the activations", self.pool.saturating_sub(self.activations)),
            ("other", self.other),
            ("peak", self.peak),
        ]
    }

    /// The peak over what is needed.
    pub fn peak_ratio(&self) -> f64 {
        self.peak as f64 / self.needed() as f64
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, bytes) in self.kinds() {
            writeln!(f, "{kind:32} {:9.2} MiB", bytes as f64 / f64::from(1 << 20))?;
        }
        write!(f, "{:32} {:9.3}", "peak over the sum", self.peak_ratio())
    }
}
