//! Causal attention: grouped heads, head widths about every tile, one key and many; windows; and that to a cache.

use super::rows::Cases;

use super::sizes;
use crate::autograd::Array;
use crate::autograd::check::Tolerance;
use crate::gpu::Tier;
use crate::kernels::columns::write_rows;
use crate::ops::{Attention, CachedAttention};
use crate::tensor::DType;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Findings, Needs};

/// All of them: batch, sequence, heads, key heads, head width.
pub(super) fn cases(tier: Tier, f16: bool) -> Vec<Case> {
    let mut cases = Cases::new(tier, f16);
    for (level, shape) in [
        (Usual, [1, 1, 1, 1, 2]),
        (Usual, [1, 31, 1, 1, 1]),
        (Usual, [3, 2, 1, 1, 6]),
        (Quick, [1, 31, 3, 1, 8]),
        (Usual, [2, 65, 2, 1, 5]),
        (Quick, [2, 33, 6, 3, 32]),
        (Usual, [2, 5, 6, 1, 30]),
        (Usual, [2, 17, 3, 3, 48]),
        (Usual, [1, 130, 2, 1, 16]),
        (Usual, [1, 65, 2, 1, 64]),
        (Usual, [1, 65, 2, 1, 96]),
        (Usual, [1, 3, 2, 2, 100]),
        (Quick, [1, 37, 1, 1, 128]),
        (Usual, [1, 7, 2, 1, 131]),
        (Usual, [1, 33, 2, 1, 192]),
        (Usual, [1, 65, 2, 1, 256]),
    ] {
        let [batch, seq, heads, kv_heads, head_dim] = shape;
        // In f16 the gradients use delta = <dy, y> with y as stored, in sums that cancel: dp - delta.
        cases.op(level, format!("op/attention/{}", sizes(&shape)), (1.0, 4.0), move |c, kind| {
            let (rows, op) = (batch * seq, Attention::new(heads, kv_heads, head_dim, seq));
            let kv = [rows, kv_heads * head_dim];
            (op, vec![kind.random(c, &[rows, heads * head_dim], 1), kind.random(c, &kv, 2), kind.random(c, &kv, 3)])
        });
    }
    for (level, shape, window) in [
        (Usual, [2, 37, 2, 1, 5], 2),
        (Quick, [2, 97, 4, 2, 32], 33),
        (Usual, [1, 130, 2, 1, 64], 64),
        (Usual, [1, 65, 2, 1, 128], 40),
    ] {
        let [batch, seq, heads, kv_heads, head_dim] = shape;
        let name = format!("op/attention in a window/{} {window}", sizes(&shape));
        cases.op(level, name, (1.0, 4.0), move |c, kind| {
            let whole = Attention::new(heads, kv_heads, head_dim, seq);
            let op = Attention { window: Some(window), scale: Some(0.2), ..whole };
            let (rows, kv) = (batch * seq, [batch * seq, kv_heads * head_dim]);
            (op, vec![kind.random(c, &[rows, heads * head_dim], 1), kind.random(c, &kv, 2), kind.random(c, &kv, 3)])
        });
    }
    cases.all.extend(cached(tier, f16));
    cases.all
}

/// Attention to a cache: its last rows written, new rows, rows before them, heads, key heads, widths of keys and values.
fn cached(tier: Tier, f16: bool) -> Vec<Case> {
    let dtype = if f16 { DType::F16 } else { DType::F32 };
    let shapes = [
        (Usual, [1, 0, 1, 1, 2, 2], None),
        (Quick, [1, 500, 8, 1, 64, 64], None),
        (Usual, [7, 1, 4, 4, 24, 16], None),
        (Quick, [33, 63, 4, 2, 192, 128], Some(40)),
        (Usual, [3, 300, 2, 1, 7, 70], Some(33)),
    ];
    let case = |(level, shape, window): (_, [usize; 6], _)| {
        let [n, past, heads, kv_heads, k_dim, v_dim] = shape;
        let case = Case::new(level, format!("generation/attention/{}", sizes(&shape)), async move |c| {
            let mut found = Findings::default();
            let op = CachedAttention { window, ..CachedAttention::new(heads, kv_heads, k_dim, v_dim) };
            let random = |rows: usize, width: usize, seed| {
                let x = Array::random(&[rows, width], seed + 7919 * c.seed);
                if f16 { x.map(|&v| f64::from(half::f16::from_f64(v))) } else { x }
            };
            let filled = past + n;
            let (k, v) = (random(filled, kv_heads * k_dim, 1), random(filled, kv_heads * v_dim, 2));
            let q = random(n, heads * k_dim, 3);
            // What is not filled is NaN.
            let cache = |x: &Array| {
                let cache = c.stored(&Array::from_fn(&[filled + 9, x.cols()], |_| f64::NAN), dtype)?;
                write_rows(&c.stored(x, dtype)?, &cache, 0).map(|()| cache)
            };
            let (query, keys, values) = (c.stored(&q, dtype)?, cache(&k)?, cache(&v)?);
            let got = c
                .twice("y", &mut found, async || Ok(vec![op.forward(&query, &keys, &values, past)?.to_f32().await?]))
                .await?;
            let tolerance = if f16 { Tolerance::half(1.0, 0.0) } else { Tolerance::default() };
            found.compare("y", &got[0], &op.reference(&q, &k, &v, past), tolerance.forward);
            Ok(found)
        });
        if f16 { case.needs(Needs::F16).variant(format!("{} f16", tier.name())) } else { case }
    };
    shapes.into_iter().map(case).collect()
}
