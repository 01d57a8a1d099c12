//! Rows grouped by expert, and the products of each group with its expert's matrix.
//!
//! Routed rows lie in one tensor of `capacity` rows. Each expert's rows are contiguous and begin at a multiple of
//! `tile_rows`, so a tile of rows belongs to one expert; which one, only the device knows (`tile_expert`). The rows
//! between an expert's last row and the next tile are zero. Tiles after the last expert hold anything and are skipped.

//!
//! ```text
//! Y[rows of e]  = X[rows of e] op(W[e])                forward; input gradient with op = transpose
//! dW[e]         = X[rows of e]^T dY[rows of e]         weight gradient
//! ```
//!
//! The number of workgroups depends on `capacity` only: nothing is read back. Sums have a fixed order.

use super::chunks::Chunks;
use super::gemm_table;
use super::product::{Choice, Entry, ExpertRows, Form, GroupedParams, Trans, WeightGradientParams};
use super::software::limits;
use super::window::{aligned, alignment, window};
use crate::error::{Error, Result};
use crate::gpu::{Bound, Gpu, KernelParams, Launch, Parts, rows_in_window};
use crate::tensor::{DType, Tensor};

/// Marks, in u32 tensors, a tile without expert or a row without token.
pub const NONE: u32 = u32::MAX;

/// Which rows belong to which expert; made on the device, without readback.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Number of experts *E*.
    pub experts: usize,
    /// Rows that are routed, tokens times the experts of each: all of `counts` together. It decides whether they are few.
    pub rows: usize,
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Rows of the grouped tensors, a multiple of `tile_rows`: enough for every distribution of the routed rows.
    pub capacity: usize,
    /// `u32 [capacity / tile_rows]`: the tile's expert or [`NONE`].
    pub tile_expert: Tensor,
    /// `u32 [E + 1]`: first row of each expert, a multiple of `tile_rows`; the last is the number of rows in use.
    pub offsets: Tensor,
    /// `u32 [E]`: rows of each expert without the padding.
    pub counts: Tensor,
}

impl Groups {
    /// The `capacity` that `rows` routed rows over `experts` experts need.
    pub fn capacity(rows: usize, experts: usize, tile_rows: usize) -> usize {
        let experts = experts.min(rows).max(1);
        (rows + experts * (tile_rows - 1)) / tile_rows * tile_rows
    }
}

/// The `tile_rows` that the grouped products of `gpu` need.
pub fn tile_rows(gpu: &Gpu) -> usize {
    gemm_table::tile_rows(gpu)
}

fn launch<'a, P: KernelParams>(choice: &Choice, params: &'a P) -> Launch<'a> {
    Launch::new(choice.kernel).constants(choice.constants.iter().copied()).params(params)
}

fn mismatch(expected: &str, x: &Tensor, w: &Tensor, groups: &Groups, y: &Tensor) -> Error {
    let Groups { experts, tile_rows, capacity, .. } = groups;
    let got = format!("{x:?}, {w:?}, {y:?} with E {experts}, R {capacity}, tiles of {tile_rows} rows");
    Error::shape("grouped gemm", expected, got)
}

/// Records `Y[rows of e] = X[rows of e] op(W[e])` for every expert e.
///
/// `X: [R, m]`, `W: [E, m, n]`, `Y: [R, n]`; with `trans_w` T instead `X: [R, n]`, `Y: [R, m]`: the input gradient. The padding
/// rows of X, between an expert's last and the next tile, must be zero; those of Y become so. Rows of tiles without expert are left as they are.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit, or when four rows of one matrix or a tile of rows exceed a binding.
pub fn grouped_gemm(x: &Tensor, w: &Tensor, trans_w: Trans, groups: &Groups, y: &Tensor) -> Result<()> {
    grouped_gemm_onto(x, w, trans_w, groups, 0.0, y)
}

/// Records `Y[rows of e] = X[rows of e] op(W[e]) + beta Y[rows of e]`: [`grouped_gemm`] on top of what Y holds. Where
/// `beta` is 0, Y's content does not matter.
///
/// # Errors
/// [`Error::Shape`] as [`grouped_gemm`].
pub fn grouped_gemm_onto(x: &Tensor, w: &Tensor, trans_w: Trans, groups: &Groups, beta: f32, y: &Tensor) -> Result<()> {
    let gpu = y.gpu();
    let (&[rows, k], &[experts, wm, wn], &[y_rows, n]) = (x.dims(), w.dims(), y.dims()) else {
        return Err(mismatch("X [R, m], W [E, m, n], Y [R, n]", x, w, groups, y));
    };
    let (wk, w_columns) = if trans_w == Trans::N { (wm, wn) } else { (wn, wm) };
    let tile = groups.tile_rows;
    let fits = rows == groups.capacity && y_rows == rows && experts == groups.experts && rows.is_multiple_of(tile);
    if !fits || wk != k || w_columns != n || !tile.is_multiple_of(tile_rows(gpu)) {
        return Err(mismatch("X [R, m], op(W) [E, m, n], Y [R, n]", x, w, groups, y));
    }
    if rows * n == 0 {
        return Ok(());
    }
    if k == 0 {
        return Err(mismatch("an inner dimension of at least 1", x, w, groups, y));
    }
    if w.dtype() == DType::Bf16 && !(aligned(x, k) && aligned(w, wn)) {
        return Err(mismatch("X and bf16 W in rows of multiples of 4 elements", x, w, groups, y));
    }
    let expert_limit = rows_in_window(gpu, experts, wm * wn);
    // The stored rows of a matrix that does not fit a binding are steps of K, or columns of Y.
    let mut stored_limit = if expert_limit == 0 { rows_in_window(gpu, wm, wn) } else { wm };
    let longest = limits::steps(gpu);
    if trans_w == Trans::N {
        stored_limit = stored_limit.min(longest);
    } else if k > longest {
        let expected = format!("an inner dimension of at most {longest} on this adapter");
        return Err(mismatch(&expected, x, w, groups, y));
    }
    let row_parts = Parts::new("grouped gemm", rows).in_windows(gpu, &[k, n]).multiples_of(tile).ranges()?;
    let few = gemm_table::is_few_routed(gpu, groups.rows) && row_parts.clone().count() == 1;
    for r in row_parts {
        let (wx, wy) = (window(x, r.start * k..r.end * k), window(y, r.start * n..r.end * n));
        let tiles = window(&groups.tile_expert, r.start / tile..r.end / tile);
        for e in Parts::new("grouped gemm", experts).at_most(expert_limit.max(1)).ranges()? {
            for s in Parts::new("grouped gemm", wm).at_most(stored_limit).multiples_of(4).ranges()? {
                let (steps, columns) = if trans_w == Trans::N { (s.clone(), 0..n) } else { (0..k, s.clone()) };
                let ww = window(w, (e.start * wm + s.start) * wn..((e.end - 1) * wm + s.end) * wn);
                let form = Form {
                    m: r.len(),
                    n: columns.len(),
                    k: steps.len(),
                    ta: Trans::N,
                    tb: trans_w,
                    alignment_a: alignment(wx.first + steps.start as u32, k),
                    alignment_b: alignment(ww.first, wn),
                    alignment_c: alignment(wy.first + columns.start as u32, n),
                    read_c: beta != 0.0 || steps.start > 0,
                    half: [x, w].map(|t| t.dtype() == DType::F16),
                    bf16: w.dtype() == DType::Bf16,
                    fixed_rows: true,
                    few,
                    batch: 1,
                    experts: e.len(),
                    rows: r.len(),
                    splits: false,
                };
                let choice = gemm_table::choose(gpu, Entry::Grouped, form);
                let params = GroupedParams {
                    rows: r.len() as u32,
                    n: columns.len() as u32,
                    k: steps.len() as u32,
                    a_first: wx.first + steps.start as u32,
                    b_first: ww.first,
                    c_first: wy.first + columns.start as u32,
                    a_stride: k as u32,
                    b_stride: wn as u32,
                    c_stride: n as u32,
                    b_matrix: (wm * wn) as u32,
                    expert_first: e.start as u32,
                    experts: e.len() as u32,
                    tile_first: tiles.first,
                    tile_rows: tile as u32,
                    beta: if steps.start == 0 { beta } else { 1.0 },
                };
                let launch = launch(&choice, &params)
                    .read("a", wx.slice.clone())
                    .read("b", ww.slice)
                    .write("c", wy.slice.clone())
                    .read("tile_expert", tiles.slice.clone())
                    .workgroups(choice.workgroups);
                if few {
                    launch.read("offsets", &groups.offsets).read("counts", &groups.counts).run(gpu)?;
                } else {
                    launch.run(gpu)?;
                }
            }
        }
    }
    Ok(())
}

/// Records `dW[e] = X[rows of e]^T dY[rows of e] + beta dW[e]` for every expert e; where `beta` is 0, dW's content does
/// not matter and an expert without rows gets exactly zero.
///
/// `X: [R, m]`, `dY: [R, n]`, `dW: [E, m, n]`. Padding rows must be zero in X or finite there and zero in dY.
///
/// # Errors
/// [`Error::Shape`] as [`grouped_gemm`].
pub fn grouped_weight_gradient(x: &Tensor, dy: &Tensor, groups: &Groups, beta: f32, dw: &Tensor) -> Result<()> {
    let gpu = dw.gpu();
    let (&[rows, m], &[dy_rows, n], &[experts, dw_m, dw_n]) = (x.dims(), dy.dims(), dw.dims()) else {
        return Err(mismatch("X [R, m], dW [E, m, n], dY [R, n]", x, dw, groups, dy));
    };
    let fits = rows == groups.capacity && dy_rows == rows && experts == groups.experts;
    if !fits || (dw_m, dw_n) != (m, n) || !groups.tile_rows.is_multiple_of(4) {
        return Err(mismatch("X [R, m], dW [E, m, n], dY [R, n]", x, dw, groups, dy));
    }
    if experts * m * n == 0 {
        return Ok(());
    }
    let row_parts = Parts::new("grouped gemm", rows).in_windows(gpu, &[m, n]).at_most(limits::gradient_rows(gpu));
    let expert_limit = rows_in_window(gpu, experts, m * n);
    let stored_limit = if expert_limit == 0 { rows_in_window(gpu, m, n) } else { m };
    for e in Parts::new("grouped gemm", experts).at_most(expert_limit.max(1)).ranges()? {
        let offsets = window(&groups.offsets, 0..experts + 1);
        for s in Parts::new("grouped gemm", m).at_most(stored_limit).multiples_of(4).ranges()? {
            let wc = window(dw, (e.start * m + s.start) * n..((e.end - 1) * m + s.end) * n);
            for r in row_parts.multiples_of(groups.tile_rows).ranges()? {
                let wx = window(x, r.start * m..r.end * m);
                let wy = window(dy, r.start * n..r.end * n);
                let form = Form {
                    m: s.len(),
                    n,
                    k: groups.tile_rows,
                    ta: Trans::T,
                    tb: Trans::N,
                    alignment_a: alignment(wx.first + s.start as u32, m),
                    alignment_b: alignment(wy.first, n),
                    alignment_c: alignment(wc.first, n),
                    // Parts of the rows are added.
                    read_c: true,
                    half: [x, dy].map(|t| t.dtype() == DType::F16),
                    bf16: false,
                    fixed_rows: true,
                    few: false,
                    batch: e.len(),
                    experts: e.len(),
                    rows: r.len(),
                    splits: false,
                };
                let choice = gemm_table::choose(gpu, Entry::WeightGradient, form);
                let chunks = Chunks::new(gpu, r.len(), groups.tile_rows, choice.workgroups, s.len() * n);
                let params = WeightGradientParams {
                    m: s.len() as u32,
                    n: n as u32,
                    of: ExpertRows {
                        rows: r.len() as u32,
                        row_first: r.start as u32,
                        expert_first: e.start as u32,
                        experts: e.len() as u32,
                        chunk_rows: chunks.map_or(0, |chunks| chunks.rows as u32),
                        slots: chunks.map_or(0, |chunks| chunks.slots as u32),
                    },
                    a_first: wx.first + s.start as u32,
                    b_first: wy.first,
                    c_first: wc.first,
                    a_stride: m as u32,
                    b_stride: n as u32,
                    c_stride: n as u32,
                    c_matrix: (m * n) as u32,
                    beta: if r.start == 0 { beta } else { 1.0 },
                };
                let gradients = |params, c: &Bound, matrices: usize| {
                    launch(&choice, params)
                        .read("a", wx.slice.clone())
                        .read("b", wy.slice.clone())
                        .write("c", c.clone())
                        .read("offsets", offsets.slice.clone())
                        .workgroups(choice.workgroups * matrices)
                };
                gradients(&params, &wc.slice, e.len()).run(gpu)?;
                if let Some(chunks) = chunks {
                    let parts = Tensor::empty_f32(gpu, [chunks.slots, s.len(), n])?;
                    let in_slots = chunks.in_slots(&params);
                    gradients(&in_slots, &(&parts).into(), chunks.slots).constant("SLOTS", 1.0).run(gpu)?;
                    chunks.add(gpu, &params, &parts, offsets.slice.clone(), wc.slice.clone())?;
                }
            }
        }
    }
    Ok(())
}
