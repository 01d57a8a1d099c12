//! Matrix products: `C = alpha op(A) op(B) + beta C`, batched.
//!
//! Which kernel computes it is decided by [`super::gemm_table`]. Matrices beyond a binding are cut: C by rows, an
//! operand by the rows it is stored in, which are rows or columns of C or steps of K; sums over parts of K are added in
//! order, so the result does not depend on the device's timing.

use super::gemm_table::{self, DENSE, Form};
use super::software::pad;
use super::window::{Window, aligned, alignment, chunks, rows_that_fit, window};
use crate::error::{Error, Result};
use crate::gpu::{Bound, Gpu, Launch};
use crate::tensor::{DType, Tensor};

/// Whether an operand is used transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trans {
    /// As stored.
    N,
    /// Transposed.
    T,
}

impl Trans {
    /// The other one.
    pub fn flip(self) -> Self {
        if self == Trans::N { Trans::T } else { Trans::N }
    }
}

crate::params! {
    struct GemmParams {
        m: u32,
        n: u32,
        k: u32,
        c_rows: u32,
        c_columns: u32,
        a_first: u32,
        b_first: u32,
        c_first: u32,
        a_stride: u32,
        b_stride: u32,
        c_stride: u32,
        batch: u32,
        batch_first: u32,
        a_repeat: u32,
        b_repeat: u32,
        a_matrix: u32,
        b_matrix: u32,
        c_matrix: u32,
        splits: u32,
        split_steps: u32,
        alpha: f32,
        beta: f32,
    }
}

crate::params! {
    struct SumPartsParams {
        m: u32,
        n: u32,
        batch: u32,
        splits: u32,
        c_first: u32,
        c_stride: u32,
        c_matrix: u32,
        alpha: f32,
        beta: f32,
    }
}

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
    let a = Operand { tensor: a, matrix: m * k, stride: if ta == Trans::N { k } else { m }, repeat: batch / a_batch };
    let b = Operand { tensor: b, matrix: k * n, stride: if tb == Trans::N { n } else { k }, repeat: batch / b_batch };
    let c = Operand { tensor: c, matrix: m * n, stride: n, repeat: 1 };
    let product = Product { m, n, k, c_rows: m, c_columns: n, ta, tb, a, b, c, alpha };
    let [copy_a, copy_b] = product.padded_copies(batch)?;
    let product = product.with_copies(copy_a.as_ref(), copy_b.as_ref());
    // Matrices of the batch at once; where one does not fit, it is cut on its own.
    let limit = [&product.a, &product.b, &product.c].map(|x| x.batch_that_fits(batch)).into_iter().min().unwrap_or(0);
    for z in chunks("gemm", batch, limit.max(1), 1)? {
        product.record(z.start, z.len(), beta, limit == 0)?;
    }
    Ok(())
}

/// Elements of C from which on a launch for each part of K is worth its cost, some 50 microseconds.
const WIDE: usize = 1 << 15;

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

/// Matrices of one size, each used for `repeat` of the batch.
#[derive(Clone, Copy)]
struct Operand<'a> {
    tensor: &'a Tensor,
    matrix: usize,
    stride: usize,
    repeat: usize,
}

impl Operand<'_> {
    fn batch_that_fits(&self, batch: usize) -> usize {
        let own = batch / self.repeat;
        match rows_that_fit(self.tensor.gpu(), own, self.matrix) {
            fit if fit == own => batch,
            // A range of the batch may begin and end within one matrix's repeats.
            fit if self.repeat == 1 || fit < 2 => fit,
            fit => (fit - 1) * self.repeat,
        }
    }

    /// The stored rows `rows` of the matrices for `batch` matrices from `first` on.
    fn window(&self, first: usize, batch: usize, rows: std::ops::Range<usize>) -> Window {
        let (start, end) = (first / self.repeat, (first + batch - 1) / self.repeat);
        window(self.tensor, start * self.matrix + rows.start * self.stride..end * self.matrix + rows.end * self.stride)
    }
}

#[derive(Clone, Copy)]
struct Product<'a> {
    /// Sizes of the operands, which may be padded beyond C's.
    m: usize,
    n: usize,
    k: usize,
    c_rows: usize,
    c_columns: usize,
    ta: Trans,
    tb: Trans,
    a: Operand<'a>,
    b: Operand<'a>,
    c: Operand<'a>,
    alpha: f32,
}

impl<'a> Product<'a> {
    /// Copies of A and B as `pad` makes them, of those that need it, where that pays.
    fn padded_copies(&self, batch: usize) -> Result<[Option<Tensor>; 2]> {
        let Product { m, n, k, ta, tb, a, b, c, .. } = *self;
        let whole = |x: &Operand<'_>| aligned(x.tensor, x.stride);
        // Where a stored row is steps of K, zeros follow its last step, and the other operand needs zeros to meet them.
        let steps = k % 4 != 0 && (ta == Trans::N || tb == Trans::T);
        let (pad_a, pad_b) = (steps || !whole(&a), steps || !whole(&b));
        let fits = |x: &Operand<'_>| pad::fits(x.tensor, batch / x.repeat, x.matrix / x.stride, x.stride);
        if !pad::pays(c.tensor.gpu(), batch, m, n, k) || pad_a && !fits(&a) || pad_b && !fits(&b) {
            return Ok([None, None]);
        }
        let copy = |x: &Operand<'_>| pad::padded(x.tensor, batch / x.repeat, x.matrix / x.stride, x.stride);
        Ok([pad_a.then(|| copy(&a)).transpose()?, pad_b.then(|| copy(&b)).transpose()?])
    }

    /// The product of the padded copies where there are some.
    fn with_copies(self, a: Option<&'a Tensor>, b: Option<&'a Tensor>) -> Self {
        let up = |size: usize, copied: bool, to: usize| if copied { size.next_multiple_of(to) } else { size };
        let operand = |own: Operand<'a>, copy: Option<&'a Tensor>| {
            let Some(tensor) = copy else { return own };
            let (rows, stride) = pad::size(own.matrix / own.stride, own.stride);
            Operand { tensor, matrix: rows * stride, stride, ..own }
        };
        Product {
            m: up(self.m, a.is_some(), 4),
            // Eights of columns are loaded at once, and where these are rows as stored the copy has them.
            n: up(self.n, b.is_some(), if self.tb == Trans::N { 8 } else { 4 }),
            k: up(self.k, a.is_some() && b.is_some(), 4),
            a: operand(self.a, a),
            b: operand(self.b, b),
            ..self
        }
    }

    /// Records the products of `batch` matrices from `first` on; with `cut` in parts that fit a binding.
    fn record(&self, first: usize, batch: usize, beta: f32, cut: bool) -> Result<()> {
        let Product { m, n, k, c_rows, c_columns, ta, tb, a, b, c, alpha } = *self;
        let gpu = c.tensor.gpu();
        let (mut m_limit, mut n_limit, mut k_limit) = (m, n, k.min(gemm_table::longest(gpu)));
        // In f16 each part would round C anew.
        if tb == Trans::N && batch * m * n >= WIDE && c.tensor.dtype() == DType::F32 {
            k_limit = k_limit.min(gemm_table::steps_at_once(gpu, m, n, k));
        }
        if cut {
            let fit = |x: &Operand<'_>| rows_that_fit(gpu, x.matrix / x.stride, x.stride);
            m_limit = fit(&c);
            match ta {
                Trans::N => m_limit = m_limit.min(fit(&a)),
                Trans::T => k_limit = k_limit.min(fit(&a)),
            }
            match tb {
                Trans::N => k_limit = k_limit.min(fit(&b)),
                Trans::T => n_limit = n_limit.min(fit(&b)),
            }
        }
        // Parts begin at multiples of 4, so that their rows stay aligned.
        let (ms, ns, ks) =
            (chunks("gemm", m, m_limit, 4)?, chunks("gemm", n, n_limit, 4)?, chunks("gemm", k, k_limit, 4)?);
        for rows in ms {
            for columns in ns.clone() {
                for steps in ks.clone() {
                    let (a_rows, a_column) =
                        if ta == Trans::N { (rows.clone(), steps.start) } else { (steps.clone(), rows.start) };
                    let (b_rows, b_column) =
                        if tb == Trans::N { (steps.clone(), columns.start) } else { (columns.clone(), steps.start) };
                    let wa = a.window(first, batch, a_rows);
                    let wb = b.window(first, batch, b_rows);
                    let wc = c.window(first, batch, rows.start..rows.end.min(c_rows));
                    let [a_first, b_first, c_first] = [(&wa, a_column), (&wb, b_column), (&wc, columns.start)]
                        .map(|(w, column)| w.first + column as u32);
                    let params = GemmParams {
                        m: rows.len() as u32,
                        n: columns.len() as u32,
                        k: steps.len() as u32,
                        c_rows: (rows.end.min(c_rows) - rows.start) as u32,
                        c_columns: (columns.end.min(c_columns) - columns.start) as u32,
                        a_first,
                        b_first,
                        c_first,
                        a_stride: a.stride as u32,
                        b_stride: b.stride as u32,
                        c_stride: c.stride as u32,
                        batch: batch as u32,
                        batch_first: first as u32,
                        a_repeat: a.repeat as u32,
                        b_repeat: b.repeat as u32,
                        a_matrix: a.matrix as u32,
                        b_matrix: b.matrix as u32,
                        c_matrix: c.matrix as u32,
                        splits: 1,
                        split_steps: steps.len() as u32,
                        alpha,
                        beta: if steps.start == 0 { beta } else { 1.0 },
                    };
                    self.launch(gpu, params, [wa.slice, wb.slice, wc.slice])?;
                }
            }
        }
        Ok(())
    }

    /// Launches what `params` say on the windows of A, B and C.
    fn launch(&self, gpu: &Gpu, mut params: GemmParams, [mut a, mut b, c]: [Bound; 3]) -> Result<()> {
        let (m, n, k, batch) = (params.m as usize, params.n as usize, params.k as usize, params.batch as usize);
        let alignment_c = alignment(params.c_first, self.c.stride);
        let form = Form {
            m,
            n,
            k,
            ta: self.ta,
            tb: self.tb,
            alignment_a: alignment(params.a_first, self.a.stride),
            alignment_b: alignment(params.b_first, self.b.stride),
            alignment_c,
            read_c: params.beta != 0.0,
            half: [&self.a, &self.b].map(|x| x.tensor.dtype() == DType::F16),
            fixed_rows: false,
            batch,
            // The numbers of the parts' elements are u32, and they fit a binding.
            splits: rows_that_fit(gpu, MOST_SPLITS * batch * m, n) == MOST_SPLITS * batch * m,
        };
        let choice = gemm_table::choose(gpu, &DENSE, form);
        if choice.turned {
            std::mem::swap(&mut a, &mut b);
            params = params.turned();
        }
        let split_steps = k.div_ceil(choice.splits.min(MOST_SPLITS)).next_multiple_of(choice.steps);
        let splits = k.div_ceil(split_steps);
        let launch = Launch::new(choice.kernel).constants(choice.constants);
        let launch = launch.read("a", a).read("b", b).workgroups(choice.workgroups * batch * splits);
        if splits == 1 {
            return launch.params(&params).write("c", c).run(gpu);
        }
        let parts = Tensor::empty(gpu, [batch * splits, m, n], DType::F32)?;
        let part = GemmParams {
            c_rows: params.m,
            c_columns: params.n,
            c_first: 0,
            c_stride: params.n,
            c_matrix: params.m * params.n,
            splits: splits as u32,
            split_steps: split_steps as u32,
            alpha: 1.0,
            beta: 0.0,
            ..params
        };
        launch.constant("SPLIT", 1.0).params(&part).write("c", &parts).run(gpu)?;
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
        Launch::new(gemm_table::sum_parts(alignment_c >= 4 && n.is_multiple_of(4)))
            .params(&sum)
            .read("parts", &parts)
            .write("c", c)
            .threads(batch * m * n.div_ceil(4), SUM_THREADS)
            .run(gpu)
    }
}

impl GemmParams {
    /// The same product as `C^T = op(B)^T op(A)^T`.
    fn turned(self) -> Self {
        GemmParams {
            m: self.n,
            n: self.m,
            c_rows: self.c_columns,
            c_columns: self.c_rows,
            a_first: self.b_first,
            b_first: self.a_first,
            a_stride: self.b_stride,
            b_stride: self.a_stride,
            a_repeat: self.b_repeat,
            b_repeat: self.a_repeat,
            a_matrix: self.b_matrix,
            b_matrix: self.a_matrix,
            ..self
        }
    }
}
