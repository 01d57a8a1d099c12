//! Rates of the matrix products, as ratios to nalgebra's single-thread f32 product, all interleaved in one process.
//!
//! `cargo bench --bench kernels`; words after `--` choose the cases whose name contains one of them.
//! With `--processor-time` a second is one that some thread of this process ran (Linux): the rate of one core of a
//! software adapter, for machines that are busy. The rate shown is the best of all rounds, the ratio their median.

use std::sync::OnceLock;
use std::time::Instant;

use pollster::block_on;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::kernels::gemm::{Trans, gemm};
use sdmoe::kernels::grouped::{Groups, NONE, grouped_gemm, grouped_weight_gradient, tile_rows};
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

    fn seconds(&self, gpu: &Gpu, clock: fn() -> f64) -> f64 {
        let start = clock();
        for _ in 0..self.repeats {
            (self.record)();
        }
        block_on(gpu.finish()).expect("a working device");
        clock() - start
    }
}

/// Seconds since the first call.
fn wall() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// Seconds that this process's threads have run, on Linux: what a software adapter takes from a machine that others use.
fn processor() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| -> Option<f64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    threads.filter_map(nanoseconds).sum::<f64>() * 1e-9
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

/// The groups of experts that have `counts` rows.
fn groups(gpu: &Gpu, counts: &[usize]) -> Groups {
    let tile = tile_rows(gpu);
    let capacity = Groups::capacity(counts.iter().sum(), counts.len(), tile);
    let (mut offsets, mut tiles) = (vec![0], Vec::new());
    for (expert, count) in counts.iter().enumerate() {
        tiles.extend(vec![expert as u32; count.div_ceil(tile)]);
        offsets.push((tiles.len() * tile) as u32);
    }
    tiles.resize(capacity / tile, NONE);
    let counts: Vec<u32> = counts.iter().map(|&count| count as u32).collect();
    let tensor = |data: &[u32]| Tensor::from_u32(gpu, [data.len()], data).expect("a working device");
    let (tile_expert, offsets, counts) = (tensor(&tiles), tensor(&offsets), tensor(&counts));
    Groups { experts: counts.numel(), tile_rows: tile, capacity, tile_expert, offsets, counts }
}

/// The three grouped products of one layer of width 512 whose experts have `counts` rows.
fn grouped(gpu: &Gpu, name: &str, counts: &[usize]) -> Vec<Case> {
    const WIDTH: usize = 512;
    let groups = groups(gpu, counts);
    let (x, w) = (random(gpu, &[groups.capacity, WIDTH]), random(gpu, &[counts.len(), WIDTH, WIDTH]));
    let y = random(gpu, &[groups.capacity, WIDTH]);
    let flop = 2 * counts.iter().sum::<usize>() * WIDTH * WIDTH;
    let case = |what: &str, record: Box<dyn Fn()>| Case::new(format!("grouped {what}, {name}"), flop, record);
    let handles = || (x.clone(), w.clone(), y.clone(), groups.clone());
    let forms = [("forward", Trans::N), ("dx", Trans::T)].map(|(what, trans)| {
        let (x, w, y, groups) = handles();
        case(what, Box::new(move || grouped_gemm(&x, &w, trans, &groups, &y).expect("valid shapes")))
    });
    let (x, w, y, groups) = handles();
    let dw = Box::new(move || grouped_weight_gradient(&x, &y, &groups, 0.0, &w).expect("valid shapes"));
    forms.into_iter().chain([case("dw", dw)]).collect()
}

/// Rows of 64 experts, 8192 together, from 64 to 190: more or less by chance, as a trained router has them.
fn uneven() -> Vec<usize> {
    (0..64).map(|e| 65 + 2 * (e * 37 % 64)).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let clock = if std::env::args().any(|word| word == "--processor-time") { processor } else { wall };
    let gpu = block_on(Gpu::open(&GpuOptions::default())).expect("an adapter");
    println!("{} ({}), tier {:?}", gpu.adapter().name, gpu.adapter().driver, gpu.tier());
    use Trans::{N, T};
    let mut cases = Vec::new();
    for size in [[512, 512, 512], [1024, 1024, 1024], [4096, 512, 512], [512, 2048, 512], [511, 513, 509]] {
        cases.extend([(N, N), (N, T), (T, N)].map(|(ta, tb)| dense(&gpu, ta, tb, 1, size)));
    }
    cases.push(dense(&gpu, T, T, 1, [512, 512, 512]));
    cases.push(dense(&gpu, T, N, 8, [8, 512, 512]));
    cases.push(dense(&gpu, N, N, 8, [512, 512, 8]));
    cases.push(dense(&gpu, N, N, 1, [2048, 256, 8]));
    // 2048 tokens: 8 experts, top-2, shares even or 1, 1/2, 1/3 .. of 4096 rows; 64 experts, top-4.
    cases.extend(grouped(&gpu, "even", &[512; 8]));
    cases.extend(grouped(&gpu, "Zipf", &[1507, 754, 502, 377, 301, 251, 215, 189]));
    cases.extend(grouped(&gpu, "one pair", &[2048, 0, 0, 2048, 0, 0, 0, 0]));
    cases.extend(grouped(&gpu, "64 experts", &uneven()));
    cases.retain(|case| words.is_empty() || words.iter().any(|word| case.name.contains(word)));
    for case in &mut cases {
        case.seconds(&gpu, wall);
        case.repeats = (SECONDS / case.seconds(&gpu, wall)).ceil() as usize;
    }
    let a = nalgebra::DMatrix::<f32>::from_fn(1024, 1024, |i, j| (i * 7 + j * 3) as f32 % 11.0 - 5.0);
    let mut c = a.clone();
    let mut host = Vec::new();
    for _ in 0..ROUNDS {
        let start = clock();
        a.mul_to(&a, &mut c);
        host.push(2.0 * 1024f64.powi(3) / (clock() - start));
        for case in &mut cases {
            let rate = case.repeats as f64 * case.flop / case.seconds(&gpu, clock);
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
            case.rates.iter().copied().fold(0.0, f64::max) / 1e9,
            ratio,
            ratios[0],
            ratios[ratios.len() - 1]
        );
    }
}
