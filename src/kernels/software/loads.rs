//! How these adapters load from memory.

use crate::gpu::{Gpu, Tier};

/// Whether kernels load two f32 as one u64, where they can: a load costs these adapters by its number of components.
pub(crate) fn as_u64(gpu: &Gpu) -> bool {
    gpu.tier() == Tier::Software && gpu.has_u64()
}
