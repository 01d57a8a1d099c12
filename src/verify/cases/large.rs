//! Large launches: more workgroups than one dimension takes, and tensors that do not fit a binding.

use crate::autograd::check::{Input, Tolerance};
use crate::autograd::{Array, Op};
use crate::error::Result;
use crate::gpu::{AdapterChoice, Gpu, GpuOptions};
use crate::kernels::elementwise::axpby;
use crate::kernels::gemm::{Trans, gemm};
use crate::ops::{Add, Attention, CrossEntropy, Embedding, RmsNorm};
use crate::tensor::{DType, Tensor};
use crate::verify::Level::{Full, Usual};
use crate::verify::context::{Case, Context, Findings, indices};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(Full, "large/grids/more than 65535 workgroups", grids),
        Case::new(Full, "large/grids/more than 65535 products", products),
        Case::new(Usual, "large/bindings/of 64 KiB", small_bindings),
        Case::new(Full, "large/bindings/beyond the adapter's own", beyond),
    ]
}

/// A sum of more than 65,537 x 64 elements, and attention over 70,000 sequences of one token.
async fn grids(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    let gpu = &context.gpu;
    let count = 65_537 * 256 + 1;
    let (x, y) = (Tensor::zeros(gpu, [count])?, Tensor::empty_f32(gpu, [count])?);
    let last = x.slice(count / 64 * 64..count)?;
    last.write_f32(&vec![2.0; last.numel()])?;
    axpby(2.0, &x, 0.0, &y)?;
    let end = y.slice(count / 64 * 64..count)?.to_f32().await?;
    if end.iter().any(|&v| v != 4.0) {
        found.wrong(format!("the end of a sum of {count} elements: expected 4, got {end:?}"));
    }
    let op = Attention::new(1, 1, 4, 1);
    let v = context.upload(&Array::random(&[70_000, 4], 1 + context.seed))?;
    // A single key: the output is the value, to the last bit of p = 1.
    let (got, want) = (op.forward(&[&v, &v, &v])?.output.to_f32().await?, v.to_f32().await?);
    let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    found.same("attention with one key", &bits(got), &bits(want));
    Ok(found)
}

/// 70,000 products of 1 x 2 x 1.
async fn products(context: &Context) -> Result<Findings> {
    let mut found = Findings::default();
    const COUNT: usize = 70_000;
    let (a, b) = (Array::random(&[COUNT, 1, 2], 1 + context.seed), Array::random(&[1, 2, 1], 2 + context.seed));
    let c = Tensor::empty_f32(&context.gpu, [COUNT, 1, 1])?;
    gemm(Trans::N, Trans::N, 1.0, &context.upload(&a)?, &context.upload(&b)?, 0.0, &c)?;
    let term = |i: usize, f: fn(f64) -> f64| f(a.data[2 * i] * b.data[0]) + f(a.data[2 * i + 1] * b.data[1]);
    let (want, bound) = (Array::from_fn(&[COUNT], |i| term(i, |x| x)), Array::from_fn(&[COUNT], |i| term(i, f64::abs)));
    found.sums("C", &c.to_f32().await?, &want, &bound, 2);
    Ok(found)
}

/// Every op on tensors that a binding does not hold: launches are split.
async fn small_bindings(context: &Context) -> Result<Findings> {
    let adapter = AdapterChoice::Index(context.gpu.adapter().index);
    let options = GpuOptions {
        adapter,
        tier: Some(context.gpu.tier()),
        max_binding_bytes: Some(1 << 16),
        ..GpuOptions::default()
    };
    let small = Context { gpu: Gpu::open(&options).await?, seed: context.seed, keeps_results: false };
    let random = |shape: &[usize], seed| Input::Tracked(Array::random(shape, seed + 7919 * context.seed));
    let mut found = Findings::default();
    let mut take = |what: &str, other: Findings| {
        if let Some(wrong) = other.wrong {
            found.wrong(format!("{what}: {wrong}"));
        }
        other.worst.into_iter().for_each(|worst| found.deviation(worst));
    };
    let tolerance = Tolerance::default();
    // Above 64 KiB each: 1023 x 33 x 4 = 135 KB and more.
    take("add", small.op(Add, &[random(&[1023, 33], 1), random(&[1023, 33], 2)], tolerance, 1).await?);
    take("rms_norm", small.op(RmsNorm { eps: 1e-5 }, &[random(&[1023, 33], 1), random(&[33], 2)], tolerance, 1).await?);
    let op = Attention::new(6, 2, 8, 11);
    let inputs = [random(&[473, 48], 1), random(&[473, 16], 2), random(&[473, 16], 3)];
    take("attention", small.op(op, &inputs, tolerance, 1).await?);
    let tokens = Input::Index(indices(997, 1000, 3));
    take("embedding", small.op(Embedding, &[random(&[1000, 33], 1), tokens], tolerance, 1).await?);
    let targets = Input::Index(indices(997, 37, 3));
    take("cross_entropy", small.op(CrossEntropy, &[random(&[997, 37], 1), targets], tolerance, 1).await?);
    Ok(found)
}

/// A tensor of a little more than the adapter's largest binding, where a buffer may hold it.
async fn beyond(context: &Context) -> Result<Findings> {
    const MOST: u64 = 1 << 30;
    let mut found = Findings::default();
    let gpu = &context.gpu;
    let bytes = gpu.max_binding_bytes() + (1 << 20);
    if bytes > gpu.adapter().max_buffer_bytes || bytes > MOST {
        found.note(format!("nothing was compared: a buffer of {bytes} bytes is too large to try"));
        return Ok(found);
    }
    let count = (bytes / 4) as usize;
    let x = Tensor::persistent(gpu, [count], DType::F32)?;
    let end = x.slice(count - 1024..count)?;
    end.write_f32(&[3.0; 1024])?;
    let sum = x.duplicate()?;
    axpby(1.0, &x, 1.0, &sum)?;
    let got = sum.slice(count - 1024..count)?.to_f32().await?;
    if got.iter().any(|&v| v != 6.0) {
        found.wrong(format!("the end of a sum of {count} elements: expected 6, got {:?}", &got[..4]));
    }
    let start = sum.slice(0..1024)?.to_f32().await?;
    if start.iter().any(|&v| v != 0.0) {
        found.wrong(format!("the begin of a sum of {count} elements: expected 0, got {:?}", &start[..4]));
    }
    Ok(found)
}
