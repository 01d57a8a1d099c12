//! Matrix products: `C = alpha op(A) op(B) + beta C`, batched.
//!
//! Which kernel computes it is decided by [`super::gemm_table`]. Matrices beyond a binding are cut: C by rows, an
//! operand by the rows it is stored in, which are rows or columns of C or steps of K; sums over parts of K are added in
//! order, so the result does not depend on the device's timing.

use super::gemm_table::{self, Entry, Form};
use super::software::{self, limits};
use super::window::{Window, alignment, window};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Launch, Parts, rows_in_window};
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
    pub(super) struct GemmParams {
        m: u32,
        n: u32,
        k: u32,
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
    pub(super) struct SumPartsParams {
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
    let product = Product { m, n, k, ta, tb, a, b, c, alpha, beta };
    if software::product::dense(&product, batch)? {
        return Ok(());
    }
    let longest = k.min(limits::steps(c.tensor.gpu()));
    product.parts(batch, |_| longest, |part| product.launch(part))
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

/// Matrices of one size, each used for `repeat` of the batch.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub tensor: &'a Tensor,
    /// Elements of a matrix, and of a row as stored.
    pub matrix: usize,
    pub stride: usize,
    pub repeat: usize,
}

impl Operand<'_> {
    fn batch_that_fits(&self, batch: usize) -> usize {
        let own = batch / self.repeat;
        match rows_in_window(self.tensor.gpu(), own, self.matrix) {
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

/// A batch of products.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// Sizes of the operands, which may exceed those of C, of which only what it has is written.
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub ta: Trans,
    pub tb: Trans,
    pub a: Operand<'a>,
    pub b: Operand<'a>,
    pub c: Operand<'a>,
    pub alpha: f32,
    pub beta: f32,
}

/// A part of a batch of products that one launch takes.
pub(super) struct Part {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// The rows and columns of them that C has.
    pub c_rows: usize,
    pub c_columns: usize,
    /// The number of matrices, and of the first within the whole batch.
    pub batch: usize,
    pub batch_first: usize,
    /// The windows, each with the element at which the part's first matrix begins.
    pub a: Window,
    pub b: Window,
    pub c: Window,
    pub beta: f32,
}

impl<'a> Product<'a> {
    pub fn gpu(&self) -> &'a Gpu {
        self.c.tensor.gpu()
    }

    /// Calls `launch` with parts that fit a binding each, one after the other: matrices of the batch at once; where one does
    /// not fit, it is cut on its own. `steps` gives how many steps of K a part of so many matrices has at most.
    pub fn parts(
        &self,
        batch: usize,
        steps: impl Fn(usize) -> usize,
        mut launch: impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        let limit = [&self.a, &self.b, &self.c].map(|x| x.batch_that_fits(batch)).into_iter().min().unwrap_or(0);
        for z in Parts::new("gemm", batch).at_most(limit.max(1)).ranges()? {
            self.cut(z.start, z.len(), steps(z.len()), limit == 0, &mut launch)?;
        }
        Ok(())
    }

    /// The parts of `batch` matrices from `first` on, of at most `k_limit` steps; with `cut` such that they fit a binding.
    fn cut(
        &self,
        first: usize,
        batch: usize,
        mut k_limit: usize,
        cut: bool,
        launch: &mut impl FnMut(Part) -> Result<()>,
    ) -> Result<()> {
        let Product { m, n, k, ta, tb, a, b, c, beta, .. } = *self;
        let (gpu, c_rows, c_columns) = (self.gpu(), c.matrix / c.stride, c.stride);
        let (mut m_limit, mut n_limit) = (m, n);
        if cut {
            let fit = |x: &Operand<'_>| rows_in_window(gpu, x.matrix / x.stride, x.stride);
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
        let (ms, ns, ks) = (
            Parts::new("gemm", m).at_most(m_limit).multiples_of(4).ranges()?,
            Parts::new("gemm", n).at_most(n_limit).multiples_of(4).ranges()?,
            Parts::new("gemm", k).at_most(k_limit).multiples_of(4).ranges()?,
        );
        for rows in ms {
            for columns in ns.clone() {
                for steps in ks.clone() {
                    let (a_rows, a_column) =
                        if ta == Trans::N { (rows.clone(), steps.start) } else { (steps.clone(), rows.start) };
                    let (b_rows, b_column) =
                        if tb == Trans::N { (steps.clone(), columns.start) } else { (columns.clone(), steps.start) };
                    let own_rows = rows.start..rows.end.min(c_rows);
                    let [a, b, c] =
                        [(&a, a_rows, a_column), (&b, b_rows, b_column), (&c, own_rows.clone(), columns.start)].map(
                            |(x, rows, column)| {
                                let window = x.window(first, batch, rows);
                                Window { first: window.first + column as u32, ..window }
                            },
                        );
                    launch(Part {
                        m: rows.len(),
                        n: columns.len(),
                        k: steps.len(),
                        c_rows: own_rows.len(),
                        c_columns: columns.end.min(c_columns) - columns.start,
                        batch,
                        batch_first: first,
                        a,
                        b,
                        c,
                        beta: if steps.start == 0 { beta } else { 1.0 },
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Returns what decides the variant for a part, whose sums over K may be cut with `splits`.
    pub fn form(&self, part: &Part, splits: bool) -> Form {
        Form {
            m: part.m,
            n: part.n,
            k: part.k,
            ta: self.ta,
            tb: self.tb,
            alignment_a: alignment(part.a.first, self.a.stride),
            alignment_b: alignment(part.b.first, self.b.stride),
            alignment_c: alignment(part.c.first, self.c.stride),
            read_c: part.beta != 0.0,
            half: [&self.a, &self.b].map(|x| x.tensor.dtype() == DType::F16),
            fixed_rows: false,
            batch: part.batch,
            splits,
        }
    }

    /// Launches a part, what C has of it.
    pub fn launch(&self, part: Part) -> Result<()> {
        let part = Part { m: part.c_rows, n: part.c_columns, ..part };
        let Product { a, b, c, alpha, .. } = *self;
        let (gpu, m, n, k, batch) = (self.gpu(), part.m, part.n, part.k, part.batch);
        // The numbers of the parts' elements are u32, and they fit a binding.
        let splits = rows_in_window(gpu, MOST_SPLITS * batch * m, n) == MOST_SPLITS * batch * m;
        let form = self.form(&part, splits);
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
        let launch =
            launch.read("a", part.a.slice).read("b", part.b.slice).workgroups(choice.workgroups * batch * splits);
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
}
