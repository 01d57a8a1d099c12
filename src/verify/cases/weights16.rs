//! Inference with weights of 16 bits and activations of 32: products and the embedding.

use super::routed::groups;
use super::sizes;
use crate::autograd::{Array, Op};
use crate::error::Result;
use crate::gpu::Tier;
use crate::kernels::gemm::Trans::{self, N, T};
use crate::kernels::gemm::gemm;
use crate::kernels::grouped::grouped_gemm;
use crate::kernels::shapes::SHAPES;
use crate::ops::{Embedding, WideEmbedding};
use crate::tensor::{DType, Tensor};
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings, Guarded, Needs, indices};

/// Random numbers that bf16 has.
fn in_bf16(shape: &[usize], seed: u64) -> Array {
    Array::random(shape, seed).map(|&x| f64::from(half::bf16::from_f64(x)))
}

/// `C = A op(B)` with B in bf16: C is m x n.
async fn product(context: &Context, tb: Trans, [m, k, n]: [usize; 3]) -> Result<Findings> {
    let (mut found, mut guards) = (Findings::default(), Findings::default());
    let a = Array::random(&[m, k], 1 + 7919 * context.seed);
    let b = in_bf16(&[k, n], 2 + 7919 * context.seed);
    let stored = if tb == T { b.transpose() } else { b.clone() };
    let got = context
        .twice("C", &mut found, async || {
            let (a, c) = (Guarded::holding(&context.gpu, &a)?, Guarded::new(&context.gpu, &[m, n])?);
            gemm(N, tb, 1.0, &a.inner, &context.stored(&stored, DType::Bf16)?, 0.0, &c.inner)?;
            Ok(vec![c.read("C", false, &mut guards).await?])
        })
        .await?;
    guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
    found.sums("C", &got[0], &a.matmul(&b), &a.map(|x| x.abs()).matmul(&b.map(|x| x.abs())), k);
    Ok(found)
}

/// `Y_r = X_r op(W[expert of r])` with W in bf16, of `counts` rows each.
async fn grouped(context: &Context, counts: &[usize], tb: Trans, [k, n]: [usize; 2]) -> Result<Findings> {
    let gpu = &context.gpu;
    let host = groups(gpu, counts, 1)?;
    let (mut found, mut guards) = (Findings::default(), Findings::default());
    let x = host.rows(k, 1 + 7919 * context.seed);
    let stored_shape = if tb == T { [counts.len(), n, k] } else { [counts.len(), k, n] };
    let w = in_bf16(&stored_shape, 2 + 7919 * context.seed);
    let got = context
        .twice("Y", &mut found, async || {
            let y = Guarded::new(gpu, &[host.groups.capacity, n])?;
            grouped_gemm(&context.upload(&x)?, &context.stored(&w, DType::Bf16)?, tb, &host.groups, &y.inner)?;
            Ok(vec![y.read("Y", true, &mut guards).await?])
        })
        .await?;
    guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
    for e in 0..counts.len() {
        let (x, w) = (host.of(&x, e), w.matrix(e));
        let w = if tb == T { w.transpose() } else { w };
        let rows = &got[0][host.offsets[e] * n..host.offsets[e + 1] * n];
        found.sums(
            &format!("Y of expert {e}"),
            rows,
            &x.matmul(&w),
            &x.map(|v| v.abs()).matmul(&w.map(|v| v.abs())),
            k,
        );
    }
    Ok(found)
}

/// Rows of a table of 16 bits, which must come as they are.
async fn embedding(context: &Context, dtype: DType, [vocabulary, width]: [usize; 2]) -> Result<Findings> {
    let mut found = Findings::default();
    let gpu = &context.gpu;
    let table = Array::random(&[vocabulary, width], 1 + 7919 * context.seed);
    let table = table.map(|&x| match dtype {
        DType::F16 => f64::from(half::f16::from_f64(x)),
        _ => f64::from(half::bf16::from_f64(x)),
    });
    // The last is beyond the table, which gives zeros.
    let mut tokens = indices(37, vocabulary, 3);
    tokens.data[36] = vocabulary as f64;
    let ids: Vec<u32> = tokens.data.iter().map(|&x| x as u32).collect();
    let got = context
        .twice("y", &mut found, async || {
            let (table, ids) = (context.stored(&table, dtype)?, Tensor::from_u32(gpu, [ids.len()], &ids)?);
            Ok(vec![WideEmbedding.forward(&[&table, &ids])?.output.to_f32().await?])
        })
        .await?;
    let want = Embedding.reference(&[table, tokens]).to_f32();
    if let Some(i) = (0..want.len()).find(|&i| got[0][i].to_bits() != want[i].to_bits()) {
        found.wrong(format!("y: element {i} is {}, expected {}", got[0][i], want[i]));
    }
    Ok(found)
}

/// All of them.
pub(super) fn cases(tier: Tier) -> Vec<Case> {
    let mut all = Vec::new();
    for (level, size) in [
        (Quick, [1, 64, 40]),
        (Usual, [3, 256, 1024]),
        (Usual, [5, 4, 4]),
        (Usual, [7, 36, 8]),
        (Usual, [16, 24, 100]),
        (Quick, [67, 64, 68]),
        (Usual, [132, 100, 136]),
        (Usual, [33, 1028, 36]),
    ] {
        for (tb, letter) in [(N, 'n'), (T, 't')] {
            let name = format!("gemm/bf16/n{letter} {}", sizes(&size));
            all.push(Case::new(level, name, async move |context| product(context, tb, size).await));
        }
    }
    // Rows of C that are no fours.
    for (level, size) in [(Quick, [9, 36, 51]), (Usual, [2, 36, 51])] {
        let name = format!("gemm/bf16/nt {}", sizes(&size));
        all.push(Case::new(level, name, async move |context| product(context, T, size).await));
    }
    let counts: [&[usize]; 3] = [&[1], &[0, 5, 0, 19, 1], &[17, 3, 40, 0, 0, 96, 2, 31]];
    for (i, counts) in counts.into_iter().enumerate() {
        for size in [[4, 8], [36, 20], [64, 132], [36, 51]] {
            // The rows of W as it is stored are fours.
            let forms = [(N, 'n'), (T, 't')].into_iter().filter(|(tb, _)| *tb == T || size[1] % 4 == 0);
            for (tb, letter) in forms {
                let level = if i == 1 && size[0] == 36 { Quick } else { Usual };
                let name = format!("grouped/bf16/{} rows, n{letter} {}", sizes(counts), sizes(&size));
                all.push(Case::new(level, name, async move |context| grouped(context, counts, tb, size).await));
            }
        }
    }
    // In every shape of GPUs' tiles; those that do not suit tiles of experts leave these to choose for themselves.
    if tier == Tier::Gpu {
        for (i, shape) in SHAPES.iter().enumerate() {
            for n in [56, 51] {
                let name = format!("gemm/bf16/{shape}, nt {}", sizes(&[67, 36, n]));
                all.push(Case::new(Usual, name, async move |context| {
                    let _forced = context.gpu.forced(i, 1);
                    product(context, T, [67, 36, n]).await
                }));
                let name = format!("grouped/bf16/{shape}, nt {}", sizes(&[36, n]));
                all.push(Case::new(Usual, name, async move |context| {
                    let _forced = context.gpu.forced(i, 1);
                    grouped(context, &[17, 3, 140, 0, 96, 2], T, [36, n]).await
                }));
            }
        }
    }
    for (level, size) in [(Usual, [3, 4]), (Quick, [300, 36]), (Usual, [1021, 256])] {
        let name = |dtype: &str| format!("op/wide_embedding/{dtype} {}", sizes(&size));
        all.push(Case::new(level, name("bf16"), async move |context| embedding(context, DType::Bf16, size).await));
        all.push(
            Case::new(level, name("f16"), async move |context| embedding(context, DType::F16, size).await)
                .needs(Needs::F16),
        );
    }
    all
}
