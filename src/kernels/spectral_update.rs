//! The kernels that move decoupled matrices: AdamW's direction with the common part added or removed on the way, and the
//! step itself. What is stored and moved is `W_i = W_c + W_u,i`, as the forward pass wants it, and `W_c`.
//!
//! Each thread treats eight rows of four columns and evaluates the rank-2k common part ([`Factors`]) in registers, so the
//! correction costs no pass over memory of its own.

use crate::error::Result;
use crate::gpu::{Kernel, Launch, wgsl};
use crate::kernels::Variant;
pub use crate::kernels::decoupled::{AdamFactors, Mix, Moments};
use crate::kernels::decoupled::{Basis, Factors, THREADS, sizes};
use crate::kernels::software::spectral_rows;
use crate::kernels::stack_parts::{StackPart, stack_parts};
use crate::tensor::Tensor;

/// Rows of a thread, as in lib/low_rank.wgsl.
const ROWS: usize = 8;

/// AdamW's direction, four columns at a time.
pub static SPECTRAL_DIRECTION: Kernel =
    Kernel::new("spectral_direction", wgsl!["lib/pack_four.wgsl", "spectral_direction.wgsl"])
        .params::<DirectionParams>();
/// AdamW's direction, for a number of columns that 4 does not divide.
pub static SPECTRAL_DIRECTION_SCALAR: Kernel =
    Kernel::new("spectral_direction_scalar", wgsl!["lib/pack_scalar.wgsl", "spectral_direction.wgsl"])
        .entry("spectral_direction")
        .params::<DirectionParams>();
/// A step of weights, four columns at a time.
pub static SPECTRAL_APPLY: Kernel =
    Kernel::new("spectral_apply", wgsl!["lib/pack_four.wgsl", "spectral_apply.wgsl"]).params::<ApplyParams>();
/// A step of weights, for a number of columns that 4 does not divide.
pub static SPECTRAL_APPLY_SCALAR: Kernel =
    Kernel::new("spectral_apply_scalar", wgsl!["lib/pack_scalar.wgsl", "spectral_apply.wgsl"])
        .entry("spectral_apply")
        .params::<ApplyParams>();

/// This module's kernels, in the variants that a step and a refresh launch.
pub fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for (common, full) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let constants = [("WG", 64.0), ("RANK", 8.0), ("COMMON", common), ("FULL", full)];
        for kernel in [&SPECTRAL_DIRECTION, &SPECTRAL_DIRECTION_SCALAR] {
            all.push(Variant { kernel, constants: constants.to_vec() });
        }
        for shared in [0.0, 1.0] {
            for kernel in [&SPECTRAL_APPLY, &SPECTRAL_APPLY_SCALAR] {
                all.push(Variant { kernel, constants: [constants.as_slice(), &[("SHARED", shared)]].concat() });
            }
        }
    }
    all
}

crate::params! {
    struct DirectionParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        on_full: f32,
        on_common: f32,
        // The rate and the decay are the step's.
        adam: AdamFactors,
    }
}

crate::params! {
    struct ApplyParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        on_full: f32,
        on_common: f32,
        on_shared: f32,
        decay: f32,
    }
}

/// Records AdamW's moments and direction, the decay apart, for the gradient `mix` of X = `gradient`, multiplied by the scale
/// in `clip`; the direction replaces `gradient`. Nothing changes where `clip` says that the norm is not finite.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn direction(
    gradient: &Tensor,
    moments: Moments<'_>,
    mix: Mix<'_>,
    basis: &Basis,
    adam: &AdamFactors,
    clip: &Tensor,
) -> Result<()> {
    let shape = sizes("spectral direction", gradient)?;
    let [_, experts, _, n] = shape;
    let k = basis.rank();
    for part in stack_parts(clip.gpu(), "spectral direction", shape, &[2 * k], &[k * n], &[k * n])? {
        let params = DirectionParams {
            matrices: part.count() as u32,
            rows: part.rows.len() as u32,
            packs: packs(n) as u32,
            experts: experts as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            adam: *adam,
        };
        let written = [gradient, moments.m, moments.v];
        let [g, m, v] = [part.rows(gradient)?, part.rows(moments.m)?, part.rows(moments.v)?];
        over_rows([&SPECTRAL_DIRECTION, &SPECTRAL_DIRECTION_SCALAR], &part, n, (mix, mix.full != 0.0), basis, clip)?
            .params(&params)
            .write("gradient", &g)
            .write("mean", &m)
            .write("square", &v)
            .run(clip.gpu())?;
        for (x, rows) in written.into_iter().zip([g, m, v]) {
            part.store(x, &rows)?;
        }
    }
    Ok(())
}

/// A step of weights `[layers, experts, m, n]`: what is added to them.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// X, of the weights' shape; may be left out where its factor is 0.
    pub x: Option<&'a Tensor>,
    /// The factors on X and on a common part.
    pub mix: Mix<'a>,
    /// A factor, and what the experts of a layer share, `[layers, 1, m, n]`.
    pub shared: Option<(f32, &'a Tensor)>,
    /// The share of the weights that goes.
    pub decay: f32,
}

impl<'a> Move<'a> {
    /// `factor X`, and a share that goes.
    pub fn all(factor: f32, decay: f32) -> Self {
        Self { x: None, mix: Mix { full: factor, common: None }, shared: None, decay }
    }

    /// `factor C`, C the common part that the factors are of.
    pub fn common(factor: f32, factors: &'a Factors) -> Self {
        Self { x: None, mix: Mix { full: 0.0, common: Some((factor, factors)) }, shared: None, decay: 0.0 }
    }
}

/// Records `weight += step`, for a stack `[layers, experts, m, n]`. Nothing changes where `clip` says that the norm is not
/// finite.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn apply(weight: &Tensor, step: Move<'_>, basis: &Basis, clip: &Tensor) -> Result<()> {
    let shape = sizes("spectral step", weight)?;
    let [_, experts, m, n] = shape;
    let k = basis.rank();
    let Move { x, mix, shared, decay } = step;
    if let (None, None, Some((factor, common))) = (x, shared, mix.common)
        && spectral_rows::apply(weight, factor, common, decay, basis, clip)?
    {
        return Ok(());
    }
    for part in stack_parts(clip.gpu(), "spectral step", shape, &[2 * k], &[k * n], &[k * n, m * n])? {
        let params = ApplyParams {
            matrices: part.count() as u32,
            rows: part.rows.len() as u32,
            packs: packs(n) as u32,
            experts: experts as u32,
            on_full: if x.is_some() { mix.full } else { 0.0 },
            on_common: mix.factor(),
            on_shared: shared.map_or(0.0, |(factor, _)| factor),
            decay,
        };
        let moved = part.rows(weight)?;
        over_rows([&SPECTRAL_APPLY, &SPECTRAL_APPLY_SCALAR], &part, n, (mix, x.is_some()), basis, clip)?
            .constant("SHARED", u32::from(shared.is_some()))
            .params(&params)
            .write("weight", &moved)
            .read("direction", &x.map_or(Ok(clip.clone()), |x| part.rows(x))?)
            .read("common_step", &shared.map_or(Ok(clip.clone()), |(_, x)| part.layer_rows(x))?)
            .run(clip.gpu())?;
        part.store(weight, &moved)?;
    }
    Ok(())
}

/// Packs of a row of `n` columns: of four, or of one column where 4 does not divide it.
pub(super) fn packs(n: usize) -> usize {
    if n.is_multiple_of(4) { n / 4 } else { n }
}

/// A launch of the first kernel, or of the second where a pack is one column, over the blocks of rows of `part`, with the factors of
/// the common part that `mix` has, and `clip`; `full` says whether X takes part. Each workgroup has a block of rows and as many packs as
/// threads.
pub(super) fn over_rows<'a>(
    [four, one]: [&'static Kernel; 2],
    part: &StackPart,
    n: usize,
    (mix, full): (Mix<'_>, bool),
    basis: &Basis,
    clip: &Tensor,
) -> Result<Launch<'a>> {
    let packs = packs(n);
    // Short rows take smaller workgroups, so that few threads idle; a power of two keeps the number of pipelines small.
    let size = packs.next_power_of_two().clamp(8, THREADS as usize);
    let [left, right, vt] = mix.bindings(part, basis, clip)?;
    Ok(Launch::new(if packs < n { four } else { one })
        .constant("WG", size as u32)
        .constant("RANK", basis.rank() as u32)
        .constant("COMMON", u32::from(mix.common.is_some()))
        .constant("FULL", u32::from(full))
        .read("left", &left)
        .read("right", &right)
        .read("vt", &vt)
        .read("clip", clip)
        .workgroups((part.count() * part.rows.len().div_ceil(ROWS) * packs.div_ceil(size)) as u64))
}
