//! Routed PCA (METHOD §7): where in the layer's input the tokens of each expert lie.
//!
//! With the combine weights w of expert e, `mu = sum w x / W` and `C = sum w (x - mu)(x - mu)^T / W`, `W = sum w`. From
//! the eigenvalues l of C: explained variance of the leading r, participation ratio `(sum l)^2 / sum l^2`, effective
//! rank `exp(-sum p ln p)`; from the leading eigenvectors the principal angles t between experts and their Grassmann
//! distances.
//!
//! The products run on the device, on `sqrt(w / W) (x - mu)` and of whichever side is smaller; the eigenvalues of the
//! small matrix are taken on the host, in f64. Entries of C carry the rounding of f32, so eigenvalues below about 1e-6
//! of the largest count as zero.
//!
//! Control: the same with the routing's rows permuted among the tokens: groups of the same sizes, weights and overlaps,
//! at random positions. Experts that choose their tokens by where they lie are further apart than that.

use super::dense::{effective_rank, eigen, widened};
use super::record::{Pairs, RoutedPca};
use super::routed::{Routed, permuted};
use super::similarity::{mean_offdiag, spread_offdiag};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::subspace::{angles, distances};
use crate::tensor::Tensor;

/// How the components are taken.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PcaOptions {
    /// Dimensions of the compared subspaces, at most 64. By default 8: enough to hold more than the mean's neighbours,
    /// few enough for an expert with a dozen tokens.
    pub r: usize,
    /// Whether the mean is removed, as it is by default.
    pub centred: bool,
    /// Seed of the control.
    pub seed: u64,
}

impl Default for PcaOptions {
    fn default() -> Self {
        Self { r: 8, centred: true, seed: 0 }
    }
}

setters!(PcaOptions { r: usize, centred: bool, seed: u64 });

/// The principal components of one expert's tokens.
#[derive(Clone, Debug)]
pub struct Components {
    /// Eigenvalues of the covariance, falling, not negative; those beyond the smaller of tokens and width are zero and
    /// left out.
    pub values: Vec<f64>,
    /// The leading eigenvectors as columns, `[d, r]` by rows; none where there are fewer than r components.
    pub basis: Option<Vec<f32>>,
}

/// Eigenvalues below this share of the largest are rounding: a dot product of up to thousands of terms in f32.
const RELATIVE_ZERO: f64 = 1e-6;

/// The components of each expert's tokens; none for an expert without tokens, or without weight.
///
/// # Errors
/// [`crate::Error::Device`]; [`crate::Error::Data`] when the input is not finite.
pub async fn components(gpu: &Gpu, routed: Routed<'_>, options: PcaOptions) -> Result<Vec<Option<Components>>> {
    let mut all = Vec::new();
    for group in routed.groups() {
        let group: Vec<_> = group.into_iter().filter(|(_, w)| *w > 0.0).collect();
        all.push(if group.is_empty() { None } else { Some(of_group(gpu, routed, &group, options).await?) });
    }
    Ok(all)
}

async fn of_group(gpu: &Gpu, routed: Routed<'_>, group: &[(usize, f64)], options: PcaOptions) -> Result<Components> {
    let (n, d) = (group.len(), routed.d);
    let total: f64 = group.iter().map(|(_, w)| w).sum();
    let mut mean = vec![0.0; d];
    if options.centred {
        for &(t, w) in group {
            mean.iter_mut().zip(routed.row(t)).for_each(|(m, &x)| *m += w / total * f64::from(x));
        }
    }
    let rows = group.iter().flat_map(|&(t, w)| {
        let scale = (w / total).sqrt();
        routed.row(t).iter().zip(&mean).map(move |(&x, m)| (scale * (f64::from(x) - m)) as f32)
    });
    let z: Vec<f32> = rows.collect();
    let size = n.min(d);
    let gram = Tensor::empty_f32(gpu, [size, size])?;
    let rows = Tensor::from_f32(gpu, [n, d], &z)?;
    let (ta, tb) = if d <= n { (Trans::T, Trans::N) } else { (Trans::N, Trans::T) };
    gemm(ta, tb, 1.0, &rows, &rows, 0.0, &gram)?;
    let (values, vectors) = eigen(widened(size, size, &gram.to_f32().await?).as_ref(), options.r.min(size))?;
    let least = RELATIVE_ZERO * values[0];
    // Removing the mean takes one dimension.
    let most = if options.centred { n - 1 } else { n };
    let rank = values.iter().take_while(|l| **l > least).count().min(most);
    let r = options.r;
    let basis = (r > 0 && rank >= r).then(|| {
        let mut basis = vec![0.0f32; d * r];
        for j in 0..r {
            if d <= n {
                (0..d).for_each(|i| basis[i * r + j] = vectors[(i, j)] as f32);
                continue;
            }
            let scale = 1.0 / values[j].sqrt();
            for i in 0..d {
                let sum: f64 = (0..n).map(|t| f64::from(z[t * d + i]) * vectors[(t, j)]).sum();
                basis[i * r + j] = (scale * sum) as f32;
            }
        }
        basis
    });
    Ok(Components { values, basis })
}

/// Principal angles of each pair of subspaces `[d, r]`, none where one is missing.
async fn pair_angles(
    gpu: &Gpu,
    found: &[Option<Components>],
    d: usize,
    r: usize,
) -> Result<Vec<Vec<Option<Vec<f32>>>>> {
    let bases: Vec<Option<&Vec<f32>>> = found.iter().map(|c| c.as_ref().and_then(|c| c.basis.as_ref())).collect();
    let mut table = vec![vec![None; bases.len()]; bases.len()];
    for (i, a) in bases.iter().enumerate() {
        let Some(a) = a else { continue };
        let others: Vec<(usize, &Vec<f32>)> =
            bases.iter().enumerate().skip(i).filter_map(|(j, b)| Some((j, (*b)?))).collect();
        let left: Vec<f32> = others.iter().flat_map(|_| a.iter().copied()).collect();
        let right: Vec<f32> = others.iter().flat_map(|(_, b)| b.iter().copied()).collect();
        let shape = [others.len(), d, r];
        let t = angles(&Tensor::from_f32(gpu, shape, &left)?, &Tensor::from_f32(gpu, shape, &right)?)?.to_f32().await?;
        for ((j, _), t) in others.iter().zip(t.chunks(r)) {
            table[i][*j] = Some(t.to_vec());
            table[*j][i] = Some(t.to_vec());
        }
    }
    Ok(table)
}

fn table(angles: &[Vec<Option<Vec<f32>>>], f: impl Fn(&[f32]) -> f64) -> Pairs {
    angles.iter().map(|row| row.iter().map(|t| t.as_deref().map(&f)).collect()).collect()
}

/// Mean squared cosine.
fn overlap(angles: &[f32]) -> f64 {
    angles.iter().map(|&t| f64::from(t).cos().powi(2)).sum::<f64>() / angles.len() as f64
}

/// Routed PCA of layer `layer`, with its control.
///
/// # Errors
/// As [`components`]; [`crate::Error::Shape`] for r beyond 64.
pub async fn routed_pca(gpu: &Gpu, layer: usize, routed: Routed<'_>, options: PcaOptions) -> Result<RoutedPca> {
    let (d, r) = (routed.d, options.r);
    let found = components(gpu, routed, options).await?;
    let angles = pair_angles(gpu, &found, d, r).await?;

    let (index, weight) = permuted(routed.index, routed.weight, routed.top_k, options.seed);
    let random = components(gpu, Routed { index: &index, weight: &weight, ..routed }, options).await?;
    let random = pair_angles(gpu, &random, d, r).await?;

    let values = |f: fn(&[f64], usize) -> Option<f64>| -> Vec<Option<f64>> {
        found.iter().map(|c| f(&c.as_ref()?.values, r)).collect()
    };
    let longest = (r as f64).sqrt() * std::f64::consts::FRAC_PI_2;
    let geodesic = table(&angles, |t| distances(t).geodesic);
    let (similarity, control) = (table(&angles, overlap), table(&random, overlap));
    Ok(RoutedPca {
        layer,
        r,
        tokens: routed.groups().iter().map(Vec::len).collect(),
        explained_variance: values(|l, r| share(l.iter().take(r).sum(), l.iter().sum())),
        participation_ratio: values(|l, _| participation_ratio(l)),
        effective_rank: values(|l, _| effective_rank(l.iter().copied())),
        mean_geodesic: mean_offdiag(&geodesic).map(|g| g / longest),
        mean_offdiag: mean_offdiag(&similarity),
        spread: spread_offdiag(&similarity),
        similarity: similarity.into(),
        geodesic: geodesic.into(),
        chordal: table(&angles, |t| distances(t).chordal).into(),
        projection: table(&angles, |t| distances(t).projection).into(),
        null: r as f64 / d as f64,
        control: mean_offdiag(&control),
        control_spread: spread_offdiag(&control),
        control_geodesic: mean_offdiag(&table(&random, |t| distances(t).geodesic)).map(|g| g / longest),
    })
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// `(sum l)^2 / sum l^2`; none where all are zero.
pub fn participation_ratio(values: &[f64]) -> Option<f64> {
    share(values.iter().sum::<f64>().powi(2), values.iter().map(|l| l * l).sum())
}
