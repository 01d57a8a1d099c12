//! How far the experts' own parts lie inside the common basis (METHOD §5): `|U^T W_u,i|_F / |W_u,i|_F` on the rows'
//! side, `|W_u,i V|_F / |W_u,i|_F` on the columns'. A random matrix has `sqrt(k / m)` and `sqrt(k / n)`.

use faer::MatRef;

use super::dense;
use super::record::Decoupling;
use super::spectra::Stack;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::nn::config::ExpertMatrix;
use crate::tensor::Tensor;
use crate::train::metrics::Side;

/// Orthonormal bases of both sides, row-major.
pub(super) struct CommonBasis {
    u: Vec<f32>,
    v: Vec<f32>,
    k: usize,
}

impl CommonBasis {
    /// The basis of a checkpoint: `[rows, k]` and `[columns, k]`.
    pub(super) fn given(u: &[f32], v: &[f32], [rows, columns, k]: [usize; 3]) -> Result<Self> {
        if u.len() != rows * k || v.len() != columns * k {
            let expected = format!("U {rows} x {k} and V {columns} x {k}");
            return Err(Error::shape("decoupling", expected, format!("{} and {} elements", u.len(), v.len())));
        }
        Ok(Self { u: u.to_vec(), v: v.to_vec(), k })
    }

    /// The leading singular vectors of `W_c`.
    pub(super) fn found(u: MatRef<'_, f64>, v: MatRef<'_, f64>) -> Self {
        Self { u: dense::rows(u).collect(), v: dense::rows(v).collect(), k: u.ncols() }
    }
}

/// The drift of the experts' own parts; `beyond`: share of the energy of `W_c` beyond rank k.
pub(super) async fn decoupling(
    gpu: &Gpu,
    layer: usize,
    matrix: ExpertMatrix,
    unique: &Stack<'_>,
    basis: &CommonBasis,
    beyond: Option<f64>,
) -> Result<Decoupling> {
    let (rows, columns, k) = (unique.rows, unique.columns, basis.k);
    let u = Tensor::from_f32(gpu, [1, rows, k], &basis.u)?;
    let v = Tensor::from_f32(gpu, [1, columns, k], &basis.v)?;
    let (mut drift, mut counted) = ([0.0; 2], 0usize);
    unique
        .for_parts(gpu, async |_, x| {
            let count = x.len() / (rows * columns);
            let w = Tensor::from_f32(gpu, [count, rows, columns], x)?;
            let left = Tensor::empty_f32(gpu, [count, k, columns])?;
            let right = Tensor::empty_f32(gpu, [count, rows, k])?;
            gemm(Trans::T, Trans::N, 1.0, &u, &w, 0.0, &left)?;
            gemm(Trans::N, Trans::N, 1.0, &w, &v, 0.0, &right)?;
            let (left, right) = (left.to_f32().await?, right.to_f32().await?);
            for (i, w) in x.chunks_exact(rows * columns).enumerate() {
                let whole = norm(w);
                // An expert without a part of its own drifts nowhere.
                if whole > 0.0 {
                    drift[0] += norm(&left[i * k * columns..][..k * columns]) / whole;
                    drift[1] += norm(&right[i * k * rows..][..k * rows]) / whole;
                    counted += 1;
                }
            }
            Ok(())
        })
        .await?;
    let [left, right] = drift.map(|sum| sum / counted.max(1) as f64);
    let null = |size: usize| (k as f64 / size as f64).sqrt();
    let rows_are_model = unique.row_side(matrix) == Side::Model;
    let sides = |rows: f64, columns: f64| if rows_are_model { (rows, columns) } else { (columns, rows) };
    let (drift_model, drift_hidden) = sides(left, right);
    let (null_model, null_hidden) = sides(null(rows), null(columns));
    let outside = |size: usize| 1.0 - k as f64 / size as f64;
    Ok(Decoupling {
        layer,
        matrix,
        drift_model,
        drift_hidden,
        null_model,
        null_hidden,
        energy_beyond_rank: beyond,
        common_gradient_share: None,
        null_gradient_share: 1.0 - outside(rows) * outside(columns),
    })
}

/// Share of the gradient's energy in the common part, `1 - |(I - P_U) G_i (I - P_V)|_F^2 / |G_i|_F^2`: the mean over
/// the experts that got a gradient; none where none did.
pub(super) async fn gradient_share(gpu: &Gpu, gradients: &Stack<'_>, basis: &CommonBasis) -> Result<Option<f64>> {
    let (rows, columns, k) = (gradients.rows, gradients.columns, basis.k);
    let u = Tensor::from_f32(gpu, [1, rows, k], &basis.u)?;
    let v = Tensor::from_f32(gpu, [1, columns, k], &basis.v)?;
    let (mut sum, mut counted) = (0.0, 0usize);
    gradients
        .for_parts(gpu, async |_, x| {
            let count = x.len() / (rows * columns);
            let g = Tensor::from_f32(gpu, [count, rows, columns], x)?;
            let left = Tensor::empty_f32(gpu, [count, k, columns])?;
            let right = Tensor::empty_f32(gpu, [count, rows, k])?;
            let both = Tensor::empty_f32(gpu, [count, k, k])?;
            gemm(Trans::T, Trans::N, 1.0, &u, &g, 0.0, &left)?;
            gemm(Trans::N, Trans::N, 1.0, &g, &v, 0.0, &right)?;
            gemm(Trans::N, Trans::N, 1.0, &left, &v, 0.0, &both)?;
            let (left, right, both) = (left.to_f32().await?, right.to_f32().await?, both.to_f32().await?);
            for (i, g) in x.chunks_exact(rows * columns).enumerate() {
                let whole = norm(g).powi(2);
                if whole > 0.0 {
                    // Projections onto the two sides overlap in U^T G V.
                    let of = |x: &[f32], size: usize| norm(&x[i * size..(i + 1) * size]).powi(2);
                    let common = of(&left, k * columns) + of(&right, rows * k) - of(&both, k * k);
                    sum += (common / whole).clamp(0.0, 1.0);
                    counted += 1;
                }
            }
            Ok(())
        })
        .await?;
    Ok((counted > 0).then(|| sum / counted as f64))
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}
