//! Tall-skinny QR: `Y = Q R` with `Y, Q: [m, l]`, `R: [l, l]`, batched.
//!
//! Householder reflections within blocks of rows, and the same again for the stacked R factors (TSQR: Demmel, Grigori,
//! Hoemmen, Langou, "Communication-optimal parallel and sequential QR and LU factorizations", SISC 2012). Chosen over
//! CholeskyQR because a product of reflections is orthonormal to a few eps for every input: in f32 a Gram matrix loses
//! all digits of a sketch with condition 4e3, and zero or dependent columns would need a case of their own. Columns are
//! scaled by their largest element, so inputs may lie anywhere between 1e-37 and 1e36.
//!
//! Must not be used with more than [`MAX_COLUMNS`] columns or fewer rows than columns.

use super::{MAX_COLUMNS, stack};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, Tier, rows_in_window, wgsl};
use crate::tensor::Tensor;

/// QR of blocks of rows, one workgroup a block.
pub static HOUSEHOLDER: Kernel = Kernel::new("householder", wgsl!["householder.wgsl"]).params::<QrParams>();
/// The blocks' Q times the Q of their stacked R.
pub static TSQR_APPLY: Kernel = Kernel::new("tsqr_apply", wgsl!["tsqr_apply.wgsl"]).params::<QrParams>();

crate::params! {
    struct QrParams { rows: u32, columns: u32, block_rows: u32, blocks: u32, batch: u32 }
}

/// Override constants of [`HOUSEHOLDER`]: vec4s of a row, threads, shares of the sum over threads. A software adapter
/// runs the threads one after the other and suspends them at barriers, so it gets one subgroup, or more where a thread
/// would make too many loop iterations (llvmpipe of Mesa 22 leaves all loops of an invocation after 65535 in total; 511
/// rows of 64 columns need 33,000 in 32 threads). A GPU gets what 12 KiB of workgroup memory hold sums for.
pub(crate) fn geometry(tier: Tier, columns: usize) -> Vec<(&'static str, f64)> {
    let width = columns.div_ceil(4);
    let threads = match tier {
        Tier::Software => (2 * width).next_power_of_two().max(8),
        Tier::Gpu | Tier::Plain => [128, 64, 32].into_iter().find(|t| t * width <= 768).unwrap_or(32),
    };
    let parts = (threads / width.next_power_of_two()).clamp(1, 8);
    vec![("G", width as f64), ("WG", threads as f64), ("PARTS", parts as f64)]
}

/// Rows of a block: at least `4 l`, so that each level of the tree is a quarter of the one below; a multiple of 256, so
/// that blocks start aligned in any buffer.
fn block_rows(columns: usize) -> usize {
    (4 * columns).next_multiple_of(256)
}

/// An orthonormal basis of the columns of `y: [B, m, l]` (or `[m, l]`), with `l <= m`, `l <= 64`: the Q of [`qr`].
/// Where the columns span less than l dimensions the rest of Q is any orthonormal complement.
///
/// # Errors
/// [`Error::Shape`] for `m < l` or `l > 64`; [`Error::Device`].
pub fn orthonormalize(y: &Tensor) -> Result<Tensor> {
    Ok(qr(y)?.0)
}

/// `y = Q R`: `Q: [B, m, l]` orthonormal, `R: [B, l, l]` upper triangular, its diagonal not negative.
///
/// # Errors
/// As [`orthonormalize`].
pub fn qr(y: &Tensor) -> Result<(Tensor, Tensor)> {
    let [batch, rows, columns] = stack("qr", y)?;
    if columns > MAX_COLUMNS || rows < columns {
        let expected = format!("[B, m, l] with l <= m and l <= {MAX_COLUMNS}");
        return Err(Error::shape("qr", expected, format!("{y:?}")));
    }
    let r_shape = if y.dims().len() == 2 { vec![columns, columns] } else { vec![batch, columns, columns] };
    if y.numel() == 0 {
        return Ok((Tensor::empty_f32(y.gpu(), y.shape())?, Tensor::zeros(y.gpu(), &r_shape)?));
    }
    let (q, r) = factor(&y.reshape([batch, rows, columns])?)?;
    Ok((q.reshape(y.shape())?, r.reshape(&r_shape)?))
}

fn factor(y: &Tensor) -> Result<(Tensor, Tensor)> {
    let [batch, rows, columns] = stack("qr", y)?;
    let gpu = y.gpu();
    if batch > 1 && padded_bytes(batch * rows, columns) > gpu.max_binding_bytes() {
        return in_parts(y);
    }
    let block_rows = block_rows(columns);
    let blocks = (rows / block_rows).max(1);
    let local_q = Tensor::empty_f32(gpu, y.shape())?;
    let stacked = Tensor::empty_f32(gpu, [batch, blocks * columns, columns])?;
    factor_blocks(y, &local_q, &stacked, block_rows, blocks)?;
    if blocks == 1 {
        return Ok((local_q, stacked));
    }
    let (top_q, r) = factor(&stacked)?;
    let q = Tensor::empty_f32(gpu, y.shape())?;
    for_block_ranges(y, block_rows, blocks, |range, range_blocks| {
        let mut part_q = slice_rows(&top_q, range_blocks.start * columns..range_blocks.end * columns)?;
        if range_blocks.len() < blocks {
            // A copy starts aligned, a slice may not.
            part_q = part_q.duplicate()?;
        }
        let params = QrParams {
            rows: range.len() as u32,
            columns: columns as u32,
            block_rows: block_rows as u32,
            blocks: range_blocks.len() as u32,
            batch: batch as u32,
        };
        Launch::new(&TSQR_APPLY)
            .params(&params)
            .read("local_q", &slice_rows(&local_q, range.clone())?)
            .read("top_q", &part_q)
            .write("q", &slice_rows(&q, range.clone())?)
            .threads(batch * range.len() * columns, 64)
            .run(gpu)
    })?;
    Ok((q, r))
}

/// The blocks' own factors: `q: [B, m, l]`, `r: [B, blocks * l, l]`.
fn factor_blocks(y: &Tensor, q: &Tensor, r: &Tensor, block_rows: usize, blocks: usize) -> Result<()> {
    let [batch, rows, columns] = stack("qr", y)?;
    let gpu = y.gpu();
    let padded = columns.next_multiple_of(4);
    let (a, b) = (Tensor::empty_f32(gpu, [batch, rows, padded])?, Tensor::empty_f32(gpu, [batch, rows, padded])?);
    for_block_ranges(y, block_rows, blocks, |range, range_blocks| {
        let whole = range_blocks.len() == blocks;
        let own_r = if whole { r.clone() } else { Tensor::empty_f32(gpu, [range_blocks.len() * columns, columns])? };
        let params = QrParams {
            rows: range.len() as u32,
            columns: columns as u32,
            block_rows: block_rows as u32,
            blocks: range_blocks.len() as u32,
            batch: batch as u32,
        };
        Launch::new(&HOUSEHOLDER)
            .constants(geometry(gpu.tier(), columns))
            .params(&params)
            .read("y", &slice_rows(y, range.clone())?)
            .write("a", &slice_rows(&a, range.clone())?)
            .write("b", &slice_rows(&b, range.clone())?)
            .write("q", &slice_rows(q, range)?)
            .write("r", &own_r)
            .workgroups(batch * range_blocks.len())
            .run(gpu)?;
        if whole {
            return Ok(());
        }
        slice_rows(r, range_blocks.start * columns..range_blocks.end * columns)?.copy_from(&own_r)
    })
}

/// Bytes of rows in the kernel's scratch, its largest bindings.
fn padded_bytes(rows: usize, columns: usize) -> u64 {
    (rows * columns.next_multiple_of(4) * 4) as u64
}

type Rows = std::ops::Range<usize>;

/// Calls `f(rows, blocks)` once for everything, or, where a single matrix exceeds a binding, for groups of blocks.
fn for_block_ranges(
    y: &Tensor,
    block_rows: usize,
    blocks: usize,
    mut f: impl FnMut(Rows, Rows) -> Result<()>,
) -> Result<()> {
    let [_, rows, columns] = stack("qr", y)?;
    let limit = y.gpu().max_binding_bytes();
    if padded_bytes(y.rows(), columns) <= limit {
        return f(0..rows, 0..blocks);
    }
    // The last block can have nearly twice the rows: room for one more.
    let bytes = padded_bytes(block_rows, columns);
    let group = (limit / bytes).saturating_sub(1) as usize;
    if group == 0 {
        let expected = format!("two blocks of {bytes} bytes within a binding of {limit}");
        return Err(Error::shape("qr", expected, format!("{y:?}")));
    }
    for first in (0..blocks).step_by(group) {
        let last = (first + group).min(blocks);
        let end = if last == blocks { rows } else { last * block_rows };
        f(first * block_rows..end, first..last)?;
    }
    Ok(())
}

/// Rows of the only matrix of a stack, or the whole stack.
fn slice_rows(x: &Tensor, range: Rows) -> Result<Tensor> {
    let [_, rows, columns] = stack("qr", x)?;
    if range.len() == rows { Ok(x.clone()) } else { x.reshape([rows, columns])?.slice(range) }
}

/// A batch that exceeds a binding, in parts.
fn in_parts(y: &Tensor) -> Result<(Tensor, Tensor)> {
    let [batch, rows, columns] = stack("qr", y)?;
    let q = Tensor::empty_f32(y.gpu(), y.shape())?;
    let r = Tensor::empty_f32(y.gpu(), [batch, columns, columns])?;
    for range in Parts::new("qr", batch)
        .at_most(rows_in_window(y.gpu(), batch, rows * columns.next_multiple_of(4)).max(1))
        .ranges()?
    {
        // A copy starts aligned, a slice may not.
        let (own_q, own_r) = factor(&y.slice(range.clone())?.duplicate()?)?;
        q.slice(range.clone())?.copy_from(&own_q)?;
        r.slice(range)?.copy_from(&own_r)?;
    }
    Ok((q, r))
}
