//! The gradient split and the moves of decoupled matrices at rank 8, for adapters with subgroups of eight lanes.
//!
//! Each kernel is one pass over a stack, in software/eight_rows.wgsl's geometry, with everything of rank 8 in registers. What they
//! give is what `kernels::spectral` and `kernels::spectral_update` give in more passes, up to rounding; those decide
//! (`applies`, `parts`) and fall back to their own kernels.

mod moves;
mod products;

pub(crate) use moves::{Recorded, Wanted, adam, apply};
pub(crate) use products::{left_factors, products};

use moves::{AdamParams, ApplyParams};
use products::{FactorParams, ProductParams};

use crate::error::Result;
use crate::gpu::{Gpu, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::octs::{Octs, octs};
use crate::kernels::software::limits;
use crate::kernels::stack_parts::{StackPart, stack_parts};

/// Rank, and lanes of a subgroup.
const RANK: usize = 8;
/// Elements of a page of memory, as in software/eight_rows.wgsl.
const PAGE: usize = 1024;
/// Rows of a workgroup, as in software/eight_rows.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    rows: usize,
    walks: usize,
}

impl Block {
    /// The rows of a walk of the products. One walk after the other adds to the same sums, so that they are small.
    const PRODUCTS: Block = Block { rows: 32, walks: 4 };
    /// The rows of a walk of AdamW's pass with the direction's products: with 32 rows a walk its loop is more code than a processor's first cache
    /// of instructions holds.
    const ADAM: Block = Block { rows: 16, walks: 8 };
    /// The rows of a walk of AdamW's pass without them.
    const FOLLOW: Block = Block { rows: 16, walks: 1 };
    /// Where a common part is added, and of the factors.
    const APPLY: Block = Block { rows: 32, walks: 1 };

    /// How many `m` rows take.
    fn count(self, m: usize) -> usize {
        m.div_ceil(self.rows * self.walks)
    }

    fn constants(self, tail: bool, pages: usize) -> [(&'static str, f64); 5] {
        let (rows, walks, tail) = (self.rows as f64, self.walks as f64, f64::from(u8::from(tail)));
        [("WG", RANK as f64), ("ROWS", rows), ("WALKS", walks), ("ROW_TAIL", tail), ("PAGES", pages as f64)]
    }

    /// For matrices of `m` rows of `n` elements.
    fn launch<'a>(self, kernel: &'static Octs, m: usize, n: usize) -> Launch<'a> {
        kernel.launch().constants(self.constants(!m.is_multiple_of(self.rows), n.div_ceil(PAGE)))
    }
}

octs! { "Both skinny products of a stack.", SPECTRAL_PRODUCTS_ROWS, "spectral_products_rows", "spectral_products", "software/spectral_products_rows.wgsl", ProductParams }
octs! { "Sums of the blocks' products, and theirs with V.", SUM_BLOCKS_ROWS, "sum_blocks_rows", "sum_blocks", "software/spectral_factors_rows.wgsl", FactorParams }
octs! { "`[U | B - U M]`.", LEFT_FACTORS_ROWS, "left_factors_rows", "left_factors", "software/spectral_factors_rows.wgsl", FactorParams }
octs! { "AdamW, giving the direction's skinny products.", SPECTRAL_ADAM_ROWS, "spectral_adam_rows", "spectral_adam", "software/spectral_adam_rows.wgsl", AdamParams }
octs! { "AdamW, the weights following a step of W_c, or giving it.", SPECTRAL_ADAM_FOLLOW_ROWS, "spectral_adam_follow_rows", "spectral_adam_follow", "software/spectral_adam_rows.wgsl", AdamParams }
octs! { "A common part added.", SPECTRAL_APPLY_ROWS, "spectral_apply_rows", "spectral_apply", "software/spectral_apply_rows.wgsl", ApplyParams }

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for (tail, pages) in [(false, 1), (true, 2)] {
        let mut add = |kernel: &'static Octs, block: Block, more: &[(&'static str, f64)]| {
            all.extend(kernel.variants(&[&block.constants(tail, pages), more].concat()));
        };
        for beyond in [0.0, 1.0] {
            add(&SPECTRAL_PRODUCTS_ROWS, Block::PRODUCTS, &[("BEYOND", beyond)]);
        }
        for block in [Block::PRODUCTS, Block::ADAM] {
            add(&SUM_BLOCKS_ROWS, block, &[]);
        }
        add(&LEFT_FACTORS_ROWS, Block::APPLY, &[]);
        add(&SPECTRAL_APPLY_ROWS, Block::APPLY, &[]);
        for common in [0.0, 1.0] {
            for (full, flag) in [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)] {
                let flags = [("COMMON", common), ("FULL", full)];
                add(&SPECTRAL_ADAM_ROWS, Block::ADAM, &[flags.as_slice(), &[("MOVE", flag)]].concat());
                add(&SPECTRAL_ADAM_FOLLOW_ROWS, Block::FOLLOW, &[flags.as_slice(), &[("FOLLOW", flag)]].concat());
            }
        }
    }
    all
}

/// How much cheaper than by its FLOPs the direct form of the gradient split is, against the token-space form, where these kernels
/// run: in one pass over the gradient, along with its norm. On llvmpipe both cost the same at about 100 tokens an expert for
/// d = 1024, f = 704 (5.5 times fewer than by FLOPs) and at about 60 for 256 x 256 (2.8 times), `docs/notes/training-step.md`.
const DIRECT_GAIN: f64 = 4.0;

/// How much cheaper than by its FLOPs the direct form of the gradient split is for a stack of `shape`, none where these kernels
/// do not take it.
///
/// # Errors
/// [`crate::Error::Shape`] when a row exceeds a binding.
pub(crate) fn direct_gain(gpu: &Gpu, shape: [usize; 4], k: usize) -> Result<Option<f64>> {
    Ok(parts(gpu, shape, k)?.map(|_| DIRECT_GAIN))
}

/// Whether these kernels run on `gpu` for rank `k` and rows of `n` elements.
fn applies(gpu: &Gpu, k: usize, n: usize) -> bool {
    let lanes = gpu.adapter().subgroup_size;
    gpu.tier() == Tier::Software
        && lanes == (RANK as u32, RANK as u32)
        && k == RANK
        && n.is_multiple_of(8)
        // A lane's long loops are along its rows, one after the other.
        && Block::ADAM.walks.max(Block::PRODUCTS.walks) * (n / 8 + 1) <= limits::iterations(gpu) / 2
}

/// The launches for a stack of `shape`, none where these kernels do not take it: in each whole matrices must fit.
pub(crate) fn parts(gpu: &Gpu, shape: [usize; 4], k: usize) -> Result<Option<Vec<StackPart>>> {
    let [_, _, m, n] = shape;
    if !applies(gpu, k, n) {
        return Ok(None);
    }
    // The sums of blocks are the largest of what belongs to a matrix beside its rows.
    let blocks = Block::PRODUCTS.count(m).max(Block::ADAM.count(m));
    // AdamW's pass has U^T X, V^T and the clip in one binding.
    let by_matrix = [blocks * RANK * n, blocks * RANK, RANK * RANK, 2 * RANK * n + 8];
    let Ok(parts) = stack_parts(gpu, "spectral decoupling", shape, &[2 * RANK, RANK], &by_matrix, &[RANK * n, m * n])
    else {
        return Ok(None);
    };
    Ok(parts.iter().all(StackPart::whole).then_some(parts))
}
