//! How alike experts' outputs are: all of them at the same tokens, whoever these tokens chose (METHOD §7).

use super::activations::rows;
use super::jacobian::{Experts, cosines, matched, stream};
use super::record::{Outputs, Pairs};
use super::similarity::{mean_offdiag, spread_offdiag};
use crate::autograd::Op;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::ops::{RmsNorm, SwiGlu};
use crate::tensor::Tensor;

/// Elements of all experts' outputs, or hidden states, at once.
const AT_ONCE: usize = 1 << 24;
/// Experts with Gaussian matrices of the control, which have 28 pairs.
const RANDOM: usize = 8;
/// Below the squares of the outputs of any expert that is not zero.
const EPS: f32 = 1e-30;
/// The first of this module's streams of random numbers: those of a layer's Jacobians come before.
const STREAM: u32 = 16;

/// Adds to `found` the cosines of the outputs of a layer's experts at the tokens numbered `tokens` of `x: [.., d]`.
///
/// # Errors
/// [`crate::Error::Shape`] when the sizes do not fit; [`crate::Error::Device`].
pub(super) async fn compare(
    gpu: &Gpu,
    experts: Experts<'_>,
    (x, tokens): (&[f32], &[usize]),
    seed: u64,
    found: &mut Outputs,
) -> Result<()> {
    let cosine = output_cosines(gpu, experts, x, tokens).await?;
    let mut random = Vec::new();
    for (i, w) in [experts.gate, experts.up, experts.down].into_iter().enumerate() {
        let few = w.slice(0..RANDOM.min(w.dims()[0]))?;
        random.push(matched(&few, seed, stream(found.layer, STREAM + i as u32)).await?);
    }
    let random = Experts { gate: &random[0], up: &random[1], down: &random[2] };
    let control = output_cosines(gpu, random, x, tokens).await?;
    found.compared = tokens.len();
    (found.mean_cosine, found.cosine_spread) = (mean_offdiag(&cosine), spread_offdiag(&cosine));
    (found.cosine_control, found.cosine_control_spread) = (mean_offdiag(&control), spread_offdiag(&control));
    found.cosine = cosine.into();
    Ok(())
}

/// The mean over the tokens of `<f_a, f_b> / (|f_a| |f_b|)`, `[E, E]`; none for an expert whose output is zero everywhere.
async fn output_cosines(gpu: &Gpu, experts: Experts<'_>, x: &[f32], tokens: &[usize]) -> Result<Pairs> {
    let [e, d, f] = experts.sizes()?;
    let products = Tensor::zeros(gpu, [e, e])?;
    // A norm of 1 in place of a mean square of 1.
    let unit = Tensor::from_f32(gpu, [d], &vec![1.0 / (d as f32).sqrt(); d])?;
    for tokens in tokens.chunks((AT_ONCE / (e * d.max(f))).max(1)) {
        let (t, x) = (tokens.len(), rows(gpu, x, d, tokens.iter().copied())?);
        let through = |x: &Tensor, w: &Tensor, width: usize| {
            let y = Tensor::empty_f32(gpu, [e, t, width])?;
            gemm(Trans::N, Trans::N, 1.0, x, w, 0.0, &y)?;
            y.reshape([e * t, width])
        };
        let (gate, up) = (through(&x, experts.gate, f)?, through(&x, experts.up, f)?);
        let hidden = SwiGlu.forward(&[&gate, &up])?.output.reshape([e, t, f])?;
        let y = through(&hidden, experts.down, d)?;
        let y = RmsNorm { eps: EPS }.forward(&[&y, &unit])?.output.reshape([e, t * d])?;
        gemm(Trans::N, Trans::T, 1.0, &y, &y, 1.0, &products)?;
    }
    Ok(cosines(&products.to_f32().await?, e))
}
