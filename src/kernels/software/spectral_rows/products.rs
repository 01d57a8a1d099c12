//! The skinny products of a stack, and the factors that its common part is made of.

use super::{Block, LEFT_FACTORS_ROWS, RANK, SPECTRAL_PRODUCTS_ROWS, SUM_BLOCKS_ROWS, parts};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::decoupled::{Basis, Products, Skinny, sizes};
use crate::kernels::stack_parts::StackPart;
use crate::tensor::Tensor;

crate::params! {
    pub(super) struct ProductParams { matrices: u32, rows: u32, octs: u32, experts: u32 }
}

crate::params! {
    pub(super) struct FactorParams { matrices: u32, rows: u32, octs: u32, experts: u32, factor: f32 }
}

/// Sums over blocks of rows and `X V`, to become [`Products`].
pub(super) struct Partial {
    block: Block,
    pub(super) parts: Tensor,
    pub(super) b: Tensor,
}

impl Partial {
    pub(super) fn new(gpu: &Gpu, block: Block, [layers, experts, m, n]: [usize; 4]) -> Result<Self> {
        Ok(Self {
            block,
            parts: Tensor::empty_f32(gpu, [layers, experts, block.count(m) * RANK, n])?,
            b: Tensor::empty_f32(gpu, [layers, experts, m, RANK])?,
        })
    }

    pub(super) fn finish(self, basis: &Basis, parts: &[StackPart], squares: Option<Tensor>) -> Result<Products> {
        let ([layers, experts, m, _], n) = (sizes("gradient split", &self.b)?, self.parts.cols());
        let gpu = self.b.gpu();
        let a = Tensor::empty_f32(gpu, [layers, experts, RANK, n])?;
        let square = Tensor::empty_f32(gpu, [layers, experts, RANK, RANK])?;
        for part in parts {
            self.block
                .launch(&SUM_BLOCKS_ROWS, m, n)
                .params(&FactorParams {
                    matrices: part.count() as u32,
                    rows: m as u32,
                    octs: (n / 8) as u32,
                    experts: experts as u32,
                    factor: 0.0,
                })
                .read("parts", &part.matrices(&self.parts)?)
                .read("vt", &part.layers(&basis.vt)?)
                .write("a", &part.matrices(&a)?)
                .write("product", &part.matrices(&square)?)
                .workgroups(part.count() * RANK)
                .run(gpu)?;
        }
        Ok(Products { skinny: Skinny { a, b: self.b }, square, squares })
    }
}

/// Records the skinny products with `basis` of `x: [layers, experts, m, n]`, or of what it has beyond `common: [layers, 1, m, n]`;
/// none where these kernels do not take it.
pub(crate) fn products(basis: &Basis, x: &Tensor, common: Option<&Tensor>) -> Result<Option<Products>> {
    let (gpu, shape) = (x.gpu(), sizes("gradient split", x)?);
    let [layers, experts, m, n] = shape;
    let Some(parts) = parts(gpu, shape, basis.rank())? else { return Ok(None) };
    let block = Block::PRODUCTS;
    let partial = Partial::new(gpu, block, shape)?;
    let squares = Tensor::empty_f32(gpu, [layers, experts, block.count(m) * RANK])?;
    for part in &parts {
        block
            .launch(&SPECTRAL_PRODUCTS_ROWS, m, n)
            .params(&ProductParams {
                matrices: part.count() as u32,
                rows: m as u32,
                octs: (n / 8) as u32,
                experts: experts as u32,
            })
            .constant("BEYOND", u32::from(common.is_some()))
            .read("x", &part.rows(x)?)
            .read("common_matrix", &common.map_or_else(|| part.rows(x), |c| part.layer_rows(c))?)
            .read("u", &part.layers(&basis.u)?)
            .read("vt", &part.layers(&basis.vt)?)
            .write("parts", &part.matrices(&partial.parts)?)
            .write("b", &part.rows(&partial.b)?)
            .write("squares", &part.matrices(&squares)?)
            .workgroups(part.count() * block.count(m))
            .run(gpu)?;
    }
    partial.finish(basis, &parts, Some(squares)).map(Some)
}

/// Records `left = [U | b - factor U square]`; false where these kernels do not take it.
pub(crate) fn left_factors(basis: &Basis, b: &Tensor, square: Option<&Tensor>, left: &Tensor) -> Result<bool> {
    let (gpu, shape) = (b.gpu(), sizes("gradient split", b)?);
    let [_, experts, m, k] = shape;
    // What `octs` counts does not occur here.
    let Some(parts) = parts(gpu, shape, k)? else { return Ok(false) };
    for part in parts {
        let x = part.rows(b)?;
        Block::APPLY
            .launch(&LEFT_FACTORS_ROWS, m, k)
            .params(&FactorParams {
                matrices: part.count() as u32,
                rows: m as u32,
                octs: 0,
                experts: experts as u32,
                factor: if square.is_some() { 1.0 } else { 0.0 },
            })
            .read("u", &part.layers(&basis.u)?)
            .read("b", &x)
            .read("square", &square.map_or(Ok(x.clone()), |s| part.matrices(s))?)
            .write("left", &part.rows(left)?)
            .workgroups(part.count() * Block::APPLY.count(m))
            .run(gpu)?;
    }
    Ok(true)
}
