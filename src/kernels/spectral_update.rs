//! The kernels that move decoupled matrices: AdamW's direction with the common part added or removed on the way, and the
//! step itself, which keeps `W_i = W_c + W_u,i` merged for the forward pass.
//!
//! Each thread treats eight rows of four columns and evaluates the rank-2k common part ([`Factors`]) in registers, so the
//! correction costs no pass over memory of its own.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch};
use crate::kernels::Variant;
use crate::kernels::spectral::{Basis, Factors, THREADS, sizes};
use crate::kernels::spectral_place::{Place, places};
use crate::kernels::spectral_rows;
use crate::tensor::{Tensor, row_chunks};

/// Rows of a thread, as in lib/low_rank.wgsl.
const ROWS: usize = 8;

macro_rules! kernel {
    ($doc:literal, $name:ident, $text:literal, $entry:literal, $($source:literal),*) => {
        #[doc = $doc]
        pub static $name: Kernel = Kernel {
            name: $text,
            sources: &[
                include_str!("../../shaders/lib/grid.wgsl"),
                include_str!("../../shaders/lib/low_rank.wgsl"),
                $(include_str!(concat!("../../shaders/", $source)),)*
            ],
            entry: $entry,
            constants: &[],
        };
    };
}

kernel!(
    "AdamW's direction, four columns at a time.",
    SPECTRAL_DIRECTION,
    "spectral_direction",
    "spectral_direction",
    "lib/pack_vec4.wgsl",
    "lib/adam.wgsl",
    "spectral_direction.wgsl"
);
kernel!(
    "AdamW's direction, for a number of columns that 4 does not divide.",
    SPECTRAL_DIRECTION_SCALAR,
    "spectral_direction_scalar",
    "spectral_direction",
    "lib/pack_scalar.wgsl",
    "lib/adam.wgsl",
    "spectral_direction.wgsl"
);
kernel!(
    "A step of W_c, four columns at a time.",
    SPECTRAL_APPLY,
    "spectral_apply",
    "spectral_apply",
    "lib/pack_vec4.wgsl",
    "spectral_apply.wgsl"
);
kernel!(
    "A step of W_c, for a number of columns that 4 does not divide.",
    SPECTRAL_APPLY_SCALAR,
    "spectral_apply_scalar",
    "spectral_apply",
    "lib/pack_scalar.wgsl",
    "spectral_apply.wgsl"
);
kernel!(
    "A step of W_u with the merge, four columns at a time.",
    SPECTRAL_MERGE,
    "spectral_merge",
    "spectral_merge",
    "lib/pack_vec4.wgsl",
    "spectral_apply.wgsl"
);
kernel!(
    "A step of W_u with the merge, for a number of columns that 4 does not divide.",
    SPECTRAL_MERGE_SCALAR,
    "spectral_merge_scalar",
    "spectral_merge",
    "lib/pack_scalar.wgsl",
    "spectral_apply.wgsl"
);

/// A copy that a failed step leaves out.
pub static ACCEPT: Kernel = Kernel {
    name: "accept",
    sources: &[include_str!("../../shaders/lib/grid.wgsl"), include_str!("../../shaders/accept.wgsl")],
    entry: "accept",
    constants: &[],
};

/// This module's kernels, in the variants that a step and a refresh launch.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 6] = [
        &SPECTRAL_DIRECTION,
        &SPECTRAL_DIRECTION_SCALAR,
        &SPECTRAL_APPLY,
        &SPECTRAL_APPLY_SCALAR,
        &SPECTRAL_MERGE,
        &SPECTRAL_MERGE_SCALAR,
    ];
    let parts = [(0, 0), (1, 0), (0, 1), (1, 1)];
    let variant = |kernel, (common, full): (u32, u32)| Variant {
        kernel,
        constants: vec![("WG", 64.0), ("RANK", 8.0), ("COMMON", common.into()), ("FULL", full.into())],
    };
    let moving = all.into_iter().flat_map(|kernel| parts.map(|part| variant(kernel, part)));
    moving.chain([(&ACCEPT).into()]).collect()
}

/// AdamW's factors of one step, rounded from f64 once; the names are those of lib/adam.wgsl.
#[derive(Clone, Copy, Debug)]
pub struct AdamFactors {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta1`.
    pub rest1: f32,
    /// `1 - beta2`.
    pub rest2: f32,
    /// `1 / (1 - beta1^t)`.
    pub correct1: f32,
    /// `1 / (1 - beta2^t)`.
    pub correct2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay.
    pub decay: f32,
}

crate::params! {
    struct DirectionParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        on_full: f32,
        on_common: f32,
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

crate::params! {
    struct ApplyParams { matrices: u32, rows: u32, packs: u32, experts: u32, on_full: f32, on_common: f32 }
}

crate::params! {
    struct AcceptParams { count: u32 }
}

/// Records `y = x`, unless `clip` says that the norm is not finite.
///
/// # Errors
/// `Error::Shape` when the numbers of elements differ; `Error::Device`.
pub(crate) fn accept(x: &Tensor, y: &Tensor, clip: &Tensor) -> Result<()> {
    if x.numel() != y.numel() {
        return Err(Error::shape("accept", format!("{y:?}"), format!("{x:?}")));
    }
    let (x, y) = (x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in row_chunks(y.gpu(), "accept", y.numel(), &[1])? {
        Launch::new(&ACCEPT)
            .constant("WG", THREADS)
            .params(&AcceptParams { count: range.len() as u32 })
            .read("x", &x.slice(range.clone())?)
            .read("clip", clip)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len(), THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// `full X + common C`, X a stack and C the common part that the factors are of. What has the factor 0 is not read.
#[derive(Clone, Copy, Debug)]
pub struct Mix<'a> {
    /// Factor on X.
    pub full: f32,
    /// Factor on C and C, if it takes part.
    pub common: Option<(f32, &'a Factors)>,
}

impl Mix<'_> {
    /// The factor on C.
    pub(crate) fn factor(&self) -> f32 {
        self.common.map_or(0.0, |(factor, _)| factor)
    }

    /// The parts of left, right and V^T that `place` needs; `unused` where C takes no part.
    pub(crate) fn bindings(&self, place: &Place, basis: &Basis, unused: &Tensor) -> Result<[Tensor; 3]> {
        match self.common {
            None => Ok([unused.clone(), unused.clone(), unused.clone()]),
            Some((_, f)) => Ok([place.rows(&f.left)?, place.matrices(&f.right)?, place.layers(&basis.vt)?]),
        }
    }
}

/// Weights with their first and second moments, `[layers, experts, m, n]` each.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// The weights, which decay.
    pub weight: &'a Tensor,
    /// First moment.
    pub m: &'a Tensor,
    /// Second moment.
    pub v: &'a Tensor,
}

/// Records AdamW's moments and direction for the gradient `mix` of X = `gradient`, multiplied by the scale in `clip`; the
/// direction replaces `gradient`. Nothing changes where `clip` says that the norm is not finite.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn direction(
    gradient: &Tensor,
    state: Moments<'_>,
    mix: Mix<'_>,
    basis: &Basis,
    adam: &AdamFactors,
    clip: &Tensor,
) -> Result<()> {
    let shape = sizes("spectral direction", gradient)?;
    let [_, experts, _, n] = shape;
    let k = basis.rank();
    for place in places(clip.gpu(), "spectral direction", shape, &[2 * k], &[k * n], &[k * n])? {
        let (packs, size, workgroups) = geometry(&place, n);
        let params = DirectionParams {
            matrices: place.count() as u32,
            rows: place.rows.len() as u32,
            packs: packs as u32,
            experts: experts as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            beta1: adam.beta1,
            beta2: adam.beta2,
            rest1: adam.rest1,
            rest2: adam.rest2,
            correct1: adam.correct1,
            correct2: adam.correct2,
            eps: adam.eps,
            decay: adam.decay,
        };
        let [left, right, vt] = mix.bindings(&place, basis, clip)?;
        let written = [gradient, state.m, state.v];
        let [g, m, v] = [place.rows(gradient)?, place.rows(state.m)?, place.rows(state.v)?];
        Launch::new(if packs < n { &SPECTRAL_DIRECTION } else { &SPECTRAL_DIRECTION_SCALAR })
            .constant("WG", size)
            .constant("RANK", k as u32)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .constant("FULL", u32::from(mix.full != 0.0))
            .params(&params)
            .write("gradient", &g)
            .write("mean", &m)
            .write("square", &v)
            .read("weight", &place.rows(state.weight)?)
            .read("left", &left)
            .read("right", &right)
            .read("vt", &vt)
            .read("clip", clip)
            .workgroups(workgroups as u64)
            .run(clip.gpu())?;
        for (x, rows) in written.into_iter().zip([g, m, v]) {
            place.store(x, &rows)?;
        }
    }
    Ok(())
}

/// Records `weight += mix` of X = `x` (which may be left out where its factor is 0), for a stack `[layers, experts, m, n]`.
/// With `merge` = (w_c `[layers, m, n]`, merged) also `merged = w_c + weight`. Nothing changes where `clip` says that the
/// norm is not finite.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn apply(
    weight: &Tensor,
    x: Option<&Tensor>,
    mix: Mix<'_>,
    basis: &Basis,
    merge: Option<(&Tensor, &Tensor)>,
    clip: &Tensor,
) -> Result<()> {
    let shape = sizes("spectral step", weight)?;
    let [_, experts, m, n] = shape;
    let k = basis.rank();
    if x.is_none() && spectral_rows::apply(weight, mix, basis, merge, clip)? {
        return Ok(());
    }
    for place in places(clip.gpu(), "spectral step", shape, &[2 * k], &[k * n], &[k * n, m * n])? {
        let (packs, size, workgroups) = geometry(&place, n);
        let params = ApplyParams {
            matrices: place.count() as u32,
            rows: place.rows.len() as u32,
            packs: packs as u32,
            experts: experts as u32,
            on_full: if x.is_some() { mix.full } else { 0.0 },
            on_common: mix.factor(),
        };
        let kernel = match (merge.is_some(), packs < n) {
            (false, true) => &SPECTRAL_APPLY,
            (false, false) => &SPECTRAL_APPLY_SCALAR,
            (true, true) => &SPECTRAL_MERGE,
            (true, false) => &SPECTRAL_MERGE_SCALAR,
        };
        let [left, right, vt] = mix.bindings(&place, basis, clip)?;
        let moved = place.rows(weight)?;
        let sum = merge.map(|(_, merged)| place.rows(merged)).transpose()?;
        let mut launch = Launch::new(kernel)
            .constant("WG", size)
            .constant("RANK", k as u32)
            .constant("COMMON", u32::from(mix.common.is_some()))
            .constant("FULL", u32::from(x.is_some()))
            .params(&params)
            .write("weight", &moved)
            .read("direction", &x.map_or(Ok(clip.clone()), |x| place.rows(x))?)
            .read("left", &left)
            .read("right", &right)
            .read("vt", &vt)
            .read("clip", clip);
        if let (Some((w_c, _)), Some(sum)) = (merge, &sum) {
            launch = launch.read("w_c", &place.layer_rows(w_c)?).write("merged", sum);
        }
        launch.workgroups(workgroups as u64).run(clip.gpu())?;
        place.store(weight, &moved)?;
        if let (Some((_, merged)), Some(sum)) = (merge, &sum) {
            place.store(merged, sum)?;
        }
    }
    Ok(())
}

/// Packs of a row, threads of a workgroup, workgroups: each has a block of rows and as many packs as threads. One column
/// is a pack of its own where 4 does not divide a row.
fn geometry(place: &Place, n: usize) -> (usize, u32, usize) {
    let packs = if n.is_multiple_of(4) { n / 4 } else { n };
    // Short rows take smaller workgroups, so that few threads idle; a power of two keeps the number of pipelines small.
    let size = packs.next_power_of_two().clamp(8, THREADS as usize);
    (packs, size as u32, place.count() * place.rows.len().div_ceil(ROWS) * packs.div_ceil(size))
}
