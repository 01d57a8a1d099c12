//! Matrix products by one subgroup a tile, with the operands of its lanes broadcast in registers (`software/product.wgsl`).
//!
//! A tile has 32 rows, or 8 or 16 where the product is narrow, and 4 or 8 columns a lane; a narrow product may be computed as
//! C^T, so that all lanes have columns. A and B are bound as vec4 where all their rows have a multiple of 4 elements and as
//! scalars elsewhere, and C likewise by itself; as u64 where the device has them and B is stored transposed, or its columns
//! are a multiple of 8. A large dense product of other sizes copies A and B into padded ones first ([`super::pad`]). A weight
//! gradient gives a workgroup a block of tiles and blocks the sum. What each reaches is in docs/notes/software-drivers.md.

use super::{limits, loads, pad};
use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Tier, wgsl};
use crate::kernels::Variant;
use crate::kernels::product::{
    Choice, Entry, Form, GroupedParams, Operand, Part, Product, Stores, Trans, WeightGradientParams,
};
use crate::kernels::window::aligned;
use crate::tensor::{DType, Tensor};

/// The kernels of one entry point.
#[derive(Debug)]
struct Family {
    /// For rows of any length.
    scalar: Kernel,
    /// A and B bound as vec4.
    vec4: Stores,
    /// A and B bound as u64.
    u64: Stores,
    /// A and B bound as u64, B along the steps.
    u64_along: Stores,
}

macro_rules! family {
    ($doc:literal, $family:ident, $file:literal, $entry:literal, $params:ty) => {
        #[doc = $doc]
        static $family: Family = Family {
            scalar: family!(
                @kernel $file, $entry, $params, "_subgroup_scalar",
                "gemm/load_scalar.wgsl", "software/product_blocks.wgsl", "gemm/store_scalar.wgsl"
            ),
            vec4: family!(@stores $file, $entry, $params, "_subgroup", "gemm/load_vec4.wgsl", "software/product_blocks.wgsl"),
            u64: family!(@stores $file, $entry, $params, "_subgroup_u64", "software/product_load_u64.wgsl"),
            u64_along: family!(
                @stores $file, $entry, $params, "_subgroup_u64_along",
                "software/product_load_u64_along.wgsl", "software/product_blocks.wgsl"
            ),
        };
    };
    (@stores $file:literal, $entry:literal, $params:ty, $suffix:literal, $($part:literal),*) => {
        Stores {
            vec4: family!(@kernel $file, $entry, $params, $suffix, $($part,)* "gemm/store_vec4.wgsl"),
            scalar: family!(@kernel $file, $entry, $params, concat!($suffix, "_scalar_c"), $($part,)* "gemm/store_scalar.wgsl"),
        }
    };
    (@kernel $file:literal, $entry:literal, $params:ty, $suffix:expr, $($part:literal),*) => {
        Kernel::new(concat!($entry, $suffix), wgsl![$($part,)* "software/product.wgsl", $file])
            .entry($entry)
            .params::<$params>()
    };
}

/// The kernels of one entry point where B is bf16: A and B bound by fours.
macro_rules! bf16 {
    ($doc:literal, $stores:ident, $file:literal, $entry:literal, $params:ty) => {
        #[doc = $doc]
        static $stores: Stores = family!(
            @stores $file, $entry, $params, "_subgroup_bf16", "gemm/load_vec4_bf16.wgsl", "software/product_blocks.wgsl"
        );
    };
}

family! { "Dense products.", DENSE, "software/dense.wgsl", "gemm", ProductParams }
// Its entry point ends without a return before the tile, as llvmpipe likes it (software/dense.wgsl has the same of a bound).
family! { "Grouped products.", GROUPED, "gemm/grouped.wgsl", "grouped_gemm", GroupedParams }
family! { "Weight gradients.", WEIGHT_GRADIENT, "software/weight_gradient.wgsl", "grouped_weight_gradient", WeightGradientParams }
bf16! { "Dense products with weights in bf16.", DENSE_BF16, "software/dense.wgsl", "gemm", ProductParams }
bf16! { "Grouped products with weights in bf16.", GROUPED_BF16, "gemm/grouped.wgsl", "grouped_gemm", GroupedParams }

crate::params! {
    struct ProductParams {
        m: u32,
        n: u32,
        k: u32,
        c_rows: u32,
        c_columns: u32,
        a_first: u32,
        b_first: u32,
        c_first: u32,
        a_stride: u32,
        b_stride: u32,
        c_stride: u32,
        batch: u32,
        batch_first: u32,
        a_repeat: u32,
        b_repeat: u32,
        a_matrix: u32,
        b_matrix: u32,
        c_matrix: u32,
        alpha: f32,
        beta: f32,
    }
}

impl ProductParams {
    /// Returns the same product as `C^T = op(B)^T op(A)^T`.
    fn transposed(self) -> Self {
        ProductParams {
            m: self.n,
            n: self.m,
            c_rows: self.c_columns,
            c_columns: self.c_rows,
            a_first: self.b_first,
            b_first: self.a_first,
            a_stride: self.b_stride,
            b_stride: self.a_stride,
            a_repeat: self.b_repeat,
            b_repeat: self.a_repeat,
            a_matrix: self.b_matrix,
            b_matrix: self.a_matrix,
            ..self
        }
    }
}

/// Rows of a tile: 32 measured best of 8, 16 and 32.
pub(in crate::low_level::kernels) const ROWS: usize = 32;
/// Rows and columns of tiles of a weight gradient that a workgroup has, 128 x 128 elements with 8 lanes, and about how many
/// rows of X and dY it goes through at once: 256 KiB of each, together half of a core's L2 cache of the machine this was
/// measured on, read once for each 8 tiles instead of for each.
const GRADIENT_BLOCK: (usize, usize) = (4, 2);
const GRADIENT_ROWS: usize = 512;
/// Rows or columns of C up to which one short tile covers them.
const NARROW: usize = 16;
/// Rows, columns and steps that the kernels need at least.
const LEAST: usize = 4;
/// Elements of C from which on a launch for each part of K is worth its cost, some 50 microseconds.
const WIDE: usize = 1 << 15;

/// Whether these kernels take a product of m x k by k x n.
fn takes(gpu: &Gpu, m: usize, n: usize, k: usize) -> bool {
    gpu.tier() == Tier::Software && m.min(n).min(k) >= LEAST
}

/// Rows of a tile that the grouped products need; none where the general ones decide.
pub(in crate::low_level::kernels) fn tile_rows(gpu: &Gpu) -> Option<usize> {
    (gpu.tier() == Tier::Software).then_some(ROWS)
}

/// Steps of K after which an m x n product whose B is read across its rows starts another launch, so that the panels of a
/// strip stay in a core's cache: `k` in equal parts of about 512, as a part reads and writes C however short it is. In a
/// narrow product no panel of the large operand is used twice.
fn steps_at_once(m: usize, n: usize, k: usize) -> usize {
    const PART: usize = 512;
    if m.min(n) <= NARROW {
        return usize::MAX;
    }
    let parts = ((k + PART / 2) / PART).max(1);
    k.div_ceil(parts).next_multiple_of(4)
}

/// Rows and blocks of columns of a tile.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    blocks: usize,
    lanes: usize,
}

impl Tile {
    /// The largest tile that an m x n product fills, as larger tiles load less: two blocks of columns gain a fifth, so
    /// they may cover at most a fifth more.
    fn new(m: usize, n: usize, lanes: usize, fixed_rows: bool) -> Self {
        let rows = match m {
            _ if fixed_rows => ROWS,
            0..=8 => 8,
            9..=16 => 16,
            _ => ROWS,
        };
        let columns = |blocks: usize| n.next_multiple_of(4 * lanes * blocks);
        let blocks = if columns(2) * 5 <= columns(1) * 6 { 2 } else { 1 };
        Tile { rows, blocks, lanes }
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

/// The kernel and geometry of a grouped product or a weight gradient; none where these kernels do not take it.
pub(in crate::low_level::kernels) fn grouped(gpu: &Gpu, entry: Entry, form: Form) -> Option<Choice> {
    let (family, of_bf16) = match entry {
        Entry::Dense => return None,
        Entry::Grouped => (&GROUPED, Some(&GROUPED_BF16)),
        Entry::WeightGradient => (&WEIGHT_GRADIENT, None),
    };
    takes(gpu, form.m, form.n, form.k).then(|| choose(gpu, family, of_bf16, form).0)
}

/// The kernel and geometry, and whether `C^T = op(B)^T op(A)^T` is computed: the launch then exchanges A and B, M and N.
fn choose(gpu: &Gpu, family: &'static Family, of_bf16: Option<&'static Stores>, form: Form) -> (Choice, bool) {
    let Form { m, n, k, ta, tb, alignment_a, alignment_b, alignment_c, read_c, half, bf16, fixed_rows, .. } = form;
    let (aligned, aligned_c) = (alignment_a.min(alignment_b) >= 4, alignment_c >= 4);
    let lanes = gpu.adapter().subgroup_size.0 as usize;
    let tile = |m, n| Tile::new(m, n, lanes, fixed_rows);
    // Only B can be bf16.
    let transposed = !fixed_rows && !bf16 && tile(n, m).covered(n, m) < tile(m, n).covered(m, n);
    let (m, n, ta, tb) = if transposed { (n, m, tb.flip(), ta.flip()) } else { (m, n, ta, tb) };
    let tile = tile(m, n);
    let flag = |flag: bool| f64::from(u8::from(flag));
    let mut constants = vec![
        ("A_TRANSPOSED", flag(ta == Trans::T)),
        ("B_TRANSPOSED", flag(tb == Trans::T)),
        ("C_TRANSPOSED", flag(transposed)),
        ("TILE_ROWS", tile.rows as f64),
        ("COLUMN_BLOCKS", tile.blocks as f64),
        ("WG", lanes as f64),
        ("K_TAIL", flag(k % 4 != 0)),
        // One row of tiles: each has its own part of op(B). Stored transposed, that is rows from end to end, which the
        // processor reads ahead by itself.
        ("B_ONCE", flag(!fixed_rows && tb == Trans::N && m <= NARROW)),
        ("COMPACT", flag(gpu.compact())),
    ];
    if !aligned_c {
        constants.push(("READ_C", flag(read_c)));
    }
    // B as it is stored comes in eights of columns, transposed in fours of steps.
    let eights = n.is_multiple_of(8) && if transposed { alignment_a } else { alignment_b } >= 8;
    let u64s = loads::as_u64(gpu) && !bf16 && half == [false; 2] && (lanes, tile.rows, tile.blocks) == (8, ROWS, 2);
    let kernel = match (tb, of_bf16.filter(|_| bf16)) {
        (_, Some(stores)) => stores.of(aligned_c),
        _ if !aligned => &family.scalar,
        (Trans::N, _) if u64s && eights => family.u64.of(aligned_c),
        (Trans::T, _) if u64s => family.u64_along.of(aligned_c),
        _ => family.vec4.of(aligned_c),
    };
    // The weight gradient: its rows are steps, as many as an expert has.
    if fixed_rows && form.ta == Trans::T {
        let (rows, columns) = GRADIENT_BLOCK;
        constants.push(("BLOCK_ROWS", rows as f64));
        constants.push(("BLOCK_COLUMNS", columns as f64));
        constants.push(("ROWS_AT_ONCE", GRADIENT_ROWS as f64));
        let workgroups = tile.tile_rows(m).div_ceil(rows) * tile.tile_columns(n).div_ceil(columns);
        return (Choice::whole(kernel, constants, workgroups), transposed);
    }
    (Choice::whole(kernel, constants, tile.workgroups(m, n)), transposed)
}

/// Records the dense product; false where these kernels do not take it. Parts that are too small for them, as the last one
/// may be, go to `general`.
pub(in crate::low_level::kernels) fn dense(
    product: &Product<'_>,
    batch: usize,
    general: impl Fn(&Product<'_>, Part) -> Result<()>,
) -> Result<bool> {
    let gpu = product.gpu();
    let Product { m, n, k, tb, c, .. } = *product;
    if !takes(gpu, m, n, k) {
        return Ok(false);
    }
    let [copy_a, copy_b] = padded_copies(product, batch)?;
    let product = with_copies(*product, copy_a.as_ref(), copy_b.as_ref());
    let longest = product.k.min(limits::steps(gpu));
    // In f16 each part would round C anew.
    let blocked = |batch: usize| {
        let wide = tb == Trans::N && batch * product.m * product.n >= WIDE && c.tensor.dtype() == DType::F32;
        if wide { longest.min(steps_at_once(product.m, product.n, product.k)) } else { longest }
    };
    let launch = |part: Part| {
        if takes(gpu, part.m, part.n, part.k) { launch(&product, part) } else { general(&product, part) }
    };
    product.parts(batch, blocked, launch).map(|()| true)
}

/// Copies of A and B as `pad` makes them, of those that need it, where that pays.
fn padded_copies(product: &Product<'_>, batch: usize) -> Result<[Option<Tensor>; 2]> {
    let Product { m, n, k, ta, tb, a, b, .. } = *product;
    let whole = |x: &Operand<'_>| aligned(x.tensor, x.stride);
    // Where a stored row is steps of K, zeros follow its last step, and the other operand needs zeros to meet them.
    let steps = k % 4 != 0 && (ta == Trans::N || tb == Trans::T);
    let (pad_a, pad_b) = (steps || !whole(&a), steps || !whole(&b));
    let fits = |x: &Operand<'_>| pad::fits(x.tensor, batch / x.repeat, x.matrix / x.stride, x.stride);
    if !pad::pays(batch, m, n, k) || pad_a && !fits(&a) || pad_b && !fits(&b) {
        return Ok([None, None]);
    }
    let copy = |x: &Operand<'_>| pad::padded(x.tensor, batch / x.repeat, x.matrix / x.stride, x.stride);
    Ok([pad_a.then(|| copy(&a)).transpose()?, pad_b.then(|| copy(&b)).transpose()?])
}

/// The product of the padded copies where there are some.
fn with_copies<'a>(product: Product<'a>, a: Option<&'a Tensor>, b: Option<&'a Tensor>) -> Product<'a> {
    let up = |size: usize, copied: bool, to: usize| if copied { size.next_multiple_of(to) } else { size };
    let operand = |own: Operand<'a>, copy: Option<&'a Tensor>| {
        let Some(tensor) = copy else { return own };
        let (rows, stride) = pad::size(own.matrix / own.stride, own.stride);
        Operand { tensor, matrix: rows * stride, stride, ..own }
    };
    Product {
        m: up(product.m, a.is_some(), 4),
        // Eights of columns are loaded at once, and where these are rows as stored the copy has them.
        n: up(product.n, b.is_some(), if product.tb == Trans::N { 8 } else { 4 }),
        k: up(product.k, a.is_some() && b.is_some(), 4),
        a: operand(product.a, a),
        b: operand(product.b, b),
        ..product
    }
}

/// Launches a part of the product.
fn launch(product: &Product<'_>, part: Part) -> Result<()> {
    let Product { a, b, c, alpha, .. } = *product;
    let gpu = product.gpu();
    let (choice, transposed) = choose(gpu, &DENSE, Some(&DENSE_BF16), product.form(&part, false, false));
    let mut params = ProductParams {
        m: part.m as u32,
        n: part.n as u32,
        k: part.k as u32,
        c_rows: part.c_rows as u32,
        c_columns: part.c_columns as u32,
        a_first: part.a.first,
        b_first: part.b.first,
        c_first: part.c.first,
        a_stride: a.stride as u32,
        b_stride: b.stride as u32,
        c_stride: c.stride as u32,
        batch: part.batch as u32,
        batch_first: part.batch_first as u32,
        a_repeat: a.repeat as u32,
        b_repeat: b.repeat as u32,
        a_matrix: a.matrix as u32,
        b_matrix: b.matrix as u32,
        c_matrix: c.matrix as u32,
        alpha,
        beta: part.beta,
    };
    let (mut left, mut right) = (part.a.slice, part.b.slice);
    if transposed {
        std::mem::swap(&mut left, &mut right);
        params = params.transposed();
    }
    Launch::new(choice.kernel)
        .constants(choice.constants)
        .params(&params)
        .read("a", left)
        .read("b", right)
        .write("c", part.c.slice)
        .workgroups(choice.workgroups * part.batch)
        .run(gpu)
}

/// Every variant.
pub(in crate::low_level::kernels) fn kernels() -> Vec<Variant> {
    let mut all = pad::kernels();
    let bit = |set: u32, i: u32| f64::from(set >> i & 1);
    for set in 0..4 {
        let flags = vec![("A_TRANSPOSED", bit(set, 0)), ("B_TRANSPOSED", bit(set, 1))];
        for (kernel, scalar_c) in
            [&DENSE_BF16, &GROUPED_BF16].into_iter().flat_map(|s| [(&s.vec4, false), (&s.scalar, true)])
        {
            let mut constants = vec![("B_TRANSPOSED", bit(set, 1)), ("COLUMN_BLOCKS", 1.0 + bit(set, 0))];
            constants.extend([("TILE_ROWS", 32.0), ("WG", 8.0), ("B_ONCE", 1.0 - bit(set, 1))]);
            if scalar_c {
                constants.push(("READ_C", 1.0));
            }
            all.push(Variant { kernel, constants });
        }
        for family in [&DENSE, &GROUPED, &WEIGHT_GRADIENT] {
            for (transposed, rows, blocks, lanes, compact) in [
                (0.0, 32.0, 2.0, 8.0, 0.0),
                (0.0, 16.0, 1.0, 8.0, 1.0),
                (1.0, 8.0, 2.0, 8.0, 0.0),
                (0.0, 32.0, 1.0, 4.0, 0.0),
                (0.0, 32.0, 2.0, 4.0, 1.0),
            ] {
                // Each with whether it stores C as scalars.
                let mut kernels = vec![(&family.vec4.vec4, false), (&family.vec4.scalar, true), (&family.scalar, true)];
                if (rows, blocks, lanes) == (32.0, 2.0, 8.0) {
                    let stores = if set < 2 { &family.u64 } else { &family.u64_along };
                    kernels.extend([(&stores.vec4, false), (&stores.scalar, true)]);
                }
                for (kernel, scalar_c) in kernels {
                    let mut constants = flags.clone();
                    constants.extend([("C_TRANSPOSED", transposed), ("TILE_ROWS", rows), ("COLUMN_BLOCKS", blocks)]);
                    constants.extend([("WG", lanes), ("K_TAIL", transposed), ("B_ONCE", transposed)]);
                    constants.push(("COMPACT", compact));
                    if scalar_c {
                        constants.push(("READ_C", 1.0 - transposed));
                    }
                    all.push(Variant { kernel, constants });
                }
            }
        }
    }
    all
}
