//! The gradient split of SD-MoE (METHOD §4) for stacks of matrices: all experts of all layers in one launch.
//!
//! For `X_i` of a layer with bases U, V, and neither an `m x m` nor an `n x n` projector:
//!
//! ```text
//! A_i = U^T X_i (k x n)      B_i = X_i V (m x k)      M_i = A_i V (k x k)
//! common_i = P_U X_i + (I - P_U) X_i P_V = U A_i + (B_i - U M_i) V^T = [U | B_i - U M_i] [A_i ; V^T]
//! unique_i = (I - P_U) X_i (I - P_V) = X_i - common_i
//! ```
//!
//! [`Factors`] is that rank-2k product; the kernels that move the weights evaluate it where they read `X_i` anyway. All
//! three maps are linear, so the common part of a sum comes from summed A, B, M.

use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
pub use crate::kernels::decoupled::{Basis, Factors, Skinny};
pub(crate) use crate::kernels::decoupled::{Products, THREADS, sizes};
use crate::kernels::expert_sums::FactorParams;
pub use crate::kernels::expert_sums::sum_experts;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::software::spectral_rows;
use crate::kernels::spectral_blocks;
use crate::kernels::spectral_shared::add_shared;
use crate::kernels::stack_parts::stack_parts;
use crate::tensor::Tensor;

/// `[U | B - U M]`.
pub static LEFT_FACTORS: Kernel = Kernel::new("left_factors", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();
/// `V^T` of each layer.
pub static TRANSPOSE_BASIS: Kernel =
    Kernel::new("transpose_basis", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();
/// The common matrix at the start of training.
pub static INITIAL_COMMON: Kernel =
    Kernel::new("initial_common", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();
/// Squared norms of rows.
pub static SQUARE_ROWS: Kernel = Kernel::new("square_rows", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();
/// Products of all pairs of a layer's bases.
pub static PAIR_PRODUCTS: Kernel =
    Kernel::new("pair_products", wgsl!["spectral_factors.wgsl"]).params::<FactorParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    [&LEFT_FACTORS, &TRANSPOSE_BASIS, &INITIAL_COMMON, &SQUARE_ROWS, &PAIR_PRODUCTS]
        .into_iter()
        .map(|k: &'static Kernel| k.into())
        .collect()
}

impl Basis {
    /// The rank *k*.
    pub fn rank(&self) -> usize {
        self.u.cols()
    }

    /// Records `vt = V^T`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn update_transpose(&self) -> Result<()> {
        let (n, k) = (self.vt.cols(), self.rank());
        let params = FactorParams {
            count: self.vt.numel() as u32,
            columns: n as u32,
            rank: k as u32,
            ..FactorParams::default()
        };
        Launch::new(&TRANSPOSE_BASIS)
            .constant("WG", THREADS)
            .params(&params)
            .read("v", &self.v)
            .write("y", &self.vt)
            .threads(self.vt.numel(), THREADS)
            .run(self.v.gpu())
    }

    /// Records the skinny products of `x: [layers, experts, m, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
    pub fn skinny(&self, x: &Tensor) -> Result<Skinny> {
        if let Some(products) = spectral_rows::products(self, x, None)? {
            return Ok(products.skinny);
        }
        let [layers, experts, m, n] = sizes("gradient split", x)?;
        let k = self.rank();
        let a = Tensor::empty_f32(x.gpu(), [layers, experts, k, n])?;
        let b = Tensor::empty_f32(x.gpu(), [layers, experts, m, k])?;
        gemm(Trans::T, Trans::N, 1.0, &self.u, x, 0.0, &a)?;
        gemm(Trans::N, Trans::N, 1.0, x, &self.v, 0.0, &b)?;
        Ok(Skinny { a, b })
    }

    /// Records the factors of the common part from its skinny products.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn factors(&self, x: &Skinny) -> Result<Factors> {
        self.left(&x.a, &x.b, Some(&self.square(&x.a)?))
    }

    fn square(&self, a: &Tensor) -> Result<Tensor> {
        let [layers, experts, k, _] = sizes("gradient split", a)?;
        let square = Tensor::empty_f32(a.gpu(), [layers, experts, k, k])?;
        gemm(Trans::N, Trans::N, 1.0, a, &self.v, 0.0, &square)?;
        Ok(square)
    }

    /// Records the skinny products of `x: [layers, experts, m, n]` and what [`Basis::factors_of`] needs beside them.
    pub(crate) fn products(&self, x: &Tensor) -> Result<Products> {
        if let Some(products) = spectral_rows::products(self, x, None)? {
            return Ok(products);
        }
        if let Some(products) = spectral_blocks::products(self, x)? {
            return Ok(products);
        }
        let skinny = self.skinny(x)?;
        let square = self.square(&skinny.a)?;
        Ok(Products { skinny, square, squares: None })
    }

    /// As [`Basis::factors`].
    pub(crate) fn factors_of(&self, x: &Products) -> Result<Factors> {
        self.left(&x.skinny.a, &x.skinny.b, Some(&x.square))
    }

    /// As [`Basis::factors`] where `b` is already `(I - P_U) X V`, as the token-space form gives it.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn factors_of_complement(&self, x: &Skinny) -> Result<Factors> {
        self.left(&x.a, &x.b, None)
    }

    fn left(&self, a: &Tensor, b: &Tensor, square: Option<&Tensor>) -> Result<Factors> {
        let [layers, experts, m, k] = sizes("gradient split", b)?;
        let gpu = b.gpu();
        let left = Tensor::empty_f32(gpu, [layers, experts, m, 2 * k])?;
        if spectral_rows::left_factors(self, b, square, &left)? {
            return Ok(Factors { left, right: a.clone() });
        }
        // A split lies within one layer, and begins at a row of a matrix's own products.
        for part in stack_parts(gpu, "gradient split", [layers, experts, m, k], &[2 * k], &[k * k], &[m * k])? {
            let (x, y) = (part.rows(b)?, part.rows(&left)?);
            let count = x.numel();
            let params = FactorParams {
                count: count as u32,
                rows: part.rows.len() as u32,
                rank: k as u32,
                experts: experts as u32,
                factor: if square.is_some() { 1.0 } else { 0.0 },
                ..FactorParams::default()
            };
            Launch::new(&LEFT_FACTORS)
                .constant("WG", THREADS)
                .params(&params)
                .read("u", &part.layer_rows(&self.u)?)
                .read("x", &x)
                .read("square", &square.map_or(Ok(x.clone()), |s| part.matrices(s))?)
                .write("y", &y)
                .threads(count, THREADS)
                .run(gpu)?;
            part.store(&left, &y)?;
        }
        Ok(Factors { left, right: a.clone() })
    }
}

impl Products {
    /// Records the products of the experts' mean: `[layers, 1, ..]`.
    pub(crate) fn mean(&self) -> Result<Self> {
        let mean = |x: &Tensor| sum_experts(x, 1.0 / x.dims()[1] as f32);
        let skinny = Skinny { a: mean(&self.skinny.a)?, b: mean(&self.skinny.b)? };
        Ok(Self { skinny, square: mean(&self.square)?, squares: None })
    }

    /// Records that the products become those of `X_i - S`, `shared` being those of S, one for each layer; their squared norms
    /// are gone.
    pub(crate) fn minus(mut self, shared: &Self) -> Result<Self> {
        add_shared(None, 1.0, -1.0, &shared.skinny.a, &self.skinny.a)?;
        add_shared(None, 1.0, -1.0, &shared.skinny.b, &self.skinny.b)?;
        add_shared(None, 1.0, -1.0, &shared.square, &self.square)?;
        self.squares = None;
        Ok(self)
    }
}

impl Skinny {
    /// Records the products of the experts' sum: `[layers, 1, ..]`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn sum(&self) -> Result<Skinny> {
        Ok(Skinny { a: sum_experts(&self.a, 1.0)?, b: sum_experts(&self.b, 1.0)? })
    }
}

/// Records the squared Frobenius norms of the matrices `x: [.., m, n]`, of their columns from `first` on: `[number]`.
///
/// # Errors
/// [`Error::Shape`] when the matrices' rows exceed a binding; [`Error::Device`].
pub fn square_norms(x: &Tensor, first: usize) -> Result<Tensor> {
    let (gpu, n) = (x.gpu(), x.cols());
    let m = x.dims().iter().rev().nth(1).copied().unwrap_or(1);
    let rows = Tensor::empty_f32(gpu, [x.rows()])?;
    let flat = x.reshape([x.rows(), n])?;
    for range in Parts::new("squared norms", x.rows()).sliced(gpu, &[n, 1]).ranges()? {
        let params = FactorParams {
            count: range.len() as u32,
            columns: n as u32,
            rank: first as u32,
            ..FactorParams::default()
        };
        Launch::new(&SQUARE_ROWS)
            .constant("WG", THREADS)
            .params(&params)
            .read("x", &flat.slice(range.clone())?)
            .write("y", &rows.slice(range.clone())?)
            .threads(range.len(), THREADS)
            .run(gpu)?;
    }
    let number = x.rows() / m;
    sum_experts(&rows.reshape([number, m, 1, 1])?, 1.0)?.reshape([number])
}

/// Records `|U_a^T U_b|_F^2`, r times the principal similarity, for all pairs of a layer's orthonormal bases
/// `u: [layers, experts, m, r]`: `[layers, experts, experts]`.
///
/// # Errors
/// [`Error::Shape`] when `u` has not four dimensions or a layer of it exceeds a binding; [`Error::Device`].
pub fn pair_overlaps(u: &Tensor) -> Result<Tensor> {
    let [layers, experts, m, r] = sizes("similarity", u)?;
    let size = experts * experts * r * r;
    let products = Tensor::empty_f32(u.gpu(), [layers, size])?;
    for range in Parts::new("similarity", layers).sliced(u.gpu(), &[experts * m * r, size]).ranges()? {
        let (u, y) = (u.slice(range.clone())?, products.slice(range)?);
        let params = FactorParams {
            count: y.numel() as u32,
            rows: m as u32,
            rank: r as u32,
            experts: experts as u32,
            ..FactorParams::default()
        };
        let launch = Launch::new(&PAIR_PRODUCTS).constant("WG", THREADS).params(&params);
        launch.read("u", &u).write("y", &y).threads(y.numel(), THREADS).run(u.gpu())?;
    }
    square_norms(&products.reshape([layers * experts * experts, r, r])?, 0)?.reshape([layers, experts, experts])
}

/// Records the initial `w_c: [layers, m, n]` = `c U diag(s) V^T`, s graded evenly from 1.25 to 0.75, with c such that
/// `|w_c|_F^2` is the experts' mean of `full - kept`, the squared norms `[layers * experts]` before and after a projection.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit a binding; [`Error::Device`].
pub fn initial_common(basis: &Basis, full: &Tensor, kept: &Tensor, w_c: &Tensor) -> Result<()> {
    let [layers, m, n] = w_c.dims() else {
        return Err(Error::shape("initial common matrix", "[layers, m, n]", format!("{w_c:?}")));
    };
    let (gpu, k, shape) = (w_c.gpu(), basis.rank(), [*layers, 1, *m, *n]);
    for part in stack_parts(gpu, "initial common matrix", shape, &[k], &[], &[n * k])? {
        let y = part.rows(w_c)?;
        let params = FactorParams {
            count: y.numel() as u32,
            rows: part.rows.len() as u32,
            columns: *n as u32,
            rank: k as u32,
            experts: (full.numel() / layers) as u32,
            first_layer: part.layers.start as u32,
            factor: 0.0,
        };
        Launch::new(&INITIAL_COMMON)
            .constant("WG", THREADS)
            .params(&params)
            .read("u", &part.layer_rows(&basis.u)?)
            .read("v", &part.layers(&basis.v)?)
            .read("full", full)
            .read("square", kept)
            .write("y", &y)
            .threads(y.numel(), THREADS)
            .run(gpu)?;
        part.store(w_c, &y)?;
    }
    Ok(())
}
