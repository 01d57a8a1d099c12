//! Causal attention: grouped heads, head widths about every tile, one key and many.

use super::rows::Cases;
use super::sizes;
use crate::gpu::Tier;
use crate::ops::Attention;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::Case;

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
    cases.all
}
