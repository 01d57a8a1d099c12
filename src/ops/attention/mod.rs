//! Causal attention with grouped key/value heads, without ever storing a matrix of `seq x seq`.
//!
//! By query head h, with the key/value head `h / (heads / kv_heads)`: `y = softmax(scale q k^T) v`, where a query sees
//! the keys up to its own position, or the last `window` of them. The forward passes over the keys once with a running maximum and saves
//! the log-sum-exp of each row and head; the backward makes the probabilities anew from it (Dao et al. 2022, arXiv
//! 2205.14135). Sums have a fixed order: dq is summed over keys by the query's owner, dk and dv over queries by the
//! key's.

mod cached;
mod launch;

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::kernels::Variant;
use crate::tensor::Tensor;

pub use cached::CachedAttention;

/// Every kernel of this module.
pub(super) fn kernels() -> Vec<Variant> {
    [launch::kernels(), cached::kernels()].concat()
}

/// Inputs: `q: [batch * seq, heads * head_dim]`, `k, v: [batch * seq, kv_heads * head_dim]`. Output: as q.
///
/// One sequence of q must fit one binding of the adapter; batches beyond it are split.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head: at most 256.
    pub head_dim: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// The factor on scores; `head_dim^(-1/2)` where there is none.
    pub scale: Option<f32>,
    /// Keys that a query sees, its own and those before it: at least 1, all where there is none. It is the
    /// `sliding_window` of Mixtral and Qwen.
    pub window: Option<usize>,
}

impl Attention {
    /// Attention to all keys up to a query's own, with the usual scale.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, seq: usize) -> Self {
        Attention { heads, kv_heads, head_dim, seq, scale: None, window: None }
    }

    fn check(&self, inputs: &[&Tensor]) -> Result<()> {
        let Attention { heads, kv_heads, head_dim, seq, scale, window } = *self;
        let whole = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads) && seq > 0 && window != Some(0);
        if !whole || head_dim == 0 || head_dim > 256 || scale.is_some_and(|scale| !scale.is_finite()) {
            let expected =
                "kv_heads that divide heads, a head_dim from 1 to 256, seq >= 1, window >= 1, a finite scale";
            return Err(Error::shape("attention", expected, format!("{self:?}")));
        }
        let fits = match inputs {
            [q, k, v] => {
                let rows = q.rows();
                let wants = |x: &Tensor, heads: usize| x.rows() == rows && x.cols() == heads * head_dim;
                rows.is_multiple_of(seq) && wants(q, heads) && wants(k, kv_heads) && wants(v, kv_heads)
            }
            _ => false,
        };
        if !fits {
            let (q, kv) = (heads * head_dim, kv_heads * head_dim);
            let expected = format!("q [batch * {seq}, {q}], k and v [batch * {seq}, {kv}]");
            return Err(Error::shape("attention", expected, format!("{inputs:?}")));
        }
        Ok(())
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        self.check(inputs)?;
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        let y = Tensor::empty(q.gpu(), q.shape(), q.dtype())?;
        let lse = Tensor::empty_f32(q.gpu(), [q.rows(), self.heads])?;
        launch::forward(self, q, k, v, &y, &lse)?;
        Ok(Forward { output: y, saved: vec![lse] })
    }

    // With P = softmax(S), S = scale q k^T, y = P v:
    //   dv = P^T dy,   dP = dy v^T,   dS = P (dP - delta),   delta = rowsum(P dP) = rowsum(dy y),
    //   dq = scale dS k,   dk = scale dS^T q;   dk, dv summed over the query heads of their head.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let (q, k, v, dy) = (pass.input(0), pass.input(1), pass.input(2), pass.dy());
        let lse = pass.saved(0).clone();
        let delta = Tensor::empty_f32(q.gpu(), lse.shape())?;
        launch::delta(self, pass.output(), &dy, &delta)?;
        let operands = launch::Operands { q: &q, k: &k, v: &v, dy: &dy, lse: &lse, delta: &delta };
        if pass.needs(0) {
            let (dq, beta) = pass.target(0)?;
            launch::dq(self, &operands, beta, &dq)?;
        }
        if !pass.needs(1) && !pass.needs(2) {
            return Ok(());
        }
        // The kernel makes both at once. Keys and values can be one variable, so neither is written in place.
        let [dk, dv] = [&k, &v].map(|x| Tensor::empty(x.gpu(), x.shape(), x.dtype()));
        let (dk, dv) = (dk?, dv?);
        launch::dkv(self, &operands, &dk, &dv)?;
        if pass.needs(1) {
            pass.add(1, dk)?;
        }
        if pass.needs(2) { pass.add(2, dv) } else { Ok(()) }
    }

    fn reads(&self) -> Reads {
        Reads::inputs([0, 1, 2]).and_output()
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        let (dim, seq) = (self.head_dim, self.seq);
        let scale = self.scale.map_or_else(|| (dim as f64).sqrt().recip(), f64::from);
        let mut y = Array::zeros(&q.shape);
        for row in 0..q.rows() {
            for head in 0..self.heads {
                let kv = head / (self.heads / self.kv_heads) * dim;
                let query = &q.row(row)[head * dim..(head + 1) * dim];
                let first = (row + 1).saturating_sub(self.window.unwrap_or(usize::MAX));
                let keys = first.max(row / seq * seq)..row + 1;
                let score = |j: usize| {
                    let key = &k.row(j)[kv..kv + dim];
                    query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * scale
                };
                let scores: Vec<f64> = keys.clone().map(score).collect();
                let maximum = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - maximum).exp()).sum();
                for (j, s) in keys.zip(&scores) {
                    let p = (s - maximum).exp() / total;
                    for (o, x) in y.row_mut(row)[head * dim..(head + 1) * dim].iter_mut().zip(&v.row(j)[kv..kv + dim]) {
                        *o += p * x;
                    }
                }
            }
        }
        y
    }
}
