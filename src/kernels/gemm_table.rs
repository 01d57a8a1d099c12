//! The variants of the matrix products and the one table that chooses between them.
//!
//! A product kernel is an entry point (dense, grouped, weight gradient) joined with a multiplying fragment:
//!
//! | tier      | fragment             | tile    | chosen where                                            |
//! |-----------|----------------------|---------|---------------------------------------------------------|
//! | Gpu       | `gemm/workgroup.wgsl`| by [`shapes`] | always                                            |
//! |           | `gemm/cooperative.wgsl` | by [`matrix_shapes`] | instead, for f16 A and B in rows of multiples of 4, C of more than 16 rows and columns, where [`Gpu::cooperative_matrix`] |
//! | Plain     | `gemm/plain.wgsl`    | 32 x 32 | always, and wherever the others do not apply            |
//! | both      | `gemm/few_rows.wgsl` | 4 x 64 or 32 | instead, for up to 4 rows of A as stored, and grouped rows of which few are routed |
//!
//! The workgroup fragment has a kernel for each block of a thread, the cooperative one for each part of a subgroup and size of
//! the adapter's blocks. The workgroup fragment and the plain one bind A and B, and C, as vec4 where their rows
//! allow; dense and grouped products have them once more for weights in bf16, whose rows always do.
//! `kernels::software::product` is asked first. What each reaches is in docs/notes/software-drivers.md.

use super::Variant;
use super::cuts::{Cut, Task, cut, cut_on_matrix_units};
use super::matrix_shapes::{self, MATRIX_SHAPES, MatrixShape, Part};
use super::product::{
    Choice, Entry, Form, GemmParams, GroupedParams, Stores, SumPartsParams, Trans, WeightGradientParams,
};
use super::shapes::{self, SHAPES};
use super::software;
use crate::gpu::{Gpu, Kernel, Tier, wgsl};

/// One entry point joined with every multiplying fragment.
#[derive(Debug)]
pub struct Family {
    /// From workgroup memory, by a thread's block.
    workgroup: [Loads; 3],
    /// On matrix units.
    pub cooperative: OnMatrixUnits,
    /// From storage.
    plain: Loads,
}

/// One entry point joined with the fragments for matrix units, by the side of the adapter's blocks, each by a subgroup's part.
#[derive(Debug)]
pub struct OnMatrixUnits {
    /// Of 16.
    pub blocks_16: [Kernel; 2],
    /// Of 8.
    pub blocks_8: [Kernel; 2],
}

impl OnMatrixUnits {
    fn of(&'static self, side: u32, part: Part) -> &'static Kernel {
        let kernels = if side == 8 { &self.blocks_8 } else { &self.blocks_16 };
        &kernels[part as usize]
    }
}

/// One entry point joined with the multiplying fragments where B is bf16, and A and B are bound by fours.
#[derive(Debug)]
struct Bf16Family {
    /// From workgroup memory, by a thread's block.
    workgroup: [Stores; 3],
    /// From storage.
    plain: Stores,
}

impl Bf16Family {
    fn all(&'static self) -> impl Iterator<Item = &'static Stores> {
        self.workgroup.iter().chain([&self.plain])
    }
}

/// One entry point joined with the fragment for few rows.
#[derive(Debug)]
struct FewRows {
    f32: Loads,
    /// Where B is bf16.
    bf16: Stores,
}

impl FewRows {
    fn of(&'static self, bf16: bool, aligned: bool, aligned_c: bool) -> &'static Kernel {
        if bf16 { self.bf16.of(aligned_c) } else { self.f32.of(aligned, aligned_c) }
    }

    fn all(&'static self) -> impl Iterator<Item = &'static Kernel> {
        self.f32.all().into_iter().chain([&self.bf16.vec4, &self.bf16.scalar])
    }
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

    fn all(&'static self) -> [&'static Kernel; 3] {
        [&self.vec4.vec4, &self.vec4.scalar, &self.scalar]
    }
}

macro_rules! family {
    ($doc:literal, $family:ident, $file:literal, $entry:literal, $params:ty) => {
        #[doc = $doc]
        pub static $family: Family = Family {
            workgroup: [
                family!(@loads $file, $entry, $params, "_workgroup_4x4", "gemm/thread_4x4.wgsl", "gemm/workgroup.wgsl"),
                family!(@loads $file, $entry, $params, "_workgroup_8x4", "gemm/thread_8x4.wgsl", "gemm/workgroup.wgsl"),
                family!(@loads $file, $entry, $params, "_workgroup_8x8", "gemm/thread_8x8.wgsl", "gemm/workgroup.wgsl"),
            ],
            cooperative: OnMatrixUnits {
                blocks_16: [
                    family!(@on_units $file, $entry, $params, "16", "2x2"),
                    family!(@on_units $file, $entry, $params, "16", "2x4"),
                ],
                blocks_8: [
                    family!(@on_units $file, $entry, $params, "8", "2x2"),
                    family!(@on_units $file, $entry, $params, "8", "2x4"),
                ],
            },
            plain: family!(@loads $file, $entry, $params, "_plain", "gemm/plain.wgsl"),
        };
    };
    (bf16 $doc:literal, $family:ident, $file:literal, $entry:literal, $params:ty) => {
        #[doc = $doc]
        static $family: Bf16Family = Bf16Family {
            workgroup: [
                family!(@bf16 $file, $entry, $params, "_workgroup_4x4_bf16", "gemm/thread_4x4.wgsl", "gemm/workgroup.wgsl"),
                family!(@bf16 $file, $entry, $params, "_workgroup_8x4_bf16", "gemm/thread_8x4.wgsl", "gemm/workgroup.wgsl"),
                family!(@bf16 $file, $entry, $params, "_workgroup_8x8_bf16", "gemm/thread_8x8.wgsl", "gemm/workgroup.wgsl"),
            ],
            plain: family!(@bf16 $file, $entry, $params, "_plain_bf16", "gemm/plain.wgsl"),
        };
    };
    (few $doc:literal, $family:ident, $file:literal, $entry:literal, $params:ty) => {
        #[doc = $doc]
        static $family: FewRows = FewRows {
            f32: family!(@loads $file, $entry, $params, "_few_rows", "gemm/few_rows.wgsl"),
            bf16: family!(@bf16 $file, $entry, $params, "_few_rows_bf16", "gemm/few_rows.wgsl"),
        };
    };
    (@bf16 $file:literal, $entry:literal, $params:ty, $suffix:literal, $($part:literal),+) => {
        Stores {
            vec4: family!(@stored $file, $entry, $params, $suffix, "vec4_bf16", "vec4", "vec4", $($part),+),
            scalar: family!(
                @stored $file, $entry, $params, concat!($suffix, "_scalar_c"), "vec4_bf16", "vec4", "scalar", $($part),+
            ),
        }
    };
    // A multiplying fragment, of several parts, with each way to load and store.
    (@loads $file:literal, $entry:literal, $params:ty, $suffix:literal, $($part:literal),+) => {
        Loads {
            vec4: Stores {
                vec4: family!(@stored $file, $entry, $params, $suffix, "vec4", "vec4", "vec4", $($part),+),
                scalar: family!(
                    @stored $file, $entry, $params, concat!($suffix, "_scalar_c"), "vec4", "vec4", "scalar", $($part),+
                ),
            },
            scalar: family!(
                @stored $file, $entry, $params, concat!($suffix, "_scalar"), "scalar", "scalar", "scalar", $($part),+
            ),
        }
    };
    (
        @stored $file:literal, $entry:literal, $params:ty, $suffix:expr, $load:literal, $edge:literal, $store:literal,
        $($part:literal),+
    ) => {
        family!(
            @kernel $file, $entry, $params, $suffix,
            concat!("gemm/load_", $load, ".wgsl"), concat!("gemm/edge_", $edge, ".wgsl"), concat!("gemm/store_", $store, ".wgsl"),
            $($part),+
        )
    };
    (@on_units $file:literal, $entry:literal, $params:ty, $side:literal, $part:literal) => {
        family!(
            @kernel $file, $entry, $params, concat!("_cooperative_", $side, "_", $part),
            concat!("gemm/cooperative_", $side, ".wgsl"), concat!("gemm/cooperative_", $part, ".wgsl")
        )
    };
    (@kernel $file:literal, $entry:literal, $params:ty, $suffix:expr, $($part:expr),*) => {
        Kernel::new(concat!($entry, $suffix), wgsl![$($part,)* $file]).entry($entry).params::<$params>()
    };
}

family! { "Dense products.", DENSE, "gemm/dense.wgsl", "gemm", GemmParams }
family! { "Grouped products.", GROUPED, "gemm/grouped.wgsl", "grouped_gemm", GroupedParams }
family! { "Weight gradients.", WEIGHT_GRADIENT, "gemm/weight_gradient.wgsl", "grouped_weight_gradient", WeightGradientParams }
family! { bf16 "Dense products with weights in bf16.", DENSE_BF16, "gemm/dense.wgsl", "gemm", GemmParams }
family! { bf16 "Grouped products with weights in bf16.", GROUPED_BF16, "gemm/grouped.wgsl", "grouped_gemm", GroupedParams }
family! { few "Dense products of few rows.", DENSE_FEW, "gemm/dense.wgsl", "gemm", GemmParams }
family! { few "Grouped products of few rows.", GROUPED_FEW, "gemm/grouped_few.wgsl", "grouped_gemm", GroupedParams }

/// Adds the parts of products whose sums were cut.
static SUM_PARTS: Stores = Stores {
    vec4: Kernel::new("gemm_sum_parts", wgsl!["gemm/store_vec4.wgsl", "gemm/sum_parts.wgsl"])
        .params::<SumPartsParams>(),
    scalar: Kernel::new("gemm_sum_parts_scalar", wgsl!["gemm/store_scalar.wgsl", "gemm/sum_parts.wgsl"])
        .entry("gemm_sum_parts")
        .params::<SumPartsParams>(),
};

/// The kernel that adds parts into C, whose rows are multiples of 4 elements or not.
pub(super) fn sum_parts(aligned_c: bool) -> &'static Kernel {
    SUM_PARTS.of(aligned_c)
}

/// Rows or columns of C up to which the cooperative fragment has no use for its tile.
const NARROW: usize = 16;
/// Rows for which the tiles of grouped rows are made.
const GROUPED_TILE: usize = 64;
/// Rows and columns of a tile of the plain fragment.
const PLAIN_TILE: usize = 32;
// A tile of grouped rows belongs to one expert, and the plain fragment works on those of the others, too.
const _: () = assert!(GROUPED_TILE.is_multiple_of(PLAIN_TILE) && software::product::ROWS.is_multiple_of(PLAIN_TILE));

/// Rows of a tile of the fragment for few rows, and fours of columns: where B is read across its rows, along them, and of an expert.
const FEW: usize = 4;
const FEW_FOURS: (usize, usize, usize) = (16, 8, 8);
/// Rows over all experts up to which they are few: each four read their expert's matrix.
const FEW_ROUTED: usize = 32;
/// Workgroups of that fragment that fill a GPU: twice those of the larger tiles, which have as many threads.
const FEW_FULL: usize = 512;
/// Steps of K below which it is not cut.
const FEW_STEPS: usize = 256;

/// Whether a product of m rows, A transposed or not, goes to the fragment for few rows.
pub(super) fn is_few(gpu: &Gpu, m: usize, ta: Trans) -> bool {
    m <= FEW && ta == Trans::N && takes_few(gpu)
}

/// Whether a grouped product of `rows` routed rows does.
pub(super) fn is_few_routed(gpu: &Gpu, rows: usize) -> bool {
    rows <= FEW_ROUTED && takes_few(gpu)
}

fn takes_few(gpu: &Gpu) -> bool {
    gpu.tier() != Tier::Software && gpu.shapes().forced().is_none()
}

/// The kernel and geometry of a product of few rows, whatever shape of tile was measured for it.
fn few(entry: Entry, form: Form) -> Choice {
    let Form { m, n, k, tb, alignment_a, alignment_b, alignment_c, bf16, splits, .. } = form;
    let (across, along, of_expert) = FEW_FOURS;
    let dense = entry == Entry::Dense;
    let fours = match tb {
        _ if !dense => of_expert,
        Trans::N => across,
        Trans::T => along,
    };
    let columns = n.div_ceil(4 * fours);
    let rows = if dense { m.next_power_of_two() } else { FEW };
    let constants = vec![
        ("B_TRANSPOSED", f64::from(u8::from(tb == Trans::T))),
        ("COLUMN_FOURS", fours as f64),
        ("ROWS", rows as f64),
    ];
    let splits =
        if splits { FEW_FULL.div_ceil(columns * form.batch.max(1)).clamp(1, (k / FEW_STEPS).max(1)) } else { 1 };
    // Parts are stored without gaps.
    let aligned_c = if splits > 1 { n.is_multiple_of(4) } else { alignment_c >= 4 };
    let family = if dense { &DENSE_FEW } else { &GROUPED_FEW };
    let kernel = family.of(bf16, alignment_a.min(alignment_b) >= 4, aligned_c);
    Choice { splits, steps: 64, ..Choice::whole(kernel, constants, m.div_ceil(FEW) * columns) }
}

/// Rows of a tile that the grouped products of `gpu` need: each fragment's tile divides it.
pub(super) fn tile_rows(gpu: &Gpu) -> usize {
    software::product::tile_rows(gpu).unwrap_or(GROUPED_TILE)
}

/// The table.
pub(super) fn choose(gpu: &Gpu, entry: Entry, form: Form) -> Choice {
    if let Some(choice) = software::product::grouped(gpu, entry, form) {
        return choice;
    }
    let Form {
        m,
        n,
        k,
        ta,
        tb,
        alignment_a,
        alignment_b,
        alignment_c,
        half,
        bf16,
        fixed_rows,
        batch,
        experts,
        rows,
        splits,
        ..
    } = form;
    // A weight gradient has no weights to read.
    let (family, of_bf16) = match entry {
        Entry::Dense => (&DENSE, bf16.then_some(&DENSE_BF16)),
        Entry::Grouped => (&GROUPED, bf16.then_some(&GROUPED_BF16)),
        Entry::WeightGradient => (&WEIGHT_GRADIENT, None),
    };
    let (aligned, aligned_c) = (alignment_a.min(alignment_b) >= 4, alignment_c >= 4);
    let flags = |ta, tb| {
        vec![
            ("A_TRANSPOSED", f64::from(u8::from(ta == Trans::T))),
            ("B_TRANSPOSED", f64::from(u8::from(tb == Trans::T))),
        ]
    };
    let tiles = |tile: usize| m.div_ceil(tile) * n.div_ceil(tile);
    match gpu.tier() {
        _ if form.few => few(entry, form),
        Tier::Gpu => {
            // The weight gradient's rows are those of the experts' matrices, which nobody cuts.
            let form = match (fixed_rows, ta, tb) {
                (true, Trans::N, _) => shapes::Form::Grouped,
                (true, Trans::T, _) => shapes::Form::Gradient,
                (false, Trans::N, Trans::N) => shapes::Form::Nn,
                (false, Trans::N, Trans::T) => shapes::Form::Nt,
                (false, Trans::T, _) => shapes::Form::Tn,
            };
            let fixed_rows = if form == shapes::Form::Grouped { GROUPED_TILE } else { 0 };
            let task = Task { form, m, n, k, batch, experts, rows, fixed_rows, splits };
            // Parts are stored without gaps.
            let aligned_c = |splits: usize| if splits > 1 { n.is_multiple_of(4) } else { aligned_c };
            let on_units = half == [true; 2] && aligned && m.min(n) > NARROW;
            if let Some(side) = gpu.matrix_block().filter(|_| on_units)
                && let Some(Cut { shape, splits }) = cut_on_matrix_units(gpu, task)
                && aligned_c(splits)
            {
                let constants = [&flags(ta, tb)[..], &shape.constants(gpu.adapter().subgroup_size)].concat();
                let kernel = family.cooperative.of(side, shape.part);
                return Choice {
                    splits,
                    steps: matrix_shapes::STEPS,
                    ..Choice::whole(kernel, constants, shape.tiles(m, n))
                };
            }
            let Cut { shape, splits } = cut(gpu, task, half == [true; 2] && gpu.matrix_block().is_some());
            let kernel = match of_bf16 {
                Some(family) => family.workgroup[shape.block as usize].of(aligned_c(splits)),
                None => family.workgroup[shape.block as usize].of(aligned, aligned_c(splits)),
            };
            let constants = [&flags(ta, tb)[..], &shape.constants()].concat();
            let workgroups = shape.tiles(m, n);
            Choice { splits, steps: shape.steps, ..Choice::whole(kernel, constants, workgroups) }
        }
        Tier::Software | Tier::Plain => {
            let kernel = match of_bf16 {
                Some(family) => family.plain.of(aligned_c),
                None => family.plain.of(aligned, aligned_c),
            };
            Choice::whole(kernel, flags(ta, tb), tiles(PLAIN_TILE))
        }
    }
}

/// Every variant.
pub fn kernels() -> Vec<Variant> {
    let mut all = software::product::kernels();
    all.extend([&SUM_PARTS.vec4, &SUM_PARTS.scalar].map(Variant::from));
    let bit = |set: u32, i: u32| f64::from(set >> i & 1);
    for transposed in [0.0, 1.0] {
        let flags = [("A_TRANSPOSED", 0.0), ("B_TRANSPOSED", transposed)];
        for stores in [&DENSE_BF16, &GROUPED_BF16].into_iter().flat_map(Bf16Family::all) {
            let both = [&stores.vec4, &stores.scalar];
            all.extend(both.map(|kernel| Variant { kernel, constants: flags.to_vec() }));
        }
    }
    for (fours, transposed, rows) in [(16.0, 0.0, 1.0), (8.0, 1.0, 2.0), (8.0, 0.0, 4.0)] {
        let constants = vec![("COLUMN_FOURS", fours), ("B_TRANSPOSED", transposed), ("ROWS", rows)];
        let kernels = [&DENSE_FEW, &GROUPED_FEW].into_iter().flat_map(FewRows::all);
        all.extend(kernels.map(|kernel| Variant { kernel, constants: constants.clone() }));
    }
    // Sums in parts, and rows of experts in chunks.
    for (loads, in_parts) in [(&DENSE.workgroup[0], "SPLIT"), (&WEIGHT_GRADIENT.workgroup[0], "SLOTS")] {
        all.push(Variant { kernel: &loads.vec4.vec4, constants: vec![(in_parts, 1.0)] });
    }
    for set in 0..4 {
        let flags = vec![("A_TRANSPOSED", bit(set, 0)), ("B_TRANSPOSED", bit(set, 1))];
        for family in [&DENSE, &GROUPED, &WEIGHT_GRADIENT] {
            for kernel in family.plain.all() {
                all.push(Variant { kernel, constants: flags.clone() });
            }
            for (i, shape) in SHAPES.iter().enumerate() {
                // Each kernel with each form of storage, and each shape with one of them.
                let kernels = family.workgroup[shape.block as usize].all();
                let first = SHAPES.iter().position(|other| other.block == shape.block) == Some(i);
                for kernel in &kernels[..if first { 3 } else { 1 }] {
                    let constants = [&flags[..], &shape.constants()].concat();
                    all.push(Variant { kernel, constants });
                }
            }
            // The smallest tile in each form, the others in one.
            let lanes = (32, 32);
            let mut on_units = |side: u32, shape: &MatrixShape, lanes| {
                let constants = [&flags[..], &shape.constants(lanes)].concat();
                all.push(Variant { kernel: family.cooperative.of(side, shape.part), constants });
            };
            for side in [8, 16] {
                let shapes = if set == 1 { &MATRIX_SHAPES[..] } else { &[matrix_shapes::SMALLEST] };
                shapes.iter().for_each(|shape| on_units(side, shape, lanes));
            }
            if set == 2 {
                // Where each thread holds nothing in registers, and where subgroups are large or of any size.
                for (side, lanes) in [(8, (8, 8)), (16, (64, 64)), (16, (16, 32)), (8, (4, 64))] {
                    on_units(side, &matrix_shapes::SMALLEST, lanes);
                }
            }
        }
    }
    all
}
