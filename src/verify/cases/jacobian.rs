//! The rows of experts' Jacobians, which the analysis takes.
//!
//! ```text
//! v J(x) = ((v W_gate) * silu'(g) * u + (v W_up) * silu(g)) W_down      g = x W_gate, u = x W_up
//! ```

use super::sizes;
use crate::analysis::jacobian::{Experts, Prepared};
use crate::autograd::Array;
use crate::error::Result;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let shapes = [
        (Usual, [1, 1, 1, 1, 1]),
        (Usual, [2, 5, 3, 2, 0]),
        (Quick, [3, 12, 20, 4, 7]),
        (Usual, [2, 33, 67, 3, 0]),
        (Usual, [4, 64, 40, 2, 65]),
    ];
    shapes
        .map(|(level, shape)| {
            Case::new(level, format!("analysis/jacobians/{}", sizes(&shape)), async move |c| jacobians(c, shape).await)
        })
        .into()
}

/// Experts, their widths, tokens, and probes, of which 0 is the exact Jacobian.
async fn jacobians(context: &Context, [e, d, f, tokens, probes]: [usize; 5]) -> Result<Findings> {
    let mut found = Findings::default();
    let random = |shape: &[usize], seed: u64| {
        let x = Array::random(shape, seed + 7919 * context.seed).map(|x| 2.0 * x / (shape[1] as f64).sqrt());
        Array::from_f32(shape, &x.to_f32())
    };
    let (gate, up, down) = (random(&[e, d, f], 1), random(&[e, d, f], 2), random(&[e, f, d], 3));
    let x = Array::random(&[tokens, d], 4 + context.seed);
    let x = Array::from_f32(&[tokens, d], &x.to_f32());
    let exact = Array::from_fn(&[d, d], |i| f64::from(u8::from(i / d == i % d)));
    let v = if probes == 0 { exact } else { random(&[probes, d], 5) };
    let rows = v.rows();
    let device = [&gate, &up, &down].map(|w| context.upload(w));
    let [device_gate, device_up, device_down] = device;
    let (device_gate, device_up, device_down) = (device_gate?, device_up?, device_down?);
    let (device_x, device_v) = (context.upload(&x)?, context.upload(&v)?);
    let got = context
        .twice("rows", &mut found, async || {
            let experts = Experts { gate: &device_gate, up: &device_up, down: &device_down };
            let prepared = Prepared::new(experts, &device_x, (probes > 0).then_some(&device_v))?;
            let mut rows = Vec::with_capacity(tokens);
            for t in 0..tokens {
                rows.push(prepared.at(t)?.to_f32().await?);
            }
            Ok(rows)
        })
        .await?;
    let part = |w: &Array, i: usize, [m, n]: [usize; 2]| Array::new(&[m, n], w.data[i * m * n..][..m * n].to_vec());
    let abs = |x: &Array| x.map(|x| x.abs());
    for (t, got) in got.iter().enumerate() {
        let (mut want, mut bound) = (Vec::new(), Vec::new());
        for i in 0..e {
            let (gate, up, down) = (part(&gate, i, [d, f]), part(&up, i, [d, f]), part(&down, i, [f, d]));
            let x = Array::new(&[1, d], x.data[t * d..][..d].to_vec());
            let (g, u) = (x.matmul(&gate), x.matmul(&up));
            let (size_g, size_u) = (abs(&x).matmul(&abs(&gate)), abs(&x).matmul(&abs(&up)));
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let (through_gate, through_up) = (v.matmul(&gate), v.matmul(&up));
            let inner = Array::from_fn(&[rows, f], |at| {
                let (g, u) = (g.data[at % f], u.data[at % f]);
                let (s, silu) = (sigmoid(g), g * sigmoid(g));
                through_gate.data[at] * (s + silu * (1.0 - s)) * u + through_up.data[at] * silu
            });
            // silu' is at most 1.1 and changes by at most half of what g does.
            let (gate, up) = (abs(&v).matmul(&abs(&gate)), abs(&v).matmul(&abs(&up)));
            let size = Array::from_fn(&[rows, f], |at| {
                let (g, u) = (size_g.data[at % f], size_u.data[at % f]);
                gate.data[at] * (1.1 * u + 0.5 * g * u) + 1.1 * up.data[at] * g
            });
            want.extend(inner.matmul(&down).data);
            bound.extend(size.matmul(&abs(&down)).data);
        }
        let array = |data| Array::new(&[e, rows, d], data);
        // Three sums over d, one over f, and an exponential, which may be off by some units of the last place.
        found.sums(&format!("token {t}"), got, &array(want), &array(bound), 3 * d + f + 16);
    }
    Ok(found)
}
