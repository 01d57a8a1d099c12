//! The matrix that the experts of a layer share, added to each of them; and copies that a failed step leaves out.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::decoupled::{THREADS, sizes};
use crate::kernels::stack_parts::stack_parts;
use crate::kernels::{Variant, stretch};
use crate::tensor::Tensor;

/// The matrix that a layer's experts share, added to each, four columns at a time.
pub static ADD_SHARED: Kernel =
    Kernel::new("add_shared", wgsl!["lib/pack_four.wgsl", "add_shared.wgsl"]).params::<SharedParams>();

/// As [`ADD_SHARED`], for a number of columns that 4 does not divide.
pub static ADD_SHARED_SCALAR: Kernel =
    Kernel::new("add_shared_scalar", wgsl!["lib/pack_scalar.wgsl", "add_shared.wgsl"])
        .entry("add_shared")
        .params::<SharedParams>();

/// A copy that a failed step leaves out.
pub static ACCEPT: Kernel = Kernel::new("accept", wgsl!["accept.wgsl"]).params::<AcceptParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all: Vec<Variant> = vec![(&ACCEPT).into()];
    for in_place in [("IN_PLACE", 0.0), ("IN_PLACE", 1.0)] {
        for kernel in [&ADD_SHARED, &ADD_SHARED_SCALAR] {
            all.push(Variant { kernel, constants: vec![in_place] });
            all.push(Variant { kernel, constants: [stretch::VARIANT.as_slice(), &[in_place]].concat() });
        }
    }
    all
}

crate::params! {
    struct SharedParams {
        count: u32,
        /// Packs of a matrix.
        size: u32,
        experts: u32,
        own: f32,
        factor: f32,
    }
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
    for range in Parts::new("accept", y.numel()).sliced(y.gpu(), &[1]).ranges()? {
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

/// Records `y = own x + factor shared` for stacks x, y `[layers, experts, m, n]` and `shared: [layers, 1, m, n]`; without `x`
/// it is y itself.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn add_shared(x: Option<&Tensor>, own: f32, factor: f32, shared: &Tensor, y: &Tensor) -> Result<()> {
    let shape = sizes("shared part", y)?;
    let [layers, experts, m, n] = shape;
    if shared.dims() != [layers, 1, m, n] {
        return Err(Error::shape("shared part", format!("[{layers}, 1, {m}, {n}]"), format!("{shared:?}")));
    }
    for part in stack_parts(y.gpu(), "shared part", shape, &[], &[], &[m * n])? {
        let pack = if n.is_multiple_of(4) { 4 } else { 1 };
        let (rows, of_layer) = (part.rows(y)?, part.layer_rows(shared)?);
        let params = SharedParams {
            count: (rows.numel() / pack) as u32,
            size: (part.rows.len() * n / pack) as u32,
            experts: experts as u32,
            own,
            factor,
        };
        let kernel = if pack == 4 { &ADD_SHARED } else { &ADD_SHARED_SCALAR };
        stretch::launch(y.gpu(), kernel, rows.numel() / pack)
            .constant("IN_PLACE", u32::from(x.is_none()))
            .params(&params)
            .read("x", &x.map_or(Ok(of_layer.clone()), |x| part.rows(x))?)
            .read("common_matrix", &of_layer)
            .write("y", &rows)
            .run(y.gpu())?;
        part.store(y, &rows)?;
    }
    Ok(())
}
