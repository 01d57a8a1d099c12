//! Sums and fills of whole tensors.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch};
use crate::kernels::Variant;
use crate::tensor::{Tensor, row_chunks};

const SOURCES: &[&str] = &[include_str!("../../shaders/lib/grid.wgsl"), include_str!("../../shaders/elementwise.wgsl")];
/// Threads of a workgroup: a multiple of every subgroup size in use.
const THREADS: u32 = 64;

/// `y = alpha x + beta y`.
pub static AXPBY: Kernel = Kernel { name: "axpby", sources: SOURCES, entry: "axpby", constants: &[] };
/// `y = alpha`.
pub static FILL: Kernel = Kernel { name: "fill", sources: SOURCES, entry: "fill", constants: &[] };

crate::params! {
    struct ElementwiseParams { count: u32, alpha: f32, beta: f32 }
}

/// Records `y = alpha x + beta y`.
///
/// # Errors
/// [`Error::Shape`] when the numbers of elements differ.
pub fn axpby(alpha: f32, x: &Tensor, beta: f32, y: &Tensor) -> Result<()> {
    if x.numel() != y.numel() {
        return Err(Error::shape("axpby", format!("{y:?}"), format!("{x:?}")));
    }
    let (x, y) = (x.reshape([x.numel()])?, y.reshape([y.numel()])?);
    for range in row_chunks(y.gpu(), "axpby", y.numel(), &[1])? {
        let params = ElementwiseParams { count: range.len() as u32, alpha, beta };
        Launch::new(&AXPBY)
            .params(&params)
            .read("x", &x.slice(range.clone())?)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len().div_ceil(4), THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// Records `sum += x`.
///
/// # Errors
/// [`Error::Shape`] when the numbers of elements differ.
pub fn add_into(sum: &Tensor, x: &Tensor) -> Result<()> {
    axpby(1.0, x, 1.0, sum)
}

/// Records `y = value`.
///
/// # Errors
/// [`Error::Device`].
pub fn fill(y: &Tensor, value: f32) -> Result<()> {
    let y = y.reshape([y.numel()])?;
    for range in row_chunks(y.gpu(), "fill", y.numel(), &[1])? {
        let params = ElementwiseParams { count: range.len() as u32, alpha: value, beta: 0.0 };
        Launch::new(&FILL)
            .params(&params)
            .write("y", &y.slice(range.clone())?)
            .threads(range.len().div_ceil(4), THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}

/// This file's kernels.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 2] = [&AXPBY, &FILL];
    all.into_iter().map(Variant::from).collect()
}
