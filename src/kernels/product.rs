//! A matrix product before a kernel is chosen for it: its operands, the parts that a launch can take, what decides the
//! variant, and what the kernels of a product are given.

use super::window::{Window, alignment, window};
use crate::error::Result;
use crate::gpu::{Gpu, Kernel, Parts, rows_in_window};
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
    pub(in crate::low_level::kernels) struct GemmParams {
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
    pub(in crate::low_level::kernels) struct SumPartsParams {
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

crate::params! {
    pub(in crate::low_level::kernels) struct GroupedParams {
        rows: u32,
        n: u32,
        k: u32,
        a_first: u32,
        b_first: u32,
        c_first: u32,
        a_stride: u32,
        b_stride: u32,
        c_stride: u32,
        b_matrix: u32,
        expert_first: u32,
        experts: u32,
        tile_first: u32,
        tile_rows: u32,
        beta: f32,
    }
}

crate::params! {
    /// Rows and experts of a launch, and how the rows of each are cut (`lib/chunks.wgsl`).
    pub(in crate::low_level::kernels) struct ExpertRows {
        rows: u32,
        row_first: u32,
        expert_first: u32,
        experts: u32,
        chunk_rows: u32,
        slots: u32,
    }
}

crate::params! {
    pub(in crate::low_level::kernels) struct WeightGradientParams {
        m: u32,
        n: u32,
        of: ExpertRows,
        a_first: u32,
        b_first: u32,
        c_first: u32,
        a_stride: u32,
        b_stride: u32,
        c_stride: u32,
        c_matrix: u32,
        beta: f32,
    }
}

/// Matrices of one size, each used for `repeat` of the batch.
#[derive(Clone, Copy)]
pub(in crate::low_level::kernels) struct Operand<'a> {
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
pub(in crate::low_level::kernels) struct Product<'a> {
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
pub(in crate::low_level::kernels) struct Part {
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

    /// Returns what decides the variant for a part, whose sums over K may be cut with `splits`, and which is one for the fragment for
    /// few rows with `few`.
    pub fn form(&self, part: &Part, splits: bool, few: bool) -> Form {
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
            bf16: self.b.tensor.dtype() == DType::Bf16,
            fixed_rows: false,
            few,
            batch: part.batch,
            experts: 0,
            rows: 0,
            splits,
        }
    }
}

/// The properties of a product that decide its variant.
#[derive(Clone, Copy, Debug)]
pub(in crate::low_level::kernels) struct Form {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Inner dimension, or a multiple of 4 that divides it where only the device knows it.
    pub k: usize,
    /// Whether A is transposed.
    pub ta: Trans,
    /// Whether B is transposed.
    pub tb: Trans,
    /// The largest of 8, 4 and 1 elements at a multiple of which every row of each matrix begins.
    pub alignment_a: usize,
    pub alignment_b: usize,
    pub alignment_c: usize,
    /// Whether C may be added to: beta is not 0.
    pub read_c: bool,
    /// Whether A and B are f16.
    pub half: [bool; 2],
    /// Whether B is bf16.
    pub bf16: bool,
    /// Whether the rows of C are cut into tiles by someone else (grouped products), so that it must not be transposed.
    pub fixed_rows: bool,
    /// Whether the fragment for few rows takes it.
    pub few: bool,
    /// Products like this one, matrices of a batch or experts.
    pub batch: usize,
    /// Experts, and the rows of all of them; 0 of a dense product.
    pub experts: usize,
    pub rows: usize,
    /// Whether the sums over K may be cut into parts.
    pub splits: bool,
}

/// A variant and its geometry.
#[derive(Clone, Debug)]
pub(in crate::low_level::kernels) struct Choice {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    /// Workgroups for one product.
    pub workgroups: usize,
    /// Parts of the sums over K, each with so many workgroups.
    pub splits: usize,
    /// A part has a multiple of so many steps of K.
    pub steps: usize,
}

impl Choice {
    pub fn whole(kernel: &'static Kernel, constants: Vec<(&'static str, f64)>, workgroups: usize) -> Self {
        Choice { kernel, constants, workgroups, splits: 1, steps: 1 }
    }
}

/// The entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::low_level::kernels) enum Entry {
    Dense,
    Grouped,
    WeightGradient,
}

/// The kernel that stores C as vec4, and the one that stores rows of any length.
#[derive(Debug)]
pub(in crate::low_level::kernels) struct Stores {
    pub vec4: Kernel,
    pub scalar: Kernel,
}

impl Stores {
    pub fn of(&'static self, aligned: bool) -> &'static Kernel {
        if aligned { &self.vec4 } else { &self.scalar }
    }
}
