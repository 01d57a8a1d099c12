//! Workgroups of a single subgroup: what its lanes share is loaded once, and a sum over them needs no barrier.

use crate::gpu::{Gpu, Tier};

/// Threads of a workgroup that is one subgroup; none where the device is for the general kernels.
pub(crate) fn threads(gpu: &Gpu) -> Option<u32> {
    (gpu.tier() == Tier::Software).then(|| gpu.adapter().subgroup_size.0)
}
