//! Matrix products: `C = alpha op(A) op(B) + beta C`, batched.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch};
use crate::kernels::Variant;
use crate::tensor::Tensor;

/// Whether an operand is used transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trans {
    /// As stored.
    N,
    /// Transposed.
    T,
}

/// One output a thread.
pub static GEMM_PLAIN: Kernel = Kernel {
    name: "gemm_plain",
    sources: &[include_str!("../../shaders/lib/grid.wgsl"), include_str!("../../shaders/gemm_plain.wgsl")],
    entry: "gemm_plain",
    constants: &[],
};

crate::params! {
    struct GemmParams {
        m: u32,
        n: u32,
        k: u32,
        batch: u32,
        a_repeat: u32,
        b_repeat: u32,
        a_transposed: u32,
        b_transposed: u32,
        alpha: f32,
        beta: f32,
    }
}

/// Records `C = alpha op(A) op(B) + beta C`; where `beta` is 0, C's content does not matter.
///
/// `op(A): [.., M, K]`, `op(B): [.., K, N]`, `C: [.., M, N]`. Leading dimensions are a batch; an operand may have fewer
/// matrices than C, if C's number is a multiple of its number: each is then used for that many in a row (so `U: [L, m, k]`
/// meets `G: [L, E, m, n]`, and a single matrix meets all).
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit.
pub fn gemm(ta: Trans, tb: Trans, alpha: f32, a: &Tensor, b: &Tensor, beta: f32, c: &Tensor) -> Result<()> {
    let (m, k, a_batch) = stack(a, ta)?;
    let (kb, n, b_batch) = stack(b, tb)?;
    let (cm, cn, batch) = stack(c, Trans::N)?;
    if k != kb || m != cm || n != cn || batch % a_batch.max(1) != 0 || batch % b_batch.max(1) != 0 {
        let expected = "op(A) [.., M, K], op(B) [.., K, N], C [.., M, N]";
        return Err(Error::shape("gemm", expected, format!("{ta:?} {a:?}, {tb:?} {b:?}, {c:?}")));
    }
    if batch * m * n == 0 {
        return Ok(());
    }
    let params = GemmParams {
        m: m as u32,
        n: n as u32,
        k: k as u32,
        batch: batch as u32,
        a_repeat: (batch / a_batch) as u32,
        b_repeat: (batch / b_batch) as u32,
        a_transposed: u32::from(ta == Trans::T),
        b_transposed: u32::from(tb == Trans::T),
        alpha,
        beta,
    };
    Launch::new(&GEMM_PLAIN)
        .params(&params)
        .read("a", a)
        .read("b", b)
        .write("c", c)
        .threads(batch * m * n, 64)
        .run(c.gpu())
}

/// Rows, columns and number of the matrices `op(X)` of a stack.
fn stack(x: &Tensor, trans: Trans) -> Result<(usize, usize, usize)> {
    let [outer @ .., rows, columns] = x.dims() else {
        return Err(Error::shape("gemm", "matrices", format!("{x:?}")));
    };
    let batch = outer.iter().product();
    Ok(if trans == Trans::N { (*rows, *columns, batch) } else { (*columns, *rows, batch) })
}

/// This file's kernels.
pub fn kernels() -> Vec<Variant> {
    let all: [&'static Kernel; 1] = [&GEMM_PLAIN];
    all.into_iter().map(Variant::from).collect()
}
