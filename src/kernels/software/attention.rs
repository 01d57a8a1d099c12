//! Attention in registers, for subgroups of 8 lanes or more and a head_dim that is a multiple of 4.

use crate::gpu::{Gpu, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::attention::AttentionParams;
use crate::kernels::rows::{FourKernels, forms, four_launch};

/// The forward.
pub static ATTENTION_SUBGROUP: FourKernels =
    forms!("attention_subgroup", "software/attention.wgsl", AttentionParams, fours);
/// The gradient in the queries.
pub static ATTENTION_DQ_SUBGROUP: FourKernels =
    forms!("attention_dq_subgroup", "software/attention_dq.wgsl", AttentionParams, fours);
/// The gradients in keys and values.
pub static ATTENTION_DKV_SUBGROUP: FourKernels =
    forms!("attention_dkv_subgroup", "software/attention_dkv.wgsl", AttentionParams, fours);

/// Smallest subgroup that these kernels run on, and the one whose variants are listed.
const LANES: u32 = 8;

/// How the kernels of this module run on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    lanes: u32,
    compact: bool,
}

impl Registers {
    /// None where these kernels do not take heads of this width.
    pub(crate) fn of(gpu: &Gpu, head_dim: usize) -> Option<Self> {
        let lanes = gpu.adapter().subgroup_size.0;
        let takes = gpu.tier() == Tier::Software && lanes >= LANES && head_dim.is_multiple_of(4);
        takes.then(|| Registers { lanes, compact: gpu.compact() })
    }

    /// Loop iterations of a thread over one head of a sequence of which a row sees or is seen by `window`: of each kernel,
    /// or more.
    pub(crate) fn iterations(self, seq: usize, window: usize, head_dim: usize) -> usize {
        let seq = seq.min(window.saturating_add(8 * self.lanes as usize));
        if self.compact {
            // A loop over the 16 passing rows of a tile more, and one of 32 that stores.
            return seq.div_ceil(16) * (17 + head_dim / 4) + 32;
        }
        seq.div_ceil(16) * (1 + head_dim / 4)
    }

    /// A launch over all tiles of `heads` heads of sequences.
    pub(crate) fn launch<'a>(
        self,
        kernels: &'static FourKernels,
        seq: usize,
        head_dim: usize,
        heads: usize,
    ) -> Launch<'a> {
        let blocks = head_dim.div_ceil(32);
        let tiles = seq.div_ceil(4 * self.lanes as usize);
        four_launch(kernels)
            .constant("SG", self.lanes)
            .constant("COMPACT", u32::from(self.compact))
            .workgroups(heads * tiles * blocks)
    }
}

/// Every kernel of this module.
pub(crate) fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for kernel in [&ATTENTION_SUBGROUP, &ATTENTION_DQ_SUBGROUP, &ATTENTION_DKV_SUBGROUP].into_iter().flatten() {
        for (compact, windowed) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)] {
            let constants = vec![("SG", f64::from(LANES)), ("COMPACT", compact), ("WINDOWED", windowed)];
            all.push(Variant { kernel, constants });
        }
    }
    all
}
