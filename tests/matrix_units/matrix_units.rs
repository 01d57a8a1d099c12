//! Products of f16 operands on matrix units against f64, on every adapter of the machine that has them; says so where
//! none has.

use std::time::Instant;

use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions, OPTIONAL_FEATURES};
use sdmoe::kernels::gemm::{Trans, gemm};
use sdmoe::tensor::{DType, Tensor};

/// The adapter's device with everything that matrix units need, if it has them.
fn open(adapter: &wgpu::Adapter) -> Option<Gpu> {
    let name = adapter.get_info().name;
    let blocks = adapter.cooperative_matrix_properties();
    println!("{name}: {} forms of cooperative matrix", blocks.len());
    let wanted = OPTIONAL_FEATURES | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    if !adapter.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        return None;
    }
    #[allow(unsafe_code, reason = "wgpu's way to agree to an experimental feature")]
    // SAFETY: it is agreed that wgpu's experimental features may have bugs.
    let experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
    let description = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        experimental_features,
        ..Default::default()
    };
    let (device, queue) = block_on(adapter.request_device(&description)).unwrap();
    let options = GpuOptions { cooperative_matrix: blocks.clone(), ..GpuOptions::default() };
    let gpu = Gpu::from_device(device, queue, &options).unwrap();
    if !gpu.cooperative_matrix() {
        println!("{name}: not in the form needed, of {blocks:?}");
    }
    gpu.cooperative_matrix().then_some(gpu)
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
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let gpus: Vec<Gpu> = block_on(instance.enumerate_adapters(wgpu::Backends::all())).iter().filter_map(open).collect();
    if gpus.is_empty() {
        println!("no adapter has cooperative matrices of 16 x 16 x 16 from f16 to f32: nothing was compared");
    }
    for gpu in gpus {
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
