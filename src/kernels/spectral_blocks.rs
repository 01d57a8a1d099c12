//! The gradient split and AdamW's pass over decoupled matrices at rank 8, for GPUs: each is one pass over the stack, in which a
//! workgroup has a block of rows and a tile of columns, and leaves sums of its own for both skinny products.
//!
//! What they give is what `kernels::spectral` and `kernels::spectral_update` give in more passes, up to rounding. Of an element of a
//! stack a step of AdamW reads the gradient for its products and norm, then gradient, moments and weight, of which it writes
//! three, and at the end the weight once more: 40 bytes, where the same without decoupling, its norm included, moves 32; and
//! sums, of at most a quarter of a pass where a matrix has 32 rows and columns.

use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Tier, wgsl};
use crate::kernels::Variant;
use crate::kernels::decoupled::{AdamFactors, Basis, Mix, Products, Skinny, Stack, packed, sizes};
use crate::kernels::expert_sums::sum_experts;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::stack_parts::{StackPart, stack_parts};
use crate::tensor::Tensor;

/// The rank, as in lib/spectral_blocks.wgsl.
const RANK: usize = 8;
/// Workgroups that keep a GPU busy: with fewer a workgroup has fewer rows.
const WORKGROUPS: usize = 1024;
/// Rows of a workgroup at the most and at the least, multiples of four.
const ROWS: [usize; 2] = [128, 32];

/// Both skinny products of a stack, and its squared norms.
pub static SPECTRAL_PRODUCTS_BLOCKS: Kernel =
    Kernel::new("spectral_products_blocks", wgsl!["spectral_products.wgsl"]).params::<BlockParams>();
/// AdamW, giving the direction's skinny products.
pub static SPECTRAL_ADAM_BLOCKS: Kernel =
    Kernel::new("spectral_adam_blocks", wgsl!["spectral_adam.wgsl"]).params::<BlockParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all = vec![Variant { kernel: &SPECTRAL_PRODUCTS_BLOCKS, constants: vec![("WG", 64.0)] }];
    for (common, full, moves) in [(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 0.0)] {
        let constants = vec![("WG", 64.0), ("COMMON", common), ("FULL", full), ("MOVE", moves)];
        all.push(Variant { kernel: &SPECTRAL_ADAM_BLOCKS, constants });
    }
    all
}

crate::params! {
    struct BlockParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        blocks: u32,
        block_rows: u32,
        tiles: u32,
        // AdamW's alone from here on.
        vt_first: u32,
        clip_at: u32,
        on_full: f32,
        on_common: f32,
        adam: AdamFactors,
    }
}

/// How a stack is cut into workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    shape: [usize; 4],
    /// Threads of a workgroup, each with four columns.
    threads: usize,
    /// Rows of a workgroup.
    rows: usize,
}

impl Cut {
    fn new(shape: [usize; 4]) -> Self {
        let [layers, experts, m, n] = shape;
        let threads = (n / 4).next_power_of_two().clamp(8, 64);
        let tiles = (n / 4).div_ceil(threads);
        let mut rows = ROWS[0];
        while rows > ROWS[1] && layers * experts * m.div_ceil(rows) * tiles < WORKGROUPS {
            rows /= 2;
        }
        Self { shape, threads, rows }
    }

    /// Blocks of rows.
    fn blocks(self) -> usize {
        self.shape[2].div_ceil(self.rows)
    }

    /// Tiles of columns.
    fn tiles(self) -> usize {
        (self.shape[3] / 4).div_ceil(self.threads)
    }

    /// The launches, in each of which whole matrices fit; none where a matrix does not.
    fn parts(self, gpu: &Gpu) -> Option<Vec<StackPart>> {
        let [_, _, m, n] = self.shape;
        let (blocks, tiles) = (self.blocks(), self.tiles());
        // The last is more than AdamW's pass binds, and asks for no alignment of its own.
        let by_matrix = [blocks * RANK * n, tiles * m * RANK, blocks * tiles, 2 * RANK * n + 64];
        let by_layer = [RANK * n, m * RANK];
        let parts = stack_parts(gpu, "spectral decoupling", self.shape, &[2 * RANK], &by_matrix, &by_layer).ok()?;
        parts.iter().all(StackPart::whole).then_some(parts)
    }

    /// The parameters of both kernels for `part`, without AdamW's.
    fn params(self, part: &StackPart) -> BlockParams {
        let [_, experts, m, n] = self.shape;
        BlockParams {
            matrices: part.count() as u32,
            rows: m as u32,
            packs: (n / 4) as u32,
            experts: experts as u32,
            blocks: self.blocks() as u32,
            block_rows: self.rows as u32,
            tiles: self.tiles() as u32,
            ..BlockParams::default()
        }
    }

    fn launch<'a>(self, kernel: &'static Kernel, part: &StackPart) -> Launch<'a> {
        let workgroups = part.count() * self.blocks() * self.tiles();
        Launch::new(kernel).constant("WG", self.threads as u32).workgroups(workgroups as u64)
    }
}

/// The cut and the launches for a stack of `shape`; none where these kernels do not take it.
fn cut(gpu: &Gpu, shape: [usize; 4], k: usize) -> Option<(Cut, Vec<StackPart>)> {
    if gpu.tier() != Tier::Gpu || k != RANK || !shape[3].is_multiple_of(4) {
        return None;
    }
    let cut = Cut::new(shape);
    cut.parts(gpu).map(|parts| (cut, parts))
}

/// The sums of blocks and tiles, to become [`Products`].
struct Sums {
    cut: Cut,
    /// `U^T X` of each block of rows, `[layers, experts, blocks * 8, n]`.
    a: Tensor,
    /// `X V` of each tile of columns, `[layers, experts, tiles * m, 8]`.
    b: Tensor,
}

impl Sums {
    fn new(gpu: &Gpu, cut: Cut) -> Result<Self> {
        let [layers, experts, m, n] = cut.shape;
        let a = Tensor::empty_f32(gpu, [layers, experts, cut.blocks() * RANK, n])?;
        let b = Tensor::empty_f32(gpu, [layers, experts, cut.tiles() * m, RANK])?;
        Ok(Self { cut, a, b })
    }

    fn finish(self, basis: &Basis, squares: Option<Tensor>) -> Result<Products> {
        let [layers, experts, m, n] = self.cut.shape;
        let sum = |x: &Tensor, number: usize, [rows, columns]: [usize; 2]| {
            let whole = [layers, experts, rows, columns];
            if number == 1 {
                return x.reshape(whole);
            }
            sum_experts(&x.reshape([layers * experts, number, rows, columns])?, 1.0)?.reshape(whole)
        };
        let a = sum(&self.a, self.cut.blocks(), [RANK, n])?;
        let b = sum(&self.b, self.cut.tiles(), [m, RANK])?;
        let square = Tensor::empty_f32(a.gpu(), [layers, experts, RANK, RANK])?;
        gemm(Trans::N, Trans::N, 1.0, &a, &basis.v, 0.0, &square)?;
        Ok(Products { skinny: Skinny { a, b }, square, squares })
    }
}

/// Records the skinny products with `basis` of `x: [layers, experts, m, n]` and its squared norms; none where these kernels do not take
/// it.
pub(crate) fn products(basis: &Basis, x: &Tensor) -> Result<Option<Products>> {
    let (gpu, shape) = (x.gpu(), sizes("gradient split", x)?);
    let [layers, experts, ..] = shape;
    let Some((cut, parts)) = cut(gpu, shape, basis.rank()) else { return Ok(None) };
    let sums = Sums::new(gpu, cut)?;
    let squares = Tensor::empty_f32(gpu, [layers, experts, cut.blocks() * cut.tiles()])?;
    for part in &parts {
        cut.launch(&SPECTRAL_PRODUCTS_BLOCKS, part)
            .params(&cut.params(part))
            .read("x", &part.rows(x)?)
            .read("u", &part.layers(&basis.u)?)
            .read("vt", &part.layers(&basis.vt)?)
            .write("parts", &part.matrices(&sums.a)?)
            .write("b_parts", &part.matrices(&sums.b)?)
            .write("squares", &part.matrices(&squares)?)
            .run(gpu)?;
    }
    sums.finish(basis, Some(squares)).map(Some)
}

/// Records AdamW's moments for the gradient `mix` of X = `gradient` (may be left out where its factor is 0), multiplied by the
/// scale in `clip`, gives the products of the direction D, and with `moves` `weight -= lr (D + decay weight)`; none where these
/// kernels do not take the stack. Nothing changes where `clip` says that the norm is not finite; the products are then undefined.
pub(crate) fn adam(
    gradient: Option<&Tensor>,
    stack: Stack<'_>,
    mix: Mix<'_>,
    basis: &Basis,
    adam: &AdamFactors,
    moves: bool,
    clip: &Tensor,
) -> Result<Option<Products>> {
    let (gpu, shape) = (clip.gpu(), sizes("spectral direction", stack.weight)?);
    let Some((cut, parts)) = cut(gpu, shape, basis.rank()) else { return Ok(None) };
    let sums = Sums::new(gpu, cut)?;
    for part in &parts {
        let (left, right, vt_first) = packed(part, mix, basis, clip)?;
        let params = BlockParams {
            vt_first: (vt_first / 4) as u32,
            clip_at: (right.numel() / 4 - 2) as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            adam: *adam,
            ..cut.params(part)
        };
        cut.launch(&SPECTRAL_ADAM_BLOCKS, part)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .constant("FULL", u32::from(gradient.is_some()))
            .constant("MOVE", u32::from(moves))
            .params(&params)
            .read("gradient", &gradient.map_or(Ok(left.clone()), |g| part.rows(g))?)
            .write("mean", &part.rows(stack.moments.m)?)
            .write("square", &part.rows(stack.moments.v)?)
            .write("weight", &part.rows(stack.weight)?)
            .read("left", &left)
            .read("right", &right)
            .write("parts", &part.matrices(&sums.a)?)
            .write("b_parts", &part.matrices(&sums.b)?)
            .run(gpu)?;
    }
    sums.finish(basis, None).map(Some)
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn workgroups_have_fewer_rows_where_there_would_be_few_of_them() {
        let cut = |shape| Cut::new(shape);
        let many = cut([4, 8, 4096, 512]);
        assert_eq!((many.threads, many.rows, many.blocks(), many.tiles()), (64, 128, 32, 2));
        let few = cut([1, 2, 70, 40]);
        assert_eq!((few.threads, few.rows, few.blocks(), few.tiles()), (16, 32, 3, 1));
        assert_eq!(cut([1, 1, 1, 4]).threads, 8);
    }
}
