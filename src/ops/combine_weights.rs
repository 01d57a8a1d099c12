//! Combine weights: the scores of the chosen experts, renormalised or not, scaled.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::tensor::{DType, Tensor};

/// Threads of a workgroup.
const THREADS: u32 = 64;

/// The weights.
pub static COMBINE_WEIGHTS: Kernel =
    Kernel::new("combine_weights", wgsl!["combine_weights.wgsl"]).params::<CombineWeightsParams>();
/// The gradient of all scores.
pub static COMBINE_WEIGHTS_BACKWARD: Kernel =
    Kernel::new("combine_weights_backward", wgsl!["combine_weights.wgsl"]).params::<CombineWeightsParams>();

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    vec![(&COMBINE_WEIGHTS).into(), (&COMBINE_WEIGHTS_BACKWARD).into()]
}

crate::params! {
    struct CombineWeightsParams {
        tokens: u32,
        experts: u32,
        top_k: u32,
        renormalize: u32,
        scaling: f32,
        factor: f32,
    }
}

/// `w[t, j] = scaling * s[t, i(t, j)]`, divided by `sum_j s[t, i(t, j)] + 1e-20` if renormalised.
/// Inputs: scores `[T, E]`, index `u32 [T, K]` (different experts below E). Output: `[T, K]`.
#[derive(Clone, Copy, Debug)]
pub struct CombineWeights {
    /// Whether a token's weights sum to 1 before scaling.
    pub renormalize: bool,
    /// Factor on all weights.
    pub scaling: f32,
}

impl CombineWeights {
    fn params(&self, tokens: usize, experts: usize, top_k: usize, factor: f32) -> CombineWeightsParams {
        CombineWeightsParams {
            tokens: tokens as u32,
            experts: experts as u32,
            top_k: top_k as u32,
            renormalize: u32::from(self.renormalize),
            scaling: self.scaling,
            factor,
        }
    }
}

impl Op for CombineWeights {
    fn name(&self) -> &'static str {
        "combine_weights"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("combine_weights", "scores [T, E], u32 index [T, K]", format!("{inputs:?}"));
        let [scores, index] = inputs else { return Err(fail()) };
        let ([tokens, experts], [index_rows, top_k]) = (scores.dims(), index.dims()) else { return Err(fail()) };
        let (tokens, experts, top_k) = (*tokens, *experts, *top_k);
        if *index_rows != tokens || index.dtype() != DType::U32 || top_k > experts {
            return Err(fail());
        }
        let gpu = scores.gpu();
        let weights = Tensor::empty_f32(gpu, [tokens, top_k])?;
        if weights.numel() == 0 {
            return Ok(weights.into());
        }
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[experts, top_k]).ranges()? {
            Launch::new(&COMBINE_WEIGHTS)
                .params(&self.params(range.len(), experts, top_k, 0.0))
                .read("scores", &scores.slice(range.clone())?)
                .read("index", &index.slice(range.clone())?)
                .write("weights", &weights.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(weights.into())
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if !pass.needs(0) {
            return Ok(());
        }
        let (scores, index, dy) = (pass.input(0), pass.input(1), pass.dy());
        let (target, factor) = pass.target(0)?;
        if scores.numel() == 0 {
            return Ok(());
        }
        let (gpu, experts, top_k) = (scores.gpu(), scores.cols(), index.cols());
        for range in Parts::new(self.name(), scores.rows()).sliced(gpu, &[experts, top_k]).ranges()? {
            Launch::new(&COMBINE_WEIGHTS_BACKWARD)
                .params(&self.params(range.len(), experts, top_k, factor))
                .read("scores", &scores.slice(range.clone())?)
                .read("index", &index.slice(range.clone())?)
                .read("dy", &dy.slice(range.clone())?)
                .write("dscores", &target.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (scores, index) = (&inputs[0], &inputs[1]);
        let top_k = index.cols();
        let chosen = Array::from_fn(&index.shape, |i| scores.row(i / top_k)[index.data[i] as usize]);
        Array::from_fn(&index.shape, |i| {
            let sum: f64 = chosen.row(i / top_k).iter().sum();
            let scale = if self.renormalize { 1.0 / (sum + 1e-20) } else { 1.0 };
            chosen.data[i] * scale * f64::from(self.scaling)
        })
    }
}
