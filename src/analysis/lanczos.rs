//! The leading singular triplets of large matrices, a hundred or more of them, by a block Krylov space.
//!
//! ```text
//! Q_1 Gaussian, orthonormal (short side x b)
//! repeat:  P_j = W Q_j;  Z = W^T P_j;  Q_(j+1) = orth((I - Q Q^T) Z),  Q = [Q_1 .. Q_j]
//! P^T P = Y diag(s^2) Y^T;  V = Q Y;  U = P Y / s
//! ```
//!
//! Golub-Kahan-Lanczos in blocks with full orthogonalisation; Musco and Musco, "Randomized block Krylov methods for
//! stronger and faster approximate singular value decomposition", NeurIPS 2015, for why a random block does. For as
//! many products with W it is far closer than subspace iteration (`linalg::svd`): Gaussian 2048 x 1408, 4.3 GFLOP: the
//! leading 15 values to 1e-5 where subspace iteration with 160 columns has 4e-2. Values found are never above the true
//! ones.
//!
//! The products with W, nine tenths of the work, run in f32: on the device, where the host reads the blocks back after
//! every step, or on the host, a matrix a thread, where the device is only software on the same cores. The rest runs in
//! f64 on the host, where a Gram matrix does not lose the small singular values. This is for analysis, not for a
//! training step.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

use super::dense;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::random::normal;
use crate::tensor::Tensor;

/// Columns of a block. Fewer give more steps, hence a better polynomial, for the same work, but 32 fill a tile of the
/// subgroup kernel: measured on llvmpipe for 2048 x 1408, 43 GFLOP/s with 32 columns, 20 with 16, 40 with 64.
const BLOCK: usize = 32;
/// Rows of W that the host multiplies with at once, forward and back: with 1408 columns 700 kB, which stay in the cache
/// of a core between the two products.
const PANEL: usize = 128;
/// A new direction that keeps less than this of its column is orthogonalised once more.
const CANCELLED: f64 = 1e-6;
/// One that keeps less than this is rounding noise: the space is exhausted there and goes on with a random direction.
const EXHAUSTED: f64 = 1e-12;

/// Dimensions of the Krylov space for the `wanted` leading triplets: 2.7 times as many, and six blocks at least. Then
/// the leading tenth of a matrix whose spectrum falls like `j^-1/2` is right to 1e-3, its first half to 1e-9; of a
/// Gaussian matrix, the flattest there is, the leading 1 % to 1e-5, the last of the tenth is 8 % too small (2048 x
/// 1408).
pub(super) fn dimensions(wanted: usize) -> usize {
    (wanted * 27 / 10).max(6 * BLOCK).next_multiple_of(BLOCK)
}

/// The leading singular values and vectors of one matrix.
pub(super) struct Leading {
    /// Singular values, falling.
    pub s: Vec<f64>,
    /// Left singular vectors.
    pub u: Mat<f64>,
    /// Right singular vectors.
    pub v: Mat<f64>,
}

/// Where the random directions of a matrix come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub seed: u64,
    pub stream: u32,
}

/// How much is computed of a matrix: `keep <= size`, `vectors <= size <= min(rows, columns)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Singular values.
    pub keep: usize,
    /// Singular vectors.
    pub vectors: usize,
    /// Dimensions of the Krylov space.
    pub size: usize,
}

/// A power of two, so exact, that brings products with matrices of about this Frobenius norm near 1.
fn scale(norm: f64) -> f32 {
    let exponent = if norm > 0.0 { norm.log2().round().clamp(-120.0, 120.0) as i32 } else { 0 };
    2f32.powi(-exponent)
}

/// The leading singular triplets of each of the `draws.len()` matrices `w: [count, rows, columns]`, with products on
/// the device. `norm` is about the largest Frobenius norm of them.
///
/// # Errors
/// [`crate::Error::Device`].
pub(super) async fn leading(gpu: &Gpu, w: &Tensor, draws: &[Draw], extent: Extent, norm: f64) -> Result<Vec<Leading>> {
    let &[count, rows, columns] = w.dims() else {
        return Err(crate::Error::shape("singular triplets", "[count, rows, columns]", format!("{w:?}")));
    };
    let transposed = rows < columns;
    let (short, long) = (rows.min(columns), rows.max(columns));
    let (forward, back) = if transposed { (Trans::T, Trans::N) } else { (Trans::N, Trans::T) };
    let scale = scale(norm);
    let mut spaces: Vec<Space> = draws.par_iter().map(|&draw| Space::new(draw, short, long, extent.size)).collect();
    while let Some(width) = spaces.first().and_then(Space::next_width) {
        let q: Vec<f32> = spaces.iter().flat_map(|s| s.newest(width)).collect();
        let q = Tensor::from_f32(gpu, [count, width, short], &q)?;
        let p = Tensor::empty_f32(gpu, [count, long, width])?;
        let z = Tensor::empty_f32(gpu, [count, short, width])?;
        gemm(forward, Trans::T, scale, w, &q, 0.0, &p)?;
        let more = spaces[0].unfinished();
        if more {
            gemm(back, Trans::N, scale, w, &p, 0.0, &z)?;
        }
        let p = p.read()?;
        let z = if more { z.to_f32().await? } else { Vec::new() };
        let p: Vec<f32> = bytemuck::pod_collect_to_vec(&p.await?);
        fn part(x: &[f32], i: usize, rows: usize, width: usize) -> MatRef<'_, f32> {
            MatRef::from_row_major_slice(&x[i * rows * width..][..rows * width], rows, width)
        }
        spaces.par_iter_mut().enumerate().for_each(|(i, space)| {
            space.take_image(part(&p, i, long, width));
            if more {
                space.extend(part(&z, i, short, width));
            }
        });
    }
    let unscale = f64::from(scale).recip();
    spaces.into_par_iter().map(|space| space.finish(extent, transposed, unscale)).collect()
}

/// As [`leading`], of one matrix, row-major, with products on this thread of the host.
///
/// # Errors
/// [`crate::Error::Data`] when the small eigenproblem does not converge.
pub(super) fn leading_on_host(
    w: &[f32],
    [rows, columns]: [usize; 2],
    draw: Draw,
    extent: Extent,
    norm: f64,
) -> Result<Leading> {
    let transposed = rows < columns;
    let w = MatRef::from_row_major_slice(w, rows, columns);
    let w = if transposed { w.transpose() } else { w };
    let (long, short) = w.shape();
    let scale = scale(norm);
    let mut space = Space::new(draw, short, long, extent.size);
    while let Some(width) = space.next_width() {
        let q: Vec<f32> = space.newest(width).collect();
        let q = MatRef::from_column_major_slice(&q, short, width);
        let (mut p, mut z) = (Mat::zeros(long, width), Mat::zeros(short, width));
        let more = space.unfinished();
        for first in (0..long).step_by(PANEL) {
            let rows = PANEL.min(long - first);
            let w = w.subrows(first, rows);
            let mut p = p.subrows_mut(first, rows);
            matmul(&mut p, Accum::Replace, w, q, scale, Par::Seq);
            if more {
                matmul(&mut z, Accum::Add, w.transpose(), &p, scale, Par::Seq);
            }
        }
        space.take_image(p.as_ref());
        if more {
            space.extend(z.as_ref());
        }
    }
    space.finish(extent, transposed, f64::from(scale).recip())
}

/// One matrix's Krylov space.
struct Space {
    draw: Draw,
    /// Random numbers used.
    drawn: u32,
    /// Q, of which `filled` columns are there.
    q: Mat<f64>,
    filled: usize,
    /// `W Q` of the first `imaged` columns.
    p: Mat<f64>,
    imaged: usize,
}

impl Space {
    fn new(draw: Draw, short: usize, long: usize, size: usize) -> Self {
        let (q, p) = (Mat::zeros(short, size), Mat::zeros(long, size));
        let mut space = Self { draw, drawn: 0, q, filled: 0, p, imaged: 0 };
        let start = Mat::from_fn(short, BLOCK.min(size), |_, _| space.random());
        space.append(start);
        space
    }

    fn random(&mut self) -> f64 {
        self.drawn += 1;
        f64::from(normal(self.draw.seed, self.draw.stream, self.drawn))
    }

    /// Columns that wait for their product with W; none when all is done.
    fn next_width(&self) -> Option<usize> {
        (self.filled > self.imaged).then(|| self.filled - self.imaged)
    }

    fn newest(&self, width: usize) -> impl Iterator<Item = f32> + '_ {
        (self.filled - width..self.filled).flat_map(|j| self.q.col_as_slice(j).iter().map(|&x| x as f32))
    }

    /// Whether Q still grows.
    fn unfinished(&self) -> bool {
        self.filled < self.q.ncols()
    }

    /// The next columns of P.
    fn take_image(&mut self, p: MatRef<'_, f32>) {
        for (j, found) in p.col_iter().enumerate() {
            let column = self.p.col_as_slice_mut(self.imaged + j);
            column.iter_mut().zip(found.iter()).for_each(|(y, &x)| *y = f64::from(x));
        }
        self.imaged += p.ncols();
    }

    /// The next block of Q, from `Z: [short, width]`.
    fn extend(&mut self, z: MatRef<'_, f32>) {
        let next = z.ncols().min(self.q.ncols() - self.filled);
        self.append(Mat::from_fn(z.nrows(), next, |i, j| f64::from(z[(i, j)])));
    }

    /// Appends an orthonormal basis of the part of `z` that is orthogonal to Q; where that vanishes, random directions.
    fn append(&mut self, mut z: Mat<f64>) {
        let width = z.ncols();
        let mut basis = Mat::zeros(0, 0);
        // Noise needs a second pass, a random direction a third; one after them would only confirm.
        for _ in 0..3 {
            let scale = z.col_iter().map(|c| c.norm_l2()).fold(0.0, f64::max);
            if self.filled > 0 {
                let q = self.q.subcols(0, self.filled);
                let inside = dense::transposed_product(q, z.as_ref());
                dense::subtract_product(&mut z, q, inside.as_ref());
            }
            let (found, sizes) = dense::orthonormal(z.as_ref());
            basis = found;
            if sizes.iter().all(|r| r.abs() > CANCELLED * scale) {
                break;
            }
            z = basis.clone();
            for (j, size) in sizes.iter().enumerate() {
                if size.abs() <= EXHAUSTED * scale {
                    let unit = (z.nrows() as f64).sqrt().recip();
                    for i in 0..z.nrows() {
                        z[(i, j)] = unit * self.random();
                    }
                }
            }
        }
        for j in 0..width {
            self.q.col_as_slice_mut(self.filled + j).copy_from_slice(basis.col_as_slice(j));
        }
        self.filled += width;
    }

    fn finish(self, extent: Extent, transposed: bool, unscale: f64) -> Result<Leading> {
        let (values, y) = dense::gram_eigen(self.p.as_ref(), extent.vectors)?;
        let s = values[..extent.keep].iter().map(|l| l.sqrt() * unscale).collect();
        let v = dense::product(self.q.as_ref(), y.as_ref());
        // Columns are orthogonal with lengths s: scaled by the QR, which also removes the rounding of P.
        let (u, _) = dense::orthonormal(dense::product(self.p.as_ref(), y.as_ref()).as_ref());
        let (u, v) = if transposed { (v, u) } else { (u, v) };
        Ok(Leading { s, u, v })
    }
}
