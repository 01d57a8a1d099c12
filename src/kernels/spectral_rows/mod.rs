//! The gradient split and the moves of decoupled matrices at rank 8, for adapters with subgroups of eight lanes.
//!
//! Each kernel is one pass over a stack, in lib/eight_rows.wgsl's geometry, with everything of rank 8 in registers. What they
//! give is what `kernels::spectral` and `kernels::spectral_update` give in more passes, up to rounding; those decide
//! (`applies`, `parts`) and fall back to their own kernels.

mod moves;
mod products;

pub(crate) use moves::{Recorded, Stack, Wanted, adam, apply};
pub(crate) use products::{left_factors, products};

use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::spectral_place::{Place, places};

/// Rank, and lanes of a subgroup.
const RANK: usize = 8;
/// Rows of a workgroup, as in lib/eight_rows.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// 32.
    Near,
    /// 64.
    Far,
}

impl Block {
    /// The larger one, unless half of the last block would be past the end of `m` rows.
    fn large(m: usize) -> Self {
        if m.next_multiple_of(64) - m < 32 { Self::Far } else { Self::Near }
    }

    fn rows(self) -> usize {
        match self {
            Self::Near => 32,
            Self::Far => 64,
        }
    }

    /// How many `m` rows take.
    fn count(self, m: usize) -> usize {
        m.div_ceil(self.rows())
    }

    fn launch<'a>(self, kernel: &'static Kernel, m: usize) -> Launch<'a> {
        Launch::new(kernel)
            .constant("WG", RANK as u32)
            .constant("FAR", u32::from(self == Self::Far))
            .constant("ROW_TAIL", u32::from(!m.is_multiple_of(self.rows())))
    }
}

macro_rules! kernel {
    ($doc:literal, $name:ident, $text:literal, $entry:literal, $($source:literal),*) => {
        #[doc = $doc]
        pub static $name: Kernel = Kernel {
            name: $text,
            sources: &[
                include_str!("../../../shaders/lib/grid.wgsl"),
                include_str!("../../../shaders/lib/eight_rows.wgsl"),
                $(include_str!(concat!("../../../shaders/", $source)),)*
            ],
            entry: $entry,
            constants: &[],
        };
    };
}

kernel!(
    "Both skinny products of a stack.",
    SPECTRAL_PRODUCTS_ROWS,
    "spectral_products_rows",
    "spectral_products",
    "spectral_products_rows.wgsl"
);
kernel!(
    "Sums of the blocks' products, and theirs with V.",
    SUM_BLOCKS_ROWS,
    "sum_blocks_rows",
    "sum_blocks",
    "spectral_factors_rows.wgsl"
);
kernel!("`[U | B - U M]`.", LEFT_FACTORS_ROWS, "left_factors_rows", "left_factors", "spectral_factors_rows.wgsl");
kernel!(
    "AdamW, giving the direction's skinny products.",
    SPECTRAL_ADAM_ROWS,
    "spectral_adam_rows",
    "spectral_adam",
    "lib/pack_vec4.wgsl",
    "lib/adam.wgsl",
    "spectral_adam_rows.wgsl"
);
kernel!(
    "AdamW, the weights following a step of W_c, or giving it.",
    SPECTRAL_ADAM_FOLLOW_ROWS,
    "spectral_adam_follow_rows",
    "spectral_adam_follow",
    "lib/pack_vec4.wgsl",
    "lib/adam.wgsl",
    "spectral_adam_rows.wgsl"
);
kernel!(
    "A common part added.",
    SPECTRAL_APPLY_ROWS,
    "spectral_apply_rows",
    "spectral_apply",
    "spectral_apply_rows.wgsl"
);

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for (far, tail) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)] {
        let constants = vec![("WG", RANK as f64), ("FAR", far), ("ROW_TAIL", tail)];
        let mut add = |kernel, more: &[(&'static str, f64)]| {
            all.push(Variant { kernel, constants: [constants.as_slice(), more].concat() });
        };
        for kernel in [&SPECTRAL_PRODUCTS_ROWS, &SUM_BLOCKS_ROWS] {
            add(kernel, &[]);
        }
        if far == 1.0 {
            continue;
        }
        add(&LEFT_FACTORS_ROWS, &[]);
        add(&SPECTRAL_APPLY_ROWS, &[]);
        for common in [0.0, 1.0] {
            for (full, flag) in [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)] {
                let flags = [("COMMON", common), ("FULL", full)];
                add(&SPECTRAL_ADAM_ROWS, &[flags.as_slice(), &[("MOVE", flag)]].concat());
                add(&SPECTRAL_ADAM_FOLLOW_ROWS, &[flags.as_slice(), &[("FOLLOW", flag)]].concat());
            }
        }
    }
    all
}

/// Whether these kernels run on `gpu` for rank `k` and rows of `n` elements.
fn applies(gpu: &Gpu, k: usize, n: usize) -> bool {
    let lanes = gpu.adapter().subgroup_size;
    gpu.tier() == Tier::Subgroup
        && lanes == (RANK as u32, RANK as u32)
        && k == RANK
        && n.is_multiple_of(4)
        // A lane's only long loop is along a row.
        && n / 4 <= gpu.adapter().loop_limit() / 2
}

/// The launches for a stack of `shape`, none where these kernels do not take it: in each whole matrices must fit.
pub(crate) fn parts(gpu: &Gpu, shape: [usize; 4], k: usize) -> Result<Option<Vec<Place>>> {
    let [_, _, m, n] = shape;
    if !applies(gpu, k, n) {
        return Ok(None);
    }
    // The sums of blocks are the largest of what belongs to a matrix beside its rows.
    let blocks = Block::Near.count(m);
    // AdamW's pass has U^T X, V^T and the clip in one binding.
    let by_matrix = [blocks * RANK * n, blocks * RANK, RANK * RANK, 2 * RANK * n + 4];
    let Ok(parts) = places(gpu, "spectral decoupling", shape, &[2 * RANK, RANK], &by_matrix, &[RANK * n, m * n]) else {
        return Ok(None);
    };
    Ok(parts.iter().all(Place::whole).then_some(parts))
}
