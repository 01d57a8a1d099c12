//! The gradient split and the moves of decoupled matrices at rank 8, for adapters with subgroups of eight lanes.
//!
//! Each kernel is one pass over a stack, in lib/eight_rows.wgsl's geometry, with everything of rank 8 in registers. What they
//! give is what `kernels::spectral` and `kernels::spectral_update` give in more passes, up to rounding; those decide
//! (`applies`, `parts`) and fall back to their own kernels.

use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::spectral::{Basis, Products, Skinny, sizes};
use crate::kernels::spectral_place::{Place, places};
use crate::kernels::spectral_update::{AdamFactors, Mix, Moments};
use crate::tensor::Tensor;

/// Rank, and lanes of a subgroup.
const RANK: usize = 8;
/// Rows of a workgroup, as in lib/eight_rows.wgsl.
const BLOCK: usize = 32;

macro_rules! kernel {
    ($doc:literal, $name:ident, $text:literal, $entry:literal, $($source:literal),*) => {
        #[doc = $doc]
        pub static $name: Kernel = Kernel {
            name: $text,
            sources: &[
                include_str!("../../shaders/lib/grid.wgsl"),
                include_str!("../../shaders/lib/eight_rows.wgsl"),
                $(include_str!(concat!("../../shaders/", $source)),)*
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
    "AdamW with the merge.",
    SPECTRAL_ADAM_MERGE_ROWS,
    "spectral_adam_merge_rows",
    "spectral_adam_merge",
    "lib/pack_vec4.wgsl",
    "lib/adam.wgsl",
    "spectral_adam_rows.wgsl"
);
kernel!(
    "A common part added to W_c.",
    SPECTRAL_APPLY_ROWS,
    "spectral_apply_rows",
    "spectral_apply",
    "spectral_apply_rows.wgsl"
);
kernel!(
    "A common part added to W_u, with the merge.",
    SPECTRAL_MERGE_ROWS,
    "spectral_merge_rows",
    "spectral_merge",
    "spectral_apply_rows.wgsl"
);

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for tail in [0.0, 1.0] {
        let constants = vec![("WG", RANK as f64), ("ROW_TAIL", tail)];
        let mut add = |kernel, more: &[(&'static str, f64)]| {
            all.push(Variant { kernel, constants: [constants.as_slice(), more].concat() });
        };
        for kernel in [&SPECTRAL_PRODUCTS_ROWS, &SUM_BLOCKS_ROWS, &LEFT_FACTORS_ROWS] {
            add(kernel, &[]);
        }
        for common in [0.0, 1.0] {
            add(&SPECTRAL_APPLY_ROWS, &[("COMMON", common)]);
            add(&SPECTRAL_MERGE_ROWS, &[("COMMON", common)]);
            for (full, moves) in [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)] {
                let flags = [("COMMON", common), ("FULL", full), ("MOVE", moves)];
                add(&SPECTRAL_ADAM_ROWS, &flags);
                add(&SPECTRAL_ADAM_MERGE_ROWS, &flags);
            }
        }
    }
    all
}

crate::params! {
    struct ProductParams { matrices: u32, rows: u32, packs: u32, experts: u32 }
}

crate::params! {
    struct FactorParams { matrices: u32, rows: u32, packs: u32, experts: u32, factor: f32 }
}

crate::params! {
    struct ApplyParams { matrices: u32, rows: u32, packs: u32, experts: u32, on_common: f32 }
}

crate::params! {
    struct AdamParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        vt_first: u32,
        clip_at: u32,
        on_full: f32,
        on_common: f32,
        lr: f32,
        beta1: f32,
        beta2: f32,
        rest1: f32,
        rest2: f32,
        correct1: f32,
        correct2: f32,
        eps: f32,
        decay: f32,
    }
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

fn blocks(m: usize) -> usize {
    m.div_ceil(BLOCK)
}

/// The launches for a stack of `shape`, none where these kernels do not take it: in each whole matrices must fit.
pub(crate) fn parts(gpu: &Gpu, shape: [usize; 4], k: usize) -> Result<Option<Vec<Place>>> {
    let [_, _, m, n] = shape;
    if !applies(gpu, k, n) {
        return Ok(None);
    }
    // The sums of blocks are the largest of what belongs to a matrix beside its rows.
    let by_matrix = [blocks(m) * RANK * n, blocks(m) * RANK, RANK * n, RANK * RANK];
    let Ok(parts) = places(gpu, "spectral decoupling", shape, &[2 * RANK, RANK], &by_matrix, &[RANK * n, m * RANK])
    else {
        return Ok(None);
    };
    Ok(parts.iter().all(Place::whole).then_some(parts))
}

fn launch<'a>(kernel: &'static Kernel, m: usize) -> Launch<'a> {
    let tail = u32::from(!m.is_multiple_of(BLOCK));
    Launch::new(kernel).constant("WG", RANK as u32).constant("ROW_TAIL", tail)
}

/// Sums over blocks of rows and `X V`, to become [`Products`].
struct Partial {
    parts: Tensor,
    b: Tensor,
}

impl Partial {
    fn new(gpu: &Gpu, [layers, experts, m, n]: [usize; 4]) -> Result<Self> {
        Ok(Self {
            parts: Tensor::empty_f32(gpu, [layers, experts, blocks(m) * RANK, n])?,
            b: Tensor::empty_f32(gpu, [layers, experts, m, RANK])?,
        })
    }

    fn finish(self, basis: &Basis, places: &[Place], squares: Option<Tensor>) -> Result<Products> {
        let ([layers, experts, m, _], n) = (sizes("gradient split", &self.b)?, self.parts.cols());
        let gpu = self.b.gpu();
        let a = Tensor::empty_f32(gpu, [layers, experts, RANK, n])?;
        let square = Tensor::empty_f32(gpu, [layers, experts, RANK, RANK])?;
        for place in places {
            launch(&SUM_BLOCKS_ROWS, m)
                .params(&FactorParams {
                    matrices: place.count() as u32,
                    rows: m as u32,
                    packs: (n / 4) as u32,
                    experts: experts as u32,
                    factor: 0.0,
                })
                .read("parts", &place.matrices(&self.parts)?)
                .read("vt", &place.layers(&basis.vt)?)
                .write("a", &place.matrices(&a)?)
                .write("product", &place.matrices(&square)?)
                .workgroups(place.count() * RANK)
                .run(gpu)?;
        }
        Ok(Products { skinny: Skinny { a, b: self.b }, square, squares })
    }
}

/// Records the skinny products of `x: [layers, experts, m, n]` with `basis`; none where these kernels do not take it.
pub(crate) fn products(basis: &Basis, x: &Tensor) -> Result<Option<Products>> {
    let (gpu, shape) = (x.gpu(), sizes("gradient split", x)?);
    let [layers, experts, m, n] = shape;
    let Some(places) = parts(gpu, shape, basis.rank())? else { return Ok(None) };
    let partial = Partial::new(gpu, shape)?;
    let squares = Tensor::empty_f32(gpu, [layers, experts, blocks(m) * RANK])?;
    for place in &places {
        launch(&SPECTRAL_PRODUCTS_ROWS, m)
            .params(&ProductParams {
                matrices: place.count() as u32,
                rows: m as u32,
                packs: (n / 4) as u32,
                experts: experts as u32,
            })
            .read("x", &place.rows(x)?)
            .read("u", &place.layers(&basis.u)?)
            .read("vt", &place.layers(&basis.vt)?)
            .write("parts", &place.matrices(&partial.parts)?)
            .write("b", &place.rows(&partial.b)?)
            .write("squares", &place.matrices(&squares)?)
            .workgroups(place.count() * blocks(m))
            .run(gpu)?;
    }
    partial.finish(basis, &places, Some(squares)).map(Some)
}

/// Records `left = [U | b - factor U square]`; false where these kernels do not take it.
pub(crate) fn left_factors(basis: &Basis, b: &Tensor, square: Option<&Tensor>, left: &Tensor) -> Result<bool> {
    let (gpu, shape) = (b.gpu(), sizes("gradient split", b)?);
    let [_, experts, m, k] = shape;
    // What `packs` counts does not occur here.
    let Some(places) = parts(gpu, shape, k)? else { return Ok(false) };
    for place in places {
        let x = place.rows(b)?;
        launch(&LEFT_FACTORS_ROWS, m)
            .params(&FactorParams {
                matrices: place.count() as u32,
                rows: m as u32,
                packs: 0,
                experts: experts as u32,
                factor: if square.is_some() { 1.0 } else { 0.0 },
            })
            .read("u", &place.layers(&basis.u)?)
            .read("b", &x)
            .read("square", &square.map_or(Ok(x.clone()), |s| place.matrices(s))?)
            .write("left", &place.rows(left)?)
            .workgroups(place.count() * blocks(m))
            .run(gpu)?;
    }
    Ok(true)
}

/// Records `weight += mix`, X taking no part, and with `merge` = (w_c, merged) `merged = w_c + weight`; false where these
/// kernels do not take it.
pub(crate) fn apply(
    weight: &Tensor,
    mix: Mix<'_>,
    basis: &Basis,
    merge: Option<(&Tensor, &Tensor)>,
    clip: &Tensor,
) -> Result<bool> {
    let (gpu, shape) = (clip.gpu(), sizes("spectral step", weight)?);
    let [_, experts, m, n] = shape;
    let Some(places) = parts(gpu, shape, basis.rank())? else { return Ok(false) };
    for place in places {
        let params = ApplyParams {
            matrices: place.count() as u32,
            rows: m as u32,
            packs: (n / 4) as u32,
            experts: experts as u32,
            on_common: mix.factor(),
        };
        let [left, right, vt] = mix.bindings(&place, basis, clip)?;
        let kernel = if merge.is_some() { &SPECTRAL_MERGE_ROWS } else { &SPECTRAL_APPLY_ROWS };
        let mut launch = launch(kernel, m)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .params(&params)
            .write("weight", &place.rows(weight)?)
            .read("left", &left)
            .read("right", &right)
            .read("vt", &vt)
            .read("clip", clip);
        if let Some((w_c, merged)) = merge {
            launch = launch.read("w_c", &place.layer_rows(w_c)?).write("merged", &place.rows(merged)?);
        }
        launch.workgroups(place.count() * blocks(m)).run(gpu)?;
    }
    Ok(true)
}

/// What [`adam`] makes beside the moments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// The direction's products; the weights move by the direction if so said.
    Products {
        /// Whether the weights move.
        moving: bool,
    },
    /// The weights move, and `merged = w_c + weight`.
    Merged {
        /// `[layers, m, n]`.
        w_c: &'a Tensor,
        /// `[layers, experts, m, n]`.
        merged: &'a Tensor,
    },
}

/// What [`adam`] has recorded.
#[derive(Debug)]
pub(crate) enum Recorded {
    /// Nothing: these kernels do not take the stack.
    Nothing,
    /// All, with the direction's products where they were wanted.
    All(Option<Box<Products>>),
}

/// Records AdamW's moments for the gradient `mix` of X = `gradient` (may be left out where its factor is 0), multiplied by
/// the scale in `clip`, and with the direction D what is `wanted`: `weight -= lr D`, D's products, the merge. Nothing changes
/// where `clip` says that the norm is not finite; the products are then undefined.
pub(crate) fn adam(
    gradient: Option<&Tensor>,
    state: Moments<'_>,
    mix: Mix<'_>,
    basis: &Basis,
    adam: &AdamFactors,
    wanted: Wanted<'_>,
    clip: &Tensor,
) -> Result<Recorded> {
    let (gpu, shape) = (clip.gpu(), sizes("spectral direction", state.weight)?);
    let [_, experts, m, n] = shape;
    let Some(places) = parts(gpu, shape, basis.rank())? else { return Ok(Recorded::Nothing) };
    let partial = match wanted {
        Wanted::Products { .. } => Some(Partial::new(gpu, shape)?),
        Wanted::Merged { .. } => None,
    };
    for place in &places {
        let (left, right, vt_first) = packed(place, mix, basis, clip)?;
        let moving = !matches!(wanted, Wanted::Products { moving: false });
        let params = AdamParams {
            matrices: place.count() as u32,
            rows: m as u32,
            packs: (n / 4) as u32,
            experts: experts as u32,
            vt_first: (vt_first / 4) as u32,
            clip_at: (right.numel() / 4 - 1) as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            lr: adam.lr,
            beta1: adam.beta1,
            beta2: adam.beta2,
            rest1: adam.rest1,
            rest2: adam.rest2,
            correct1: adam.correct1,
            correct2: adam.correct2,
            eps: adam.eps,
            decay: adam.decay,
        };
        let kernel = if partial.is_some() { &SPECTRAL_ADAM_ROWS } else { &SPECTRAL_ADAM_MERGE_ROWS };
        let mut launch = launch(kernel, m)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .constant("FULL", u32::from(gradient.is_some()))
            .constant("MOVE", u32::from(moving))
            .params(&params)
            .read("gradient", &gradient.map_or(Ok(left.clone()), |g| place.rows(g))?)
            .write("mean", &place.rows(state.m)?)
            .write("square", &place.rows(state.v)?)
            .write("weight", &place.rows(state.weight)?)
            .read("left", &left)
            .read("right", &right);
        if let Some(partial) = &partial {
            launch = launch.write("parts", &place.matrices(&partial.parts)?).write("b", &place.rows(&partial.b)?);
        }
        if let Wanted::Merged { w_c, merged } = wanted {
            launch = launch.read("w_c", &place.layer_rows(w_c)?).write("merged", &place.rows(merged)?);
        }
        launch.workgroups(place.count() * blocks(m)).run(gpu)?;
    }
    Ok(Recorded::All(partial.map(|p| p.finish(basis, &places, None).map(Box::new)).transpose()?))
}

/// The kernel's `left` and `right`, and where in `right` V^T begins: a pass over AdamW's state has no binding to spare, so V^T
/// and the clip lie behind U^T X.
fn packed(place: &Place, mix: Mix<'_>, basis: &Basis, clip: &Tensor) -> Result<(Tensor, Tensor, usize)> {
    let vt = place.layers(&basis.vt)?;
    let (left, a) = match mix.common {
        Some((_, factors)) => (place.rows(&factors.left)?, Some(place.matrices(&factors.right)?)),
        None => (place.layers(&basis.u)?, None),
    };
    let vt_first = a.as_ref().map_or(0, Tensor::numel);
    let right = Tensor::empty_f32(clip.gpu(), [vt_first + vt.numel() + 4])?;
    if let Some(a) = a {
        right.slice(0..vt_first)?.copy_from(&a)?;
    }
    right.slice(vt_first..vt_first + vt.numel())?.copy_from(&vt)?;
    right.slice(vt_first + vt.numel()..right.numel())?.copy_from(clip)?;
    Ok((left, right, vt_first))
}
