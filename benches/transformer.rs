//! Times of the transformer's dense ops, forward and backward: `cargo bench --bench transformer [-- CASE]`.

use pollster::block_on;
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::{Gpu, GpuOptions, Tier};
use sdmoe::ops::{Add, Attention, CrossEntropy, Embedding, RmsNorm, Rope};
use sdmoe::tensor::Tensor;

type Failure = Box<dyn std::error::Error>;

/// Runs of each case; the median is printed, and the least, which a busy machine disturbs less.
const RUNS: usize = 7;

/// Median and least milliseconds by kernel of `op`'s forward and backward on `inputs`.
fn kernels(
    gpu: &Gpu,
    op: impl Op + Copy + 'static,
    inputs: &[Tensor],
) -> Result<Vec<(&'static str, f64, f64)>, Failure> {
    let mut times: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for run in 0..=RUNS {
        let mut tape = Tape::new(gpu);
        let vars: Vec<_> = inputs.iter().map(|x| tape.variable(x)).collect();
        gpu.start_profile()?;
        let y = tape.apply(op, &vars)?;
        let dy = tape.value(y).duplicate()?;
        drop(tape.backward(&[(y, dy)])?);
        for kernel in block_on(gpu.finish_profile())? {
            // The first run compiles.
            if run == 0 {
                times.push((kernel.name, Vec::new()));
            } else if let Some((_, all)) = times.iter_mut().find(|(name, _)| *name == kernel.name) {
                all.push(1e3 * kernel.seconds);
            }
        }
    }
    for (_, all) in &mut times {
        all.sort_by(f64::total_cmp);
    }
    Ok(times.into_iter().map(|(name, all)| (name, all[all.len() / 2], all[0])).collect())
}

fn random(gpu: &Gpu, shape: &[usize]) -> Result<Tensor, Failure> {
    Ok(Tensor::from_f32(gpu, shape, &Array::random(shape, 1).to_f32())?)
}

/// GFLOP/s over the causal half: two products forward, three for dq, four for dk and dv.
fn attention(
    gpu: &Gpu,
    seq: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    batch: usize,
) -> Result<(), Failure> {
    let op = Attention { heads, kv_heads, head_dim, seq };
    let rows = batch * seq;
    let kv = random(gpu, &[rows, kv_heads * head_dim])?;
    let inputs = [random(gpu, &[rows, heads * head_dim])?, kv.clone(), kv];
    let product = (batch * heads * seq * (seq + 1) * head_dim) as f64 / 1e6;
    println!("attention: seq {seq}, heads {heads}, kv_heads {kv_heads}, head_dim {head_dim}, batch {batch}");
    for (name, ms, least) in kernels(gpu, op, &inputs)? {
        let products = match name {
            _ if name.contains("dkv") => 4.0,
            _ if name.contains("dq") => 3.0,
            _ if name.contains("delta") => 0.0,
            _ => 2.0,
        };
        println!("  {name:32} {ms:9.3} ms {:8.2} GFLOP/s (least {least:.3} ms)", products * product / ms);
    }
    Ok(())
}

fn rows<T: Op + Copy + 'static>(gpu: &Gpu, op: T, inputs: &[Tensor], bytes: usize) -> Result<(), Failure> {
    println!("{}: {:?}", op.name(), inputs);
    for (name, ms, least) in kernels(gpu, op, inputs)? {
        println!("  {name:32} {ms:9.3} ms {:8.2} GB/s of {bytes} bytes (least {least:.3} ms)", bytes as f64 / 1e6 / ms);
    }
    Ok(())
}

fn norms(gpu: &Gpu) -> Result<(), Failure> {
    let (t, d, v) = (2048, 256, 256);
    let x = random(gpu, &[t, d])?;
    let tokens: Vec<u32> = (0..t as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect();
    let tokens = Tensor::from_u32(gpu, [t], &tokens)?;
    let two = 2 * x.bytes() as usize;
    rows(gpu, Add, &[x.clone(), x.clone()], 3 * x.bytes() as usize)?;
    rows(gpu, RmsNorm { eps: 1e-5 }, &[x.clone(), random(gpu, &[d])?], two)?;
    rows(gpu, Rope { heads: 8, head_dim: 32, seq: 256, theta: 1e4 }, std::slice::from_ref(&x), two)?;
    rows(gpu, Embedding, &[random(gpu, &[v, d])?, tokens.clone()], two)?;
    rows(gpu, CrossEntropy, &[random(gpu, &[t, v])?, tokens], two)
}

fn main() -> Result<(), Failure> {
    let case = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = |name: &str| case.as_ref().is_none_or(|c| name.contains(c.as_str()));
    let own = block_on(Gpu::open(&GpuOptions::default()))?;
    for tier in [own.tier(), Tier::Workgroup] {
        let gpu = block_on(Gpu::open(&GpuOptions { tier: Some(tier), ..Default::default() }))?;
        println!("{} ({tier:?})", gpu.adapter().name);
        if wanted("attention") {
            attention(&gpu, 256, 8, 8, 32, 8)?;
            attention(&gpu, 256, 8, 4, 32, 8)?;
            if tier == own.tier() {
                attention(&gpu, 1024, 8, 8, 32, 1)?;
                attention(&gpu, 256, 4, 4, 64, 4)?;
                attention(&gpu, 256, 2, 2, 128, 4)?;
            }
        }
        if wanted("norms") {
            norms(&gpu)?;
        }
        if tier == Tier::Workgroup {
            break;
        }
    }
    Ok(())
}
