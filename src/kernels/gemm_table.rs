//! The variants of the matrix products and the one table that chooses between them.
//!
//! A product kernel is an entry point (dense, grouped, weight gradient) joined with a multiplying fragment:
//!
//! | tier      | fragment             | tile    | chosen where                                            |
//! |-----------|----------------------|---------|---------------------------------------------------------|
//! | Subgroup  | `software/product.wgsl` | 32 x 8s | M, N, K >= 4; 8 or 16 rows, 4s columns, C transposed, where narrow |
//! | Workgroup | `gemm/workgroup.wgsl`| by [`shapes`] | always                                            |
//! |           | `gemm/cooperative.wgsl` | 64 x 64 | instead, for f16 A and B in rows of multiples of 4, C of more than 16 rows and columns, where [`Gpu::cooperative_matrix`] |
//! | Plain     | `gemm/plain.wgsl`    | 8 x 8   | always, and wherever the others do not apply            |
//!
//! (*s* lanes a subgroup.) The workgroup fragment has a kernel for each block of a thread, and binds A and B, and C, as vec4 where
//! their rows allow. The subgroup fragment binds A and B as vec4 where all their rows have a multiple of 4 elements
//! and as scalars elsewhere, and C likewise by itself; as u64 where the device has them and B is stored transposed, or its
//! columns are a multiple of 8. A large dense product of other sizes copies A and B into padded ones first (`pad`). A weight
//! gradient gives a workgroup a block of tiles and blocks the sum. What each reaches is in docs/notes/software-drivers.md.

use super::Variant;
use super::gemm::Trans;
use super::shapes::{self, Cut, SHAPES, Task};
use crate::gpu::{Gpu, Kernel, Tier};

/// One entry point joined with every multiplying fragment.
#[derive(Debug)]
pub struct Family {
    /// By subgroups, loading scalars, for rows of any length.
    subgroup_scalar: Kernel,
    /// By subgroups, loading vec4.
    subgroup: Stores,
    /// By subgroups, loading u64.
    subgroup_u64: Stores,
    /// By subgroups, loading u64, B along the steps.
    subgroup_u64_along: Stores,
    /// From workgroup memory, by a thread's block.
    workgroup: [Loads; 3],
    /// On matrix units.
    pub cooperative: Kernel,
    /// One output a thread.
    plain: Kernel,
}

/// What stores C as vec4, and what stores rows of any length.
#[derive(Debug)]
struct Stores {
    vec4: Kernel,
    scalar: Kernel,
}

/// The kernels that load A and B as vec4, and the one that loads rows of any length.
#[derive(Debug)]
struct Loads {
    vec4: Stores,
    scalar: Kernel,
}

impl Loads {
    fn of(&'static self, aligned: bool, aligned_c: bool) -> &'static Kernel {
        if aligned { self.vec4.of(aligned_c) } else { &self.scalar }
    }
}

impl Stores {
    fn of(&'static self, aligned: bool) -> &'static Kernel {
        if aligned { &self.vec4 } else { &self.scalar }
    }
}

macro_rules! family {
    ($doc:literal, $family:ident, $file:literal, $entry:literal) => {
        #[doc = $doc]
        pub static $family: Family = Family {
            subgroup_scalar: family!(@kernel $file, $entry, "_subgroup_scalar", "gemm/load_scalar", "software/product_blocks", "gemm/store_scalar", "software/product"),
            subgroup: family!(@stores $file, $entry, "_subgroup", "gemm/load_vec4", "software/product_blocks"),
            subgroup_u64: family!(@stores $file, $entry, "_subgroup_u64", "software/pairs_u64", "software/oct_u64", "software/product_load_u64"),
            subgroup_u64_along: family!(@stores $file, $entry, "_subgroup_u64_along", "software/pairs_u64", "software/product_load_u64_along", "software/product_blocks"),
            workgroup: [
                family!(@loads $file, $entry, "_workgroup_4x4", "gemm/thread_4x4"),
                family!(@loads $file, $entry, "_workgroup_8x4", "gemm/thread_8x4"),
                family!(@loads $file, $entry, "_workgroup_8x8", "gemm/thread_8x8"),
            ],
            cooperative: family!(@kernel $file, $entry, "_cooperative", "gemm/load_vec4", "gemm/store_vec4", "gemm/cooperative_block", "gemm/cooperative"),
            plain: family!(@kernel $file, $entry, "_plain", "gemm/plain"),
        };
    };
    (@stores $file:literal, $entry:literal, $suffix:literal, $($part:literal),*) => {
        Stores {
            vec4: family!(@kernel $file, $entry, $suffix, $($part,)* "gemm/store_vec4", "software/product"),
            scalar: family!(@kernel $file, $entry, concat!($suffix, "_scalar_c"), $($part,)* "gemm/store_scalar", "software/product"),
        }
    };
    (@loads $file:literal, $entry:literal, $suffix:literal, $thread:literal) => {
        Loads {
            vec4: Stores {
                vec4: family!(@kernel $file, $entry, $suffix, $thread, "gemm/load_vec4", "gemm/edge_vec4", "gemm/store_vec4", "gemm/workgroup"),
                scalar: family!(@kernel $file, $entry, concat!($suffix, "_scalar_c"), $thread, "gemm/load_vec4", "gemm/edge_vec4", "gemm/store_scalar", "gemm/workgroup"),
            },
            scalar: family!(@kernel $file, $entry, concat!($suffix, "_scalar"), $thread, "gemm/load_scalar", "gemm/edge_scalar", "gemm/store_scalar", "gemm/workgroup"),
        }
    };
    (@kernel $file:literal, $entry:literal, $suffix:expr, $($part:literal),*) => {
        Kernel {
            name: concat!($entry, $suffix),
            sources: &[
                include_str!("../../shaders/lib/grid.wgsl"),
                include_str!("../../shaders/lib/gemm_tile.wgsl"),
                $(include_str!(concat!("../../shaders/", $part, ".wgsl")),)*
                include_str!(concat!("../../shaders/gemm/", $file)),
            ],
            entry: $entry,
            constants: &[],
        }
    };
}

family! { "Dense products.", DENSE, "dense.wgsl", "gemm" }
family! { "Grouped products.", GROUPED, "grouped.wgsl", "grouped_gemm" }
family! { "Weight gradients.", WEIGHT_GRADIENT, "weight_gradient.wgsl", "grouped_weight_gradient" }

/// Adds the parts of products whose sums were cut.
static SUM_PARTS: Stores = Stores {
    vec4: Kernel {
        name: "gemm_sum_parts",
        sources: &[
            include_str!("../../shaders/lib/grid.wgsl"),
            include_str!("../../shaders/gemm/store_vec4.wgsl"),
            include_str!("../../shaders/gemm/sum_parts.wgsl"),
        ],
        entry: "gemm_sum_parts",
        constants: &[],
    },
    scalar: Kernel {
        name: "gemm_sum_parts_scalar",
        sources: &[
            include_str!("../../shaders/lib/grid.wgsl"),
            include_str!("../../shaders/gemm/store_scalar.wgsl"),
            include_str!("../../shaders/gemm/sum_parts.wgsl"),
        ],
        entry: "gemm_sum_parts",
        constants: &[],
    },
};

/// The kernel that adds parts into C, whose rows are multiples of 4 elements or not.
pub(super) fn sum_parts(aligned_c: bool) -> &'static Kernel {
    SUM_PARTS.of(aligned_c)
}

/// Rows of a tile of the subgroup fragment: 32 measured best of 8, 16 and 32.
const SUBGROUP_ROWS: usize = 32;
/// Rows and columns of tiles of a weight gradient that a workgroup of the subgroup fragment has, 128 x 128 elements with 8
/// lanes, and about how many rows of X and dY it goes through at once: 256 KiB of each, together half of a core's L2 cache
/// of the machine this was measured on, read once for each 8 tiles instead of for each.
const GRADIENT_BLOCK: (usize, usize) = (4, 2);
const GRADIENT_ROWS: usize = 512;
/// Rows or columns of C up to which one short tile of the subgroup fragment covers them.
const NARROW: usize = 16;
/// Rows, columns and steps that the subgroup fragment needs at least.
const SUBGROUP_LEAST: usize = 4;
/// Rows and columns of a tile of the cooperative fragment, and rows for which the workgroup fragment's tiles of grouped rows are made.
const COOPERATIVE_TILE: usize = 64;
/// Rows and columns of a tile of the plain fragment.
const PLAIN_TILE: usize = 8;

/// What decides the variant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Inner dimension, or a multiple of 4 that divides it where only the device knows it.
    pub k: usize,
    /// Of A.
    pub ta: Trans,
    /// Of B.
    pub tb: Trans,
    /// The largest of 8, 4 and 1 elements at a multiple of which every row of each matrix begins.
    pub alignment_a: usize,
    pub alignment_b: usize,
    pub alignment_c: usize,
    /// Whether C may be added to: beta is not 0.
    pub read_c: bool,
    /// Whether A and B are f16.
    pub half: [bool; 2],
    /// Whether the rows of C are cut into tiles by someone else (grouped products), so that it must not be turned.
    pub fixed_rows: bool,
    /// Products like this one, matrices of a batch or experts.
    pub batch: usize,
    /// Whether the sums over K may be cut into parts.
    pub splits: bool,
}

/// A variant and its geometry.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    /// `C^T = op(B)^T op(A)^T` is computed: the launch exchanges A and B, M and N.
    pub turned: bool,
    /// Workgroups for one product.
    pub workgroups: usize,
    /// Parts of the sums over K, each with so many workgroups.
    pub splits: usize,
    /// A part has a multiple of so many steps of K.
    pub steps: usize,
}

impl Choice {
    fn whole(kernel: &'static Kernel, constants: Vec<(&'static str, f64)>, workgroups: usize) -> Self {
        Choice { kernel, constants, turned: false, workgroups, splits: 1, steps: 1 }
    }
}

/// Rows of a tile that the grouped products of `gpu` need: each fragment's tile divides it.
pub(super) fn tile_rows(gpu: &Gpu) -> usize {
    if gpu.tier() == Tier::Subgroup { SUBGROUP_ROWS } else { COOPERATIVE_TILE }
}

/// Steps of K after which an m x n product whose B is read across its rows starts another launch, so that the panels of a
/// strip stay in a core's cache: `k` in equal parts of about 512, as a part reads and writes C however short it is. In a
/// narrow product no panel of the large operand is used twice. On GPUs workgroup memory does that.
pub(super) fn steps_at_once(gpu: &Gpu, m: usize, n: usize, k: usize) -> usize {
    const PART: usize = 512;
    if gpu.tier() != Tier::Subgroup || m.min(n) <= NARROW {
        return usize::MAX;
    }
    let parts = ((k + PART / 2) / PART).max(1);
    k.div_ceil(parts).next_multiple_of(4)
}

/// Steps of K in one launch: a thread's loops stay within the adapter's limit of iterations. The plain
/// fragment makes 1 a step, the others fewer.
pub(super) fn longest(gpu: &Gpu) -> usize {
    gpu.adapter().loop_limit() / 2 / COOPERATIVE_TILE * COOPERATIVE_TILE
}

/// Rows of one launch of the weight gradient, likewise: a thread goes through them for each tile of its block, in fours.
pub(super) fn longest_gradient(gpu: &Gpu) -> usize {
    longest(gpu) / 2
}

/// Rows and blocks of columns of the subgroup fragment's tile.
#[derive(Clone, Copy)]
struct SubgroupTile {
    rows: usize,
    blocks: usize,
    lanes: usize,
}

impl SubgroupTile {
    /// The largest tile that an m x n product fills, as larger tiles load less: two blocks of columns gain a fifth, so
    /// they may cover at most a fifth more.
    fn new(m: usize, n: usize, lanes: usize, fixed_rows: bool) -> Self {
        let rows = match m {
            _ if fixed_rows => SUBGROUP_ROWS,
            0..=8 => 8,
            9..=16 => 16,
            _ => SUBGROUP_ROWS,
        };
        let columns = |blocks: usize| n.next_multiple_of(4 * lanes * blocks);
        let blocks = if columns(2) * 5 <= columns(1) * 6 { 2 } else { 1 };
        SubgroupTile { rows, blocks, lanes }
    }

    fn tile_rows(&self, m: usize) -> usize {
        m.div_ceil(self.rows)
    }

    fn tile_columns(&self, n: usize) -> usize {
        n.div_ceil(4 * self.lanes * self.blocks)
    }

    fn workgroups(&self, m: usize, n: usize) -> usize {
        self.tile_rows(m) * self.tile_columns(n)
    }

    /// The elements that its tiles cover: the work.
    fn covered(&self, m: usize, n: usize) -> usize {
        self.workgroups(m, n) * self.rows * self.blocks
    }
}

/// The table.
pub(super) fn choose(gpu: &Gpu, family: &'static Family, form: Form) -> Choice {
    let Form { m, n, k, ta, tb, alignment_a, alignment_b, alignment_c, read_c, half, fixed_rows, batch, splits } = form;
    let (aligned, aligned_c) = (alignment_a.min(alignment_b) >= 4, alignment_c >= 4);
    let flags = |ta, tb| {
        vec![
            ("A_TRANSPOSED", f64::from(u8::from(ta == Trans::T))),
            ("B_TRANSPOSED", f64::from(u8::from(tb == Trans::T))),
        ]
    };
    let tiles = |tile: usize| m.div_ceil(tile) * n.div_ceil(tile);
    match gpu.tier() {
        Tier::Subgroup if m.min(n).min(k) >= SUBGROUP_LEAST => {
            let lanes = gpu.adapter().subgroup_size.0 as usize;
            let tile = |m, n| SubgroupTile::new(m, n, lanes, fixed_rows);
            let turned = !fixed_rows && tile(n, m).covered(n, m) < tile(m, n).covered(m, n);
            let (m, n, ta, tb) = if turned { (n, m, tb.flip(), ta.flip()) } else { (m, n, ta, tb) };
            let tile = tile(m, n);
            let mut constants = flags(ta, tb);
            constants.push(("C_TRANSPOSED", f64::from(u8::from(turned))));
            constants.push(("TILE_ROWS", tile.rows as f64));
            constants.push(("COLUMN_BLOCKS", tile.blocks as f64));
            constants.push(("WG", lanes as f64));
            constants.push(("K_TAIL", f64::from(u8::from(k % 4 != 0))));
            // One row of tiles: each has its own part of op(B). Stored transposed, that is rows from end to end, which the
            // processor reads ahead by itself.
            let once = !fixed_rows && tb == Trans::N && m <= NARROW;
            constants.push(("B_ONCE", f64::from(u8::from(once))));
            constants.push(("COMPACT", f64::from(u8::from(gpu.compact()))));
            if !aligned_c {
                constants.push(("READ_C", f64::from(u8::from(read_c))));
            }
            // B as it is stored comes in eights of columns, transposed in fours of steps.
            let eights = n.is_multiple_of(8) && if turned { alignment_a } else { alignment_b } >= 8;
            let u64s =
                gpu.loads_u64() && half == [false; 2] && (lanes, tile.rows, tile.blocks) == (8, SUBGROUP_ROWS, 2);
            let kernel = match tb {
                _ if !aligned => &family.subgroup_scalar,
                Trans::N if u64s && eights => family.subgroup_u64.of(aligned_c),
                Trans::T if u64s => family.subgroup_u64_along.of(aligned_c),
                _ => family.subgroup.of(aligned_c),
            };
            // The weight gradient: its rows are steps, as many as an expert has.
            if fixed_rows && form.ta == Trans::T {
                let (rows, columns) = GRADIENT_BLOCK;
                constants.push(("BLOCK_ROWS", rows as f64));
                constants.push(("BLOCK_COLUMNS", columns as f64));
                constants.push(("ROWS_AT_ONCE", GRADIENT_ROWS as f64));
                let workgroups = tile.tile_rows(m).div_ceil(rows) * tile.tile_columns(n).div_ceil(columns);
                return Choice { turned, ..Choice::whole(kernel, constants, workgroups) };
            }
            Choice { turned, ..Choice::whole(kernel, constants, tile.workgroups(m, n)) }
        }
        Tier::Workgroup
            if gpu.cooperative_matrix() && half == [true; 2] && aligned && aligned_c && m.min(n) > NARROW =>
        {
            let mut constants = flags(ta, tb);
            constants.push(("LANES", f64::from(gpu.adapter().subgroup_size.0)));
            Choice::whole(&family.cooperative, constants, tiles(COOPERATIVE_TILE))
        }
        Tier::Workgroup => {
            // The weight gradient's rows are those of the experts' matrices, which nobody cuts.
            let form = match (fixed_rows, ta, tb) {
                (true, Trans::N, _) => shapes::Form::Grouped,
                (true, Trans::T, _) => shapes::Form::Gradient,
                (false, Trans::N, Trans::N) => shapes::Form::Nn,
                (false, Trans::N, Trans::T) => shapes::Form::Nt,
                (false, Trans::T, _) => shapes::Form::Tn,
            };
            let fixed_rows = if form == shapes::Form::Grouped { COOPERATIVE_TILE } else { 0 };
            let Cut { shape, splits } = shapes::cut(gpu, Task { form, m, n, k, batch, fixed_rows, splits });
            // Parts are stored without gaps.
            let aligned_c = if splits > 1 { n.is_multiple_of(4) } else { aligned_c };
            let kernel = family.workgroup[shape.block as usize].of(aligned, aligned_c);
            let constants = [&flags(ta, tb)[..], &shape.constants()].concat();
            let workgroups = shape.tiles(m, n);
            Choice { splits, steps: shape.steps, ..Choice::whole(kernel, constants, workgroups) }
        }
        Tier::Subgroup | Tier::Plain => Choice::whole(&family.plain, flags(ta, tb), tiles(PLAIN_TILE)),
    }
}

/// Every variant.
pub fn kernels() -> Vec<Variant> {
    let mut all = super::software::pad::kernels();
    all.extend([&SUM_PARTS.vec4, &SUM_PARTS.scalar].map(Variant::from));
    let bit = |set: u32, i: u32| f64::from(set >> i & 1);
    for set in 0..4 {
        let flags = vec![("A_TRANSPOSED", bit(set, 0)), ("B_TRANSPOSED", bit(set, 1))];
        for family in [&DENSE, &GROUPED, &WEIGHT_GRADIENT] {
            all.push(Variant { kernel: &family.plain, constants: flags.clone() });
            for (i, shape) in SHAPES.iter().enumerate() {
                let Loads { vec4, scalar } = &family.workgroup[shape.block as usize];
                // Each kernel with each form of storage, and each shape with one of them.
                let kernels = [&vec4.vec4, &vec4.scalar, scalar];
                let first = SHAPES.iter().position(|other| other.block == shape.block) == Some(i);
                for kernel in &kernels[..if first { 3 } else { 1 }] {
                    let constants = [&flags[..], &shape.constants()].concat();
                    all.push(Variant { kernel, constants });
                }
            }
            for lanes in [32.0, 64.0] {
                let constants = [flags.clone(), vec![("LANES", lanes)]].concat();
                all.push(Variant { kernel: &family.cooperative, constants });
            }
            for (turned, rows, blocks, lanes, compact) in [
                (0.0, 32.0, 2.0, 8.0, 0.0),
                (0.0, 16.0, 1.0, 8.0, 1.0),
                (1.0, 8.0, 2.0, 8.0, 0.0),
                (0.0, 32.0, 1.0, 4.0, 0.0),
                (0.0, 32.0, 2.0, 4.0, 1.0),
            ] {
                // Each with whether it stores C as scalars.
                let mut kernels = vec![
                    (&family.subgroup.vec4, false),
                    (&family.subgroup.scalar, true),
                    (&family.subgroup_scalar, true),
                ];
                if (rows, blocks, lanes) == (32.0, 2.0, 8.0) {
                    let stores = if set < 2 { &family.subgroup_u64 } else { &family.subgroup_u64_along };
                    kernels.extend([(&stores.vec4, false), (&stores.scalar, true)]);
                }
                for (kernel, scalar_c) in kernels {
                    let mut constants = flags.clone();
                    constants.extend([("C_TRANSPOSED", turned), ("TILE_ROWS", rows), ("COLUMN_BLOCKS", blocks)]);
                    constants.extend([("WG", lanes), ("K_TAIL", turned), ("B_ONCE", turned), ("COMPACT", compact)]);
                    if scalar_c {
                        constants.push(("READ_C", 1.0 - turned));
                    }
                    all.push(Variant { kernel, constants });
                }
            }
        }
    }
    all
}
