//! The leading singular triplets of large matrices, batched: randomized SVD (Halko, Martinsson, Tropp, "Finding
//! structure with randomness", SIAM Review 2011, algorithms 4.4 and 5.1), entirely on the device.
//!
//! ```text
//! Y = W Omega                          Omega: n x l, l = min(k + oversampling, m, n), Gaussian, or [V, Gaussian] when warm
//! repeat q times:  Z = W^T orth(Y);  Y = W orth(Z)
//! Q = orth(Y);  Z = W^T Q = V S O^T;  U = Q O
//! ```
//!
//! The SVD of Z, `n x l`, is that of [`super::svd_small`], which is also all there is to do where a side of W has at
//! most [`MAX_COLUMNS`] rows or columns: the result is then the full SVD, cut at k.
//!
//! Must not read back, and must not form anything of the size of `m x m` or `n x n`.

use super::qr::orthonormalize;
use super::svd_small::svd_small;
use super::{MAX_COLUMNS, stack};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, rows_in_window, wgsl};
use crate::kernels::gemm::{Trans, gemm};
use crate::tensor::Tensor;

/// `Omega = [V, Gaussian]`.
pub static SKETCH_WARM: Kernel = Kernel::new("sketch_warm", wgsl!["sketch.wgsl"]).params::<SketchParams>();
/// `Omega` all Gaussian.
pub static SKETCH_COLD: Kernel = Kernel::new("sketch_cold", wgsl!["sketch.wgsl"]).params::<SketchParams>();
const THREADS: u32 = 64;

crate::params! {
    struct SketchParams {
        rows: u32,
        columns: u32,
        start_columns: u32,
        batch: u32,
        seed_low: u32,
        seed_high: u32,
        /// Number of the first matrix, and whether each draws from a stream of its own.
        first: u32,
        distinct: u32,
    }
}

/// The Gaussian columns of a batch's sketches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draw {
    /// One seed for every matrix: a matrix gives the same bits in whatever batch it is.
    #[default]
    Shared,
    /// Each matrix draws its own. What is found in a flat spectrum leans towards the sketch, so only so do unrelated
    /// matrices give unrelated subspaces.
    Distinct,
}

/// Settings of [`randomized_svd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SvdOptions {
    /// Columns of the sketch beyond k; 8 as in METHOD section 5.
    pub oversampling: usize,
    /// Power iterations q; the error beyond the best rank-k error falls like `(sigma_(l+1) / sigma_k)^(4 q)`.
    pub power_iterations: usize,
    /// Seed of the Gaussian columns.
    pub seed: u64,
    /// Whether the matrices of a batch share them.
    pub draw: Draw,
}

impl Default for SvdOptions {
    /// Oversampling 8 and two power iterations: what Halko et al. recommend for slowly decaying spectra.
    fn default() -> Self {
        Self { oversampling: 8, power_iterations: 2, seed: 0, draw: Draw::Shared }
    }
}

/// The k leading singular triplets; all NaN for a matrix that has an element that is not finite.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Svd {
    /// Left singular vectors, `[B, m, k]`.
    pub u: Tensor,
    /// Singular values, falling, `[B, l]` with `l >= k`: the first k belong to `u` and `v`, the next estimates
    /// `sigma_(k+1)` from below.
    pub s_all: Tensor,
    /// Right singular vectors, `[B, n, k]`.
    pub v: Tensor,
}

impl Svd {
    /// The singular values in host memory, `[B, l]`.
    ///
    /// # Errors
    /// [`Error::Undefined`] where a matrix has an element that is not finite; [`Error::Device`].
    pub async fn values(&self) -> Result<Vec<f32>> {
        super::finite("svd", &self.s_all).await
    }
}

/// The `k` leading singular triplets of each matrix of `w: [B, m, n]` (or `[m, n]`), `1 <= k <= min(m, n)`.
///
/// `warm`: earlier right singular vectors, `[B, n, k']` with any k' up to the sketch's width; they span the first
/// columns of the sketch. The result always has a batch dimension; its pooled buffers are the only ones it takes.
///
/// # Errors
/// [`Error::Shape`] when k is out of range, when the sketch would need more than [`MAX_COLUMNS`] columns, or when
/// `warm` does not fit; [`Error::Device`].
pub fn randomized_svd(w: &Tensor, k: usize, options: SvdOptions, warm: Option<&Tensor>) -> Result<Svd> {
    let [batch, m, n] = stack("randomized_svd", w)?;
    let small = m.min(n);
    if batch == 0 || k == 0 || k > small || k > MAX_COLUMNS {
        let expected = format!("w [B, m, n] and 1 <= k <= min(m, n, {MAX_COLUMNS})");
        return Err(Error::shape("randomized_svd", expected, format!("w {w:?}, k {k}")));
    }
    let w = w.reshape([batch, m, n])?;
    if small <= MAX_COLUMNS {
        let svd = svd_small(&w, k)?;
        return Ok(Svd { u: svd.u, s_all: svd.s, v: svd.v });
    }
    // A rank close to the limit leaves less room for oversampling.
    let l = (k + options.oversampling).min(MAX_COLUMNS);
    sketched_svd(&w, &sketch(&w, l, options, warm)?, k, options.power_iterations)
}

/// [`randomized_svd`] with the singular vectors written to `u: [B, m, k]` and `v: [B, n, k]`, k taken from them. With
/// `warm` true the sketch starts from `v`. Gives all singular values found, `[B, l]`.
///
/// # Errors
/// As [`randomized_svd`].
pub fn randomized_svd_into(w: &Tensor, u: &Tensor, v: &Tensor, options: SvdOptions, warm: bool) -> Result<Tensor> {
    let svd = randomized_svd(w, u.cols(), options, warm.then_some(v))?;
    if u.numel() != svd.u.numel() || v.numel() != svd.v.numel() {
        let expected = format!("u {:?}, v {:?}", svd.u, svd.v);
        return Err(Error::shape("randomized_svd_into", expected, format!("u {u:?}, v {v:?}")));
    }
    u.copy_from(&svd.u)?;
    v.copy_from(&svd.v)?;
    Ok(svd.s_all)
}

/// `op(A) B` in a new tensor; A and B have one batch.
fn product(ta: Trans, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ([batch, rows, columns], [_, _, n]) = (stack("svd", a)?, stack("svd", b)?);
    let c = Tensor::empty_f32(a.gpu(), [batch, if ta == Trans::N { rows } else { columns }, n])?;
    gemm(ta, Trans::N, 1.0, a, b, 0.0, &c)?;
    Ok(c)
}

/// As [`randomized_svd`], from a given test matrix `omega: [B, n, l]` (or one `[1, n, l]` for all), `k <= l <= 64`, l
/// <= m, l <= n. Which Omega decides what is found; [`randomized_svd`] draws a Gaussian one.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not fit; [`Error::Device`].
pub fn sketched_svd(w: &Tensor, omega: &Tensor, k: usize, power_iterations: usize) -> Result<Svd> {
    let ([batch, m, n], [_, _, l]) = (stack("sketched_svd", w)?, stack("sketched_svd", omega)?);
    if l < k || k == 0 || l > MAX_COLUMNS.min(m).min(n) {
        let expected = format!("w [B, m, n], omega [.., n, l], 1 <= k <= l <= min(m, n, {MAX_COLUMNS})");
        return Err(Error::shape("sketched_svd", expected, format!("w {w:?}, omega {omega:?}, k {k}")));
    }
    let w = &w.reshape([batch, m, n])?;
    let mut y = product(Trans::N, w, omega)?;
    for _ in 0..power_iterations {
        let z = product(Trans::T, w, &orthonormalize(&y)?)?;
        y = product(Trans::N, w, &orthonormalize(&z)?)?;
    }
    let q = orthonormalize(&y)?;
    drop(y);
    let z = svd_small(&product(Trans::T, w, &q)?, k)?;
    Ok(Svd { u: product(Trans::N, &q, &z.v)?, s_all: z.s, v: z.u })
}

/// Omega: `[B, n, l]`.
fn sketch(w: &Tensor, l: usize, options: SvdOptions, warm: Option<&Tensor>) -> Result<Tensor> {
    let [batch, _, n] = stack("randomized_svd", w)?;
    let omega = Tensor::empty_f32(w.gpu(), [batch, n, l])?;
    let mut start_columns = 0;
    if let Some(v) = warm {
        let [v_batch, v_rows, v_columns] = stack("randomized_svd", v)?;
        if v_batch != batch || v_rows != n || v_columns > l {
            let expected = format!("warm [{batch}, {n}, at most {l}]");
            return Err(Error::shape("randomized_svd", expected, format!("{v:?}")));
        }
        start_columns = v_columns;
    }
    for range in Parts::new("randomized_svd", batch).at_most(rows_in_window(w.gpu(), batch, n * l).max(1)).ranges()? {
        let whole = range.len() == batch;
        let part = if whole { omega.clone() } else { Tensor::empty_f32(w.gpu(), [range.len(), n, l])? };
        let params = SketchParams {
            rows: n as u32,
            columns: l as u32,
            start_columns: start_columns as u32,
            batch: range.len() as u32,
            seed_low: options.seed as u32,
            seed_high: (options.seed >> 32) as u32,
            first: range.start as u32,
            distinct: u32::from(options.draw == Draw::Distinct),
        };
        let kernel = if start_columns > 0 { &SKETCH_WARM } else { &SKETCH_COLD };
        let mut launch = Launch::new(kernel).params(&params).write("omega", &part);
        if let (Some(v), true) = (warm, start_columns > 0) {
            let v = v.reshape([batch, n, start_columns])?;
            // A copy starts aligned, a slice may not.
            launch = launch.read("start", &if whole { v } else { v.slice(range.clone())?.duplicate()? });
        }
        launch.threads(range.len() * n * l, THREADS).run(w.gpu())?;
        if !whole {
            omega.slice(range)?.copy_from(&part)?;
        }
    }
    Ok(omega)
}
