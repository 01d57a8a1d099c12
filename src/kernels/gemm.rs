//! Matrix products: `C = alpha op(A) op(B) + beta C`, batched.
//!
//! Which kernel computes it is decided by [`super::gemm_table`]. Matrices beyond a binding are cut: C by rows, an
//! operand by the rows it is stored in, which are rows or columns of C or steps of K; sums over parts of K are added in
//! order, so the result does not depend on the device's timing.

use super::gemm_table;
pub use super::product::Trans;
use super::product::{Entry, GemmParams, Operand, Part, Product, SumPartsParams};
use super::software::{self, limits};
use super::window::aligned;
use crate::error::{Error, Result};
use crate::gpu::{Launch, rows_in_window};
use crate::tensor::{DType, Tensor};

/// Records `C = alpha op(A) op(B) + beta C`; where `beta` is 0, C's content does not matter.
///
/// `op(A): [.., M, K]`, `op(B): [.., K, N]`, `C: [.., M, N]`. Leading dimensions are a batch; an operand may have fewer
/// matrices than C, if C's number is a multiple of its number: each is then used for that many in a row (so `U: [L, m, k]`
/// meets `G: [L, E, m, n]`, and a single matrix meets all). C must share no element with A or B.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit, or when four rows of a matrix exceed a binding.
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
    if k == 0 {
        return Err(Error::shape("gemm", "an inner dimension of at least 1", format!("{a:?}, {b:?}")));
    }
    if b.dtype() == DType::Bf16 && !(ta == Trans::N && aligned(a, k) && aligned(b, b.cols())) {
        let expected = "A as stored and bf16 B, both in rows of multiples of 4 elements";
        return Err(Error::shape("gemm", expected, format!("{ta:?} {a:?}, {b:?}")));
    }
    let a = Operand { tensor: a, matrix: m * k, stride: if ta == Trans::N { k } else { m }, repeat: batch / a_batch };
    let b = Operand { tensor: b, matrix: k * n, stride: if tb == Trans::N { n } else { k }, repeat: batch / b_batch };
    let c = Operand { tensor: c, matrix: m * n, stride: n, repeat: 1 };
    let product = Product { m, n, k, ta, tb, a, b, c, alpha, beta };
    if software::product::dense(&product, batch, launch)? {
        return Ok(());
    }
    let longest = k.min(limits::steps(c.tensor.gpu()));
    product.parts(batch, |_| longest, |part| launch(&product, part))
}

/// Parts of the sums over K, at most.
const MOST_SPLITS: usize = 32;
/// Threads of a workgroup of `gemm/sum_parts.wgsl`, as `WG` there.
const SUM_THREADS: u32 = 64;

/// Rows, columns and number of the matrices `op(X)` of a stack.
fn stack(x: &Tensor, trans: Trans) -> Result<(usize, usize, usize)> {
    let [outer @ .., rows, columns] = x.dims() else {
        return Err(Error::shape("gemm", "matrices", format!("{x:?}")));
    };
    let batch = outer.iter().product();
    Ok(if trans == Trans::N { (*rows, *columns, batch) } else { (*columns, *rows, batch) })
}

/// Launches a part of a product, what C has of it.
fn launch(product: &Product<'_>, part: Part) -> Result<()> {
    let part = Part { m: part.c_rows, n: part.c_columns, ..part };
    let Product { a, b, c, alpha, .. } = *product;
    let (gpu, m, n, k, batch) = (product.gpu(), part.m, part.n, part.k, part.batch);
    // The numbers of the parts' elements are u32, and they fit a binding.
    let splits = rows_in_window(gpu, MOST_SPLITS * batch * m, n) == MOST_SPLITS * batch * m;
    let form = product.form(&part, splits, gemm_table::is_few(gpu, m, product.ta));
    let choice = gemm_table::choose(gpu, Entry::Dense, form);
    let split_steps = k.div_ceil(choice.splits.min(MOST_SPLITS)).next_multiple_of(choice.steps);
    let splits = k.div_ceil(split_steps);
    let params = GemmParams {
        m: m as u32,
        n: n as u32,
        k: k as u32,
        a_first: part.a.first,
        b_first: part.b.first,
        c_first: part.c.first,
        a_stride: a.stride as u32,
        b_stride: b.stride as u32,
        c_stride: c.stride as u32,
        batch: batch as u32,
        batch_first: part.batch_first as u32,
        a_repeat: a.repeat as u32,
        b_repeat: b.repeat as u32,
        a_matrix: a.matrix as u32,
        b_matrix: b.matrix as u32,
        c_matrix: c.matrix as u32,
        splits: 1,
        split_steps: k as u32,
        alpha,
        beta: part.beta,
    };
    let launch = Launch::new(choice.kernel).constants(choice.constants);
    let launch = launch.read("a", part.a.slice).read("b", part.b.slice).workgroups(choice.workgroups * batch * splits);
    if splits == 1 {
        return launch.params(&params).write("c", part.c.slice).run(gpu);
    }
    let parts = Tensor::empty(gpu, [batch * splits, m, n], DType::F32)?;
    let own = GemmParams {
        c_first: 0,
        c_stride: params.n,
        c_matrix: params.m * params.n,
        splits: splits as u32,
        split_steps: split_steps as u32,
        alpha: 1.0,
        beta: 0.0,
        ..params
    };
    launch.constant("SPLIT", 1.0).params(&own).write("c", &parts).run(gpu)?;
    let sum = SumPartsParams {
        m: params.m,
        n: params.n,
        batch: params.batch,
        splits: splits as u32,
        c_first: params.c_first,
        c_stride: params.c_stride,
        c_matrix: params.c_matrix,
        alpha: params.alpha,
        beta: params.beta,
    };
    Launch::new(gemm_table::sum_parts(form.alignment_c >= 4 && n.is_multiple_of(4)))
        .params(&sum)
        .read("parts", &parts)
        .write("c", part.c.slice)
        .threads(batch * m * n.div_ceil(4), SUM_THREADS)
        .run(gpu)
}
