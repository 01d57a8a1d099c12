//! The moves of a stack: a common part added, and AdamW with the gradient's common part added or removed on the way.

use super::products::Partial;
use super::{Block, SPECTRAL_ADAM_FOLLOW_ROWS, SPECTRAL_ADAM_ROWS, SPECTRAL_APPLY_ROWS, parts};
use crate::error::Result;
use crate::kernels::decoupled::{AdamFactors, Basis, Factors, Mix, Products, Stack, packed, sizes};
use crate::tensor::Tensor;

crate::params! {
    pub(super) struct ApplyParams { matrices: u32, rows: u32, octs: u32, experts: u32, on_common: f32, decay: f32 }
}

crate::params! {
    pub(super) struct AdamParams {
        matrices: u32,
        rows: u32,
        octs: u32,
        experts: u32,
        vt_first: u32,
        clip_at: u32,
        on_full: f32,
        on_common: f32,
        adam: AdamFactors,
    }
}

/// Records `weight += factor C - decay weight`, C the common part that the factors are of; false where these kernels do not
/// take it.
pub(crate) fn apply(
    weight: &Tensor,
    factor: f32,
    common: &Factors,
    decay: f32,
    basis: &Basis,
    clip: &Tensor,
) -> Result<bool> {
    let (gpu, shape) = (clip.gpu(), sizes("spectral step", weight)?);
    let [_, experts, m, n] = shape;
    let Some(parts) = parts(gpu, shape, basis.rank())? else { return Ok(false) };
    for part in parts {
        let params = ApplyParams {
            matrices: part.count() as u32,
            rows: m as u32,
            octs: (n / 8) as u32,
            experts: experts as u32,
            on_common: factor,
            decay,
        };
        Block::APPLY
            .launch(&SPECTRAL_APPLY_ROWS, m, n)
            .params(&params)
            .write("weight", &part.rows(weight)?)
            .read("left", &part.rows(&common.left)?)
            .read("right", &part.matrices(&common.right)?)
            .read("vt", &part.layers(&basis.vt)?)
            .read("clip", clip)
            .workgroups(part.count() * Block::APPLY.count(m))
            .run(gpu)?;
    }
    Ok(true)
}

/// The work of [`adam`] beside moving the moments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// The direction's products; the weights move by the direction and decay if so said.
    Products {
        /// Whether the weights move.
        moving: bool,
    },
    /// The weights move and decay, and `[layers, 1, m, n]` is what they move by, decay apart: of `W_c`.
    Lead(&'a Tensor),
    /// The weights move and decay, and follow what [`Wanted::Lead`] gave.
    Follow(&'a Tensor),
}

/// The part that [`adam`] has recorded.
#[derive(Debug)]
pub(crate) enum Recorded {
    /// Nothing: these kernels do not take the stack.
    Nothing,
    /// All, with the direction's products where they were wanted.
    All(Option<Box<Products>>),
}

/// Records AdamW's moments for the gradient `mix` of X = `gradient` (may be left out where its factor is 0), multiplied by
/// the scale in `clip`, and with the direction D what is `wanted`: `weight -= lr (D + decay weight)`, D's products. Nothing
/// changes where `clip` says that the norm is not finite; the products and what leads are then undefined.
pub(crate) fn adam(
    gradient: Option<&Tensor>,
    stack: Stack<'_>,
    mix: Mix<'_>,
    basis: &Basis,
    adam: &AdamFactors,
    wanted: Wanted<'_>,
    clip: &Tensor,
) -> Result<Recorded> {
    let (gpu, shape) = (clip.gpu(), sizes("spectral direction", stack.weight)?);
    let [_, experts, m, n] = shape;
    let Some(parts) = parts(gpu, shape, basis.rank())? else { return Ok(Recorded::Nothing) };
    let (block, partial) = match wanted {
        Wanted::Products { .. } => (Block::ADAM, Some(Partial::new(gpu, Block::ADAM, shape)?)),
        Wanted::Lead(_) | Wanted::Follow(_) => (Block::FOLLOW, None),
    };
    for part in &parts {
        let (left, right, vt_first) = packed(part, mix, basis, clip)?;
        let params = AdamParams {
            matrices: part.count() as u32,
            rows: m as u32,
            octs: (n / 8) as u32,
            experts: experts as u32,
            vt_first: (vt_first / 8) as u32,
            clip_at: (right.numel() / 8 - 1) as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            adam: *adam,
        };
        let kernel = if partial.is_some() { &SPECTRAL_ADAM_ROWS } else { &SPECTRAL_ADAM_FOLLOW_ROWS };
        let mut launch = block
            .launch(kernel, m, n)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .constant("FULL", u32::from(gradient.is_some()))
            .params(&params)
            .read("gradient", &gradient.map_or(Ok(left.clone()), |g| part.rows(g))?)
            .write("mean", &part.rows(stack.moments.m)?)
            .write("square", &part.rows(stack.moments.v)?)
            .write("weight", &part.rows(stack.weight)?)
            .read("left", &left)
            .read("right", &right);
        if let Some(partial) = &partial {
            launch = launch.write("parts", &part.matrices(&partial.parts)?).write("b", &part.rows(&partial.b)?);
        }
        launch = match wanted {
            Wanted::Products { moving } => launch.constant("MOVE", u32::from(moving)),
            Wanted::Lead(step) => launch.constant("FOLLOW", 0).write("common_step", &part.layer_rows(step)?),
            Wanted::Follow(step) => launch.constant("FOLLOW", 1).write("common_step", &part.layer_rows(step)?),
        };
        launch.workgroups(part.count() * block.count(m)).run(gpu)?;
    }
    Ok(Recorded::All(partial.map(|p| p.finish(basis, &parts, None).map(Box::new)).transpose()?))
}
