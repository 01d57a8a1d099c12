//! Rates of the matrix products, as ratios to nalgebra's single-thread f32 product, all interleaved in one process.
//!
//! `cargo bench --bench kernels`; words after `--` choose the cases whose name contains one of them.

use std::time::Instant;

use pollster::block_on;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::kernels::gemm::{Trans, gemm};
use sdmoe::tensor::Tensor;

/// Rounds; each measures every case once, so that a busy machine slows all alike.
const ROUNDS: usize = 7;
/// What one measurement should take at least.
const SECONDS: f64 = 0.04;

struct Case {
    name: String,
    flop: f64,
    /// Records the work once.
    record: Box<dyn Fn()>,
    repeats: usize,
    rates: Vec<f64>,
}

impl Case {
    fn new(name: impl Into<String>, flop: usize, record: impl Fn() + 'static) -> Self {
        Case { name: name.into(), flop: flop as f64, record: Box::new(record), repeats: 1, rates: Vec::new() }
    }

    fn seconds(&self, gpu: &Gpu) -> f64 {
        let start = Instant::now();
        for _ in 0..self.repeats {
            (self.record)();
        }
        block_on(gpu.finish()).expect("a working device");
        start.elapsed().as_secs_f64()
    }
}

fn random(gpu: &Gpu, shape: &[usize]) -> Tensor {
    let mut state = 1u32;
    let data: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        })
        .collect();
    Tensor::from_f32(gpu, shape, &data).expect("a working device")
}

fn dense(gpu: &Gpu, ta: Trans, tb: Trans, batch: usize, [m, k, n]: [usize; 3]) -> Case {
    let shape = |t, r, c| if t == Trans::N { [batch, r, c] } else { [batch, c, r] };
    let (a, b) = (random(gpu, &shape(ta, m, k)), random(gpu, &shape(tb, k, n)));
    let c = random(gpu, &[batch, m, n]);
    let name =
        format!("dense {ta:?}{tb:?} {}{m}x{k}x{n}", if batch > 1 { format!("{batch} of ") } else { String::new() });
    Case::new(name, 2 * batch * m * k * n, move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c).expect("valid shapes"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let gpu = block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
    println!("{} ({}), tier {:?}", gpu.adapter().name, gpu.adapter().driver, gpu.tier());
    use Trans::{N, T};
    let mut cases = Vec::new();
    for size in [[512, 512, 512], [1024, 1024, 1024], [4096, 512, 512], [511, 513, 509]] {
        cases.extend([(N, N), (N, T), (T, N)].map(|(ta, tb)| dense(&gpu, ta, tb, 1, size)));
    }
    cases.push(dense(&gpu, T, T, 1, [512, 512, 512]));
    cases.push(dense(&gpu, T, N, 8, [8, 512, 512]));
    cases.push(dense(&gpu, N, N, 8, [512, 512, 8]));
    cases.push(dense(&gpu, N, N, 1, [2048, 256, 8]));
    cases.retain(|case| words.is_empty() || words.iter().any(|word| case.name.contains(word)));
    for case in &mut cases {
        case.seconds(&gpu);
        case.repeats = (SECONDS / case.seconds(&gpu)).ceil() as usize;
    }
    let a = nalgebra::DMatrix::<f32>::from_fn(1024, 1024, |i, j| (i * 7 + j * 3) as f32 % 11.0 - 5.0);
    let mut c = a.clone();
    let mut host = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        a.mul_to(&a, &mut c);
        host.push(2.0 * 1024f64.powi(3) / start.elapsed().as_secs_f64());
        for case in &mut cases {
            let rate = case.repeats as f64 * case.flop / case.seconds(&gpu);
            case.rates.push(rate);
        }
    }
    println!("{:<40} {:>8} {:>22}", "", "GFLOP/s", "of nalgebra (range)");
    println!("{:<40} {:>8.1}", "nalgebra 1024x1024x1024, one thread", median(&mut host.clone()) / 1e9);
    for case in &mut cases {
        let mut ratios: Vec<f64> = case.rates.iter().zip(&host).map(|(rate, host)| rate / host).collect();
        let ratio = median(&mut ratios);
        println!(
            "{:<40} {:>8.1} {:>8.3} ({:.3} to {:.3})",
            case.name,
            median(&mut case.rates) / 1e9,
            ratio,
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
}
