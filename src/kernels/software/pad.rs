//! Copies of matrices whose rows have any length, padded with zeros to fours of rows and eights of columns.
//!
//! On software adapters four scalar loads cost twice as much as a vec4 load, in the innermost loop of a product. The copy
//! costs 8 bytes an element once; the product loads each element for every tile of the other side.

use super::loads;
use crate::error::Result;
use crate::gpu::{Kernel, Launch, wgsl};
use crate::kernels::Variant;
use crate::kernels::window::window;
use crate::tensor::Tensor;

/// Copies matrices into padded ones.
pub static PAD: Kernel = Kernel::new("pad", wgsl!["lib/pack_vec4.wgsl", "software/pad.wgsl"]).params::<PadParams>();

/// As [`PAD`], bound as u64.
pub static PAD_U64: Kernel =
    Kernel::new("pad_u64", wgsl!["software/pack_u64.wgsl", "software/pad.wgsl"]).entry("pad").params::<PadParams>();

/// Threads of a workgroup, as `WG` in the shader.
const THREADS: u32 = 64;
/// Fours of a row that a thread copies, at most: enough that what is done once for each does not count, few enough that
/// all cores have threads.
const PIECE: usize = 64;

crate::params! {
    struct PadParams {
        matrices: u32,
        rows: u32,
        columns: u32,
        /// Element of the binding at which the first matrix begins.
        first: u32,
        /// Fours of a row that a thread copies.
        piece: u32,
    }
}

/// Rows and columns of the copy of a matrix of `rows` x `columns`.
pub(super) fn size(rows: usize, columns: usize) -> (usize, usize) {
    (rows.next_multiple_of(4), columns.next_multiple_of(8))
}

/// Whether copies pay for `batch` products of m x k by k x n. Measured: products of 255 x 2049 x 253 gain a fifth (NN, TN) or
/// nothing (NT), of 191 x 2049 x 189 0 to 8 %, of 129 x 4097 x 131 copies cost a third of the time; 255 x 257 x 253 gains 5 %,
/// or loses 3 % (NT), and below the two launches cost more.
pub(super) fn pays(batch: usize, m: usize, n: usize, k: usize) -> bool {
    m * n >= 96 * (m + n) && batch * m * n * k >= 1 << 23
}

/// Whether `matrices` matrices of `rows` x `columns` can be copied: they and the copy fit a binding.
pub(super) fn fits(x: &Tensor, matrices: usize, rows: usize, columns: usize) -> bool {
    let (padded_rows, padded_columns) = size(rows, columns);
    let elements = matrices * padded_rows * padded_columns;
    let limit = x.gpu().max_binding_bytes().saturating_sub(x.gpu().offset_alignment() + 16);
    elements as u64 * 4 <= limit && end_of_quads(x, matrices * rows * columns).is_some()
}

/// The size of a binding of the first `elements` of `x` that ends with a whole vec4, if the buffer has that much.
fn end_of_quads(x: &Tensor, elements: usize) -> Option<u64> {
    let slice = window(x, 0..elements).slice.slice;
    let size = slice.size.next_multiple_of(4 * x.dtype().bytes() as u64);
    (slice.offset + size <= slice.buffer.raw().size()).then_some(size)
}

/// Records the copy of `matrices` matrices of `rows` x `columns` in `x`, in rows up to a multiple of 4 and columns up to one of 8.
pub(super) fn padded(x: &Tensor, matrices: usize, rows: usize, columns: usize) -> Result<Tensor> {
    let gpu = x.gpu();
    let (padded_rows, padded_columns) = size(rows, columns);
    let copy = Tensor::empty(gpu, [matrices, padded_rows, padded_columns], x.dtype())?;
    let mut source = window(x, 0..matrices * rows * columns);
    let bound = &mut source.slice.slice;
    bound.size = end_of_quads(x, matrices * rows * columns).unwrap_or(bound.size);
    let quads = padded_columns / 4;
    let pieces = quads.div_ceil(PIECE);
    let params = PadParams {
        matrices: matrices as u32,
        rows: rows as u32,
        columns: columns as u32,
        first: source.first,
        piece: quads.div_ceil(pieces) as u32,
    };
    Launch::new(&PAD)
        .instead_where(loads::as_u64, &PAD_U64)
        .params(&params)
        .read("x", source.slice)
        .write("padded", &copy)
        .threads(matrices * padded_rows * pieces, THREADS)
        .run(gpu)?;
    Ok(copy)
}

/// This file's kernels.
pub(super) fn kernels() -> Vec<Variant> {
    [&PAD, &PAD_U64].map(Variant::from).into()
}
