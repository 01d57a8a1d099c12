//! Sums, fills, random numbers, losses of single tokens.

use super::sizes;
use crate::autograd::{Array, Op};
use crate::error::Result;
use crate::kernels::column_sum::column_sum_onto;
use crate::kernels::elementwise::{axpby, fill, round_into};
use crate::kernels::loss::{mean, token_losses};
use crate::linalg::random;
use crate::ops::CrossEntropy;
use crate::tensor::{DType, Tensor};
use crate::verify::Level::{Full, Quick, Usual};
use crate::verify::context::{Case, Context, Findings, Guarded, Needs, indices};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (level, [rows, columns]) in [
        (Usual, [2, 1]),
        (Usual, [3, 5]),
        (Quick, [131, 33]),
        (Usual, [4099, 3]),
        (Usual, [70, 1000]),
        (Full, [70_001, 12]),
    ] {
        all.push(Case::new(level, format!("sums/columns/{}", sizes(&[rows, columns])), async move |c| {
            let (mut found, mut guards) = (Findings::default(), Findings::default());
            let x = Array::random(&[rows, columns], 1 + 7919 * c.seed);
            let y = Array::random(&[columns], 2 + 7919 * c.seed);
            let device = c.upload(&x)?;
            let got = c
                .twice("sum", &mut found, async || {
                    let sum = Guarded::holding(&c.gpu, &y)?;
                    column_sum_onto(&device, 0.5, &sum.inner)?;
                    Ok(vec![sum.read("sum", false, &mut guards).await?])
                })
                .await?;
            guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
            let ones = Array::new(&[1, rows], vec![1.0; rows]);
            let row = |x: Array| Array::new(&[columns], x.data);
            let want = row(ones.matmul(&x)).zip(&y, |s, y| s + 0.5 * y);
            let bound = row(ones.matmul(&x.map(|v| v.abs()))).zip(&y, |s, y| s + 0.5 * y.abs());
            // Blocks of 64 rows at most, then blocks of those: no sum has more steps.
            found.sums("sum", &got[0], &want, &bound, rows.min(200));
            Ok(found)
        }));
    }
    for (level, count) in [(Usual, 1), (Usual, 63), (Quick, 4099), (Full, 1_000_003)] {
        all.push(Case::new(level, format!("sums/mean/{count}"), async move |c| {
            let mut found = Findings::default();
            let x = Array::random(&[count], 1 + 7919 * c.seed);
            let device = c.upload(&x)?;
            let got = c.twice("mean", &mut found, async || Ok(vec![mean(&device)?.to_f32().await?])).await?;
            let n = count as f64;
            let want = Array::new(&[1], vec![x.data.iter().sum::<f64>() / n]);
            let bound = Array::new(&[1], vec![x.data.iter().map(|v| v.abs()).sum::<f64>() / n]);
            found.sums("mean", &got[0], &want, &bound, count.min(256));
            Ok(found)
        }));
    }
    // The last is more than a thread takes of one row.
    for (level, [rows, columns]) in [(Quick, [67, 12]), (Usual, [67, 13]), (Usual, [2, 120_008])] {
        let name = format!("sums/token losses/{}", sizes(&[rows, columns]));
        all.push(Case::new(level, name, async move |c| losses(c, rows, columns).await));
    }
    for (level, count) in [(Usual, 1), (Usual, 4096), (Quick, 4099), (Full, 5_000_001)] {
        all.push(Case::new(level, format!("elementwise/axpby/{count}"), async move |c| {
            let (mut found, mut guards) = (Findings::default(), Findings::default());
            let (x, y) = (Array::random(&[count], 1 + c.seed), Array::random(&[count], 2 + c.seed));
            let device = c.upload(&x)?;
            let got = c
                .twice("y", &mut found, async || {
                    let sum = Guarded::holding(&c.gpu, &y)?;
                    axpby(2.0, &device, -0.5, &sum.inner)?;
                    Ok(vec![sum.read("y", false, &mut guards).await?])
                })
                .await?;
            guards.wrong.into_iter().for_each(|wrong| found.wrong(wrong));
            let (want, bound) = (x.zip(&y, |x, y| 2.0 * x - 0.5 * y), x.zip(&y, |x, y| 2.0 * x.abs() + 0.5 * y.abs()));
            found.sums("y", &got[0], &want, &bound, 1);
            Ok(found)
        }));
        all.push(Case::new(level, format!("elementwise/fill/{count}"), async move |c| {
            let mut found = Findings::default();
            let y = Guarded::new(&c.gpu, &[count])?;
            fill(&y.inner, 0.1)?;
            let got = y.read("y", false, &mut found).await?;
            found.compare("y", &got, &Array::new(&[count], vec![f64::from(0.1f32); count]), 0.0);
            Ok(found)
        }));
        let case = Case::new(level, format!("elementwise/round to f16/{count}"), async move |c| {
            let mut found = Findings::default();
            let x = Array::random(&[count], 3 + c.seed).map(|v| 100.0 * v);
            let x = Array::from_f32(&[count], &x.to_f32());
            let y = Tensor::empty(&c.gpu, [count], DType::F16)?;
            round_into(&c.upload(&x)?, &y)?;
            let got = y.to_f32().await?;
            let want = x.map(|&v| f64::from(half::f16::from_f64(v)));
            // WGSL lets a conversion round either way: one unit of the last place, not half of one.
            let eps = if got.iter().zip(&want.data).all(|(g, w)| f64::from(*g) == *w) { 0.0 } else { f64::exp2(-10.0) };
            if eps > 0.0 {
                found.note("f32 to f16 does not round to the nearest everywhere");
            }
            let off = got.iter().zip(&want.data).map(|(g, w)| (f64::from(*g) - w).abs() / w.abs().max(6.2e-5));
            found.at_most("a rounding, relative", off.fold(0.0, f64::max), eps + 1e-30);
            Ok(found)
        });
        all.push(case.needs(Needs::F16));
    }
    for (level, count) in [(Usual, 1), (Quick, 4099)] {
        all.push(Case::new(level, format!("random/uniform/{count}"), async move |c| {
            let mut found = Findings::default();
            let y = Guarded::new(&c.gpu, &[count])?;
            random::fill_uniform(&y.inner, c.seed, 5)?;
            let got = y.read("y", false, &mut found).await?;
            let want: Vec<u32> = (0..count).map(|i| random::uniform(c.seed, 5, i as u32).to_bits()).collect();
            found.same("bits", &got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), &want);
            Ok(found)
        }));
        all.push(Case::new(level, format!("random/normal/{count}"), async move |c| {
            let mut found = Findings::default();
            let y = Guarded::new(&c.gpu, &[count])?;
            random::fill_normal(&y.inner, c.seed, 6, 1.0)?;
            let got = y.read("y", false, &mut found).await?;
            let want: Vec<u32> = (0..count).map(|i| random::normal(c.seed, 6, i as u32).to_bits()).collect();
            found.same("bits", &got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), &want);
            Ok(found)
        }));
    }
    all
}

/// The losses of single tokens, and their mean.
async fn losses(c: &Context, rows: usize, columns: usize) -> Result<Findings> {
    let mut found = Findings::default();
    let logits = Array::random(&[rows, columns], 3 + 7919 * c.seed);
    // Those that are beyond the columns have no loss.
    let targets = indices(rows, columns * 5 / 4, 1);
    let y = Tensor::from_u32(&c.gpu, [rows], &targets.to_u32())?;
    let x = c.upload(&logits)?;
    let got = c
        .twice("losses", &mut found, async || {
            let losses = token_losses(&x, &y)?;
            Ok(vec![mean(&losses)?.to_f32().await?, losses.to_f32().await?])
        })
        .await?;
    found.compare("mean of the losses", &got[0], &CrossEntropy.reference(&[logits, targets.clone()]), 2e-6);
    if got[1].iter().zip(&targets.data).any(|(loss, &target)| (*loss == 0.0) != (target >= columns as f64)) {
        found.wrong("a target beyond the vocabulary has a loss, or another has none");
    }
    Ok(found)
}
