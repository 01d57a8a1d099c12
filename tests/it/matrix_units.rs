//! Products of f16 operands on matrix units against f64, on every adapter of the machine that has them; says so where
//! none has. The others refuse, and name what they lack.

use std::time::Instant;

use pollster::block_on;
use sdmoe::Result;
use sdmoe::autograd::Array;
use sdmoe::gpu::{AdapterChoice, AdapterReport, Gpu, GpuOptions, Tier, adapters};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::tensor::{DType, Tensor};

/// Opens the adapter with its matrix units.
fn open(adapter: &AdapterReport, tier: Option<Tier>) -> Result<Gpu> {
    let adapter = AdapterChoice::Index(adapter.index);
    block_on(Gpu::open(&GpuOptions::default().adapter(adapter).tier(tier).matrix_units(true)))
}

fn tensor(gpu: &Gpu, x: &Array, dtype: DType) -> Tensor {
    let tensor = Tensor::empty(gpu, x.shape.as_slice(), dtype).unwrap();
    tensor.write_f32(&x.to_f32()).unwrap();
    tensor
}

/// What an f16 tensor of `x` holds.
fn held(gpu: &Gpu, x: &Array) -> Array {
    Array::from_f32(&x.shape, &block_on(tensor(gpu, x, DType::F16).to_f32()).unwrap())
}

fn verify(gpu: &Gpu, ta: Trans, tb: Trans, [m, k, n]: [usize; 3]) {
    let what = format!("{gpu:?} {ta:?}{tb:?} {m}x{k}x{n}");
    let stored = |t, r, c| if t == Trans::N { [r, c] } else { [c, r] };
    let a = held(gpu, &Array::random(&stored(ta, m, k), 1));
    let b = held(gpu, &Array::random(&stored(tb, k, n), 2));
    let c = tensor(gpu, &Array::zeros(&[m, n]).map(|_| f64::NAN), DType::F32);
    gemm(ta, tb, 1.0, &tensor(gpu, &a, DType::F16), &tensor(gpu, &b, DType::F16), 0.0, &c).unwrap();
    let got = block_on(c.to_f32()).unwrap();
    let op = |t, x: Array| if t == Trans::N { x } else { x.transpose() };
    let (x, y) = (op(ta, a), op(tb, b));
    let bound = x.map(|v| v.abs()).matmul(&y.map(|v| v.abs()));
    for (i, ((got, want), bound)) in got.iter().zip(&x.matmul(&y).data).zip(&bound.data).enumerate() {
        // Matrix units may truncate their f32 sums instead of rounding them: twice what rounding allows.
        let allowed = 4.0 * (k + 2) as f64 * 6e-8 * bound;
        let error = (f64::from(*got) - want).abs();
        assert!(error <= allowed, "{what}: element {i} is {got}, expected {want}; allowed {allowed:e}");
    }
}

/// The rate of a large product, in TFLOP/s.
fn rate(gpu: &Gpu, dtype: DType) -> f64 {
    const SIZE: usize = 4096;
    const TIMES: usize = 20;
    let zeros = Array::zeros(&[SIZE, SIZE]);
    let (a, b, c) = (tensor(gpu, &zeros, dtype), tensor(gpu, &zeros, dtype), tensor(gpu, &zeros, DType::F32));
    let run = |times: usize| {
        let start = Instant::now();
        for _ in 0..times {
            gemm(Trans::N, Trans::N, 1.0, &a, &b, 0.0, &c).unwrap();
        }
        block_on(c.slice(0..1).unwrap().to_f32()).unwrap();
        start.elapsed().as_secs_f64()
    };
    run(2);
    2.0 * (SIZE as f64).powi(3) * TIMES as f64 / run(TIMES) / 1e12
}

#[test]
fn products_on_matrix_units_equal_the_reference() {
    let with_them: Vec<_> =
        block_on(adapters()).unwrap().into_iter().filter(|adapter| adapter.matrix_block.is_some()).collect();
    if with_them.is_empty() {
        crate::common::untested("no adapter has cooperative matrices from f16 to f32");
    }
    for adapter in with_them {
        let gpu = open(&adapter, None).unwrap();
        assert!(gpu.cooperative_matrix(), "{gpu:?}");
        for ta in [Trans::N, Trans::T] {
            for tb in [Trans::N, Trans::T] {
                for sizes in [[64, 64, 64], [128, 256, 192], [20, 40, 24], [132, 100, 68], [260, 1000, 516]] {
                    verify(&gpu, ta, tb, sizes);
                }
            }
        }
        println!("{gpu:?}: f16 {:.1} TFLOP/s, f32 {:.1}", rate(&gpu, DType::F16), rate(&gpu, DType::F32));
    }
}

#[test]
fn an_adapter_that_lacks_what_they_need_is_refused_by_name() {
    for adapter in block_on(adapters()).unwrap() {
        // The plain kernels use them on no adapter.
        let tier = adapter.matrix_block.is_some().then_some(Tier::Plain);
        let told = open(&adapter, tier).map(drop).unwrap_err().to_string();
        println!("{told}");
        assert!(told.contains(&adapter.name) && told.contains("matrix units need "), "{told}");
    }
}

#[test]
fn the_program_says_what_is_missing_and_writes_nothing() {
    let place = crate::common::place::Place::new();
    place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(90));
    let train = "train --data text --steps 1 --out run --quiet --report off --matrix-units";
    place.fails(train, "config: --matrix-units: expected --precision f16, whose products use them, got f32");
    let devices = place.runs("devices");
    if crate::common::gpu().adapter().matrix_block.is_some() {
        assert!(devices.contains("matrix units     blocks of "), "{devices}");
        place.runs(&format!("{train} --precision f16"));
    } else {
        assert!(devices.contains("matrix units     no"), "{devices}");
        place.fails(&format!("{train} --precision f16"), "matrix units need ");
        place.fails("bench gemm --quick --matrix-units", "matrix units need ");
    }
}
