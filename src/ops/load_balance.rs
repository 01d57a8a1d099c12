//! The load-balance loss of the router (Switch Transformer, arXiv 2101.03961).

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::kernels::Variant;
use crate::kernels::column_sum::column_sum;
use crate::tensor::{DType, Tensor};

/// Threads of a workgroup.
const THREADS: u32 = 64;

/// The loss from the columns' sums.
pub static LOAD_BALANCE: Kernel = Kernel::new("load_balance", wgsl!["load_balance.wgsl"]).params::<LoadBalanceParams>();
/// The gradient of the scores.
pub static LOAD_BALANCE_BACKWARD: Kernel =
    Kernel::new("load_balance_backward", wgsl!["load_balance.wgsl"]).params::<LoadBalanceParams>();

/// The kernels of this module.
pub fn kernels() -> Vec<Variant> {
    vec![(&LOAD_BALANCE).into(), (&LOAD_BALANCE_BACKWARD).into()]
}

crate::params! {
    struct LoadBalanceParams { tokens: u32, experts: u32, scale: f32, factor: f32 }
}

/// `coefficient * E * sum_e f_e P_e`, `f_e = counts_e / (T K)` without gradient, `P_e` the mean of the scores' column
/// e. Inputs: scores `[T, E]`, counts `u32 [E]`. Output: `[1]`.
#[derive(Clone, Copy, Debug)]
pub struct LoadBalance {
    /// Weight in the loss.
    pub coefficient: f32,
    /// Experts of a token, *K*.
    pub top_k: usize,
}

impl LoadBalance {
    /// The factor on `counts_e * sum_t scores[t, e]`.
    fn scale(&self, tokens: usize, experts: usize) -> f64 {
        f64::from(self.coefficient) * experts as f64 / (tokens as f64 * tokens as f64 * self.top_k as f64)
    }

    fn params(&self, tokens: usize, scale: f64, experts: usize, factor: f32) -> LoadBalanceParams {
        LoadBalanceParams { tokens: tokens as u32, experts: experts as u32, scale: scale as f32, factor }
    }
}

impl Op for LoadBalance {
    fn name(&self) -> &'static str {
        "load_balance"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let fail = || Error::shape("load_balance", "scores [T, E], u32 counts [E], K >= 1", format!("{inputs:?}"));
        let [scores, counts] = inputs else { return Err(fail()) };
        let [tokens, experts] = *scores.dims() else { return Err(fail()) };
        if counts.dims() != [experts] || counts.dtype() != DType::U32 || self.top_k == 0 || scores.numel() == 0 {
            return Err(fail());
        }
        let gpu = scores.gpu();
        let loss = Tensor::empty_f32(gpu, [1])?;
        Launch::new(&LOAD_BALANCE)
            .params(&self.params(tokens, self.scale(tokens, experts), experts, 0.0))
            .read("sums", &column_sum(scores)?)
            .read("counts", *counts)
            .write("loss", &loss)
            .run(gpu)?;
        Ok(loss.into())
    }

    // d loss / d s[t, e] = coefficient E f_e / T, the same for every token.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        if !pass.needs(0) {
            return Ok(());
        }
        let (counts, dy) = (pass.input(1), pass.dy());
        let (target, factor) = pass.target(0)?;
        let (gpu, tokens, experts) = (target.gpu(), target.rows(), target.cols());
        for range in Parts::new(self.name(), tokens).sliced(gpu, &[experts]).ranges()? {
            Launch::new(&LOAD_BALANCE_BACKWARD)
                .params(&self.params(range.len(), self.scale(tokens, experts), experts, factor))
                .read("counts", &counts)
                .read("dy", &dy)
                .write("dscores", &target.slice(range.clone())?)
                .threads(range.len(), THREADS)
                .run(gpu)?;
        }
        Ok(())
    }

    fn reads(&self) -> Reads {
        Reads::inputs([1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (scores, counts) = (&inputs[0], &inputs[1]);
        let (tokens, experts) = (scores.rows(), scores.cols());
        let share = |e: usize| counts.data[e] / (tokens * self.top_k) as f64;
        let mean = |e: usize| (0..tokens).map(|t| scores.row(t)[e]).sum::<f64>() / tokens as f64;
        let sum: f64 = (0..experts).map(|e| share(e) * mean(e)).sum();
        Array::new(&[1], vec![f64::from(self.coefficient) * experts as f64 * sum])
    }
}
