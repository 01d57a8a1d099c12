//! The device layer: buffers bound by name, clear errors, pooled buffers, deferred commands.

use crate::common::own_gpu as gpu;
use pollster::block_on;
use sdmoe::autograd::{Array, check::compare};
use sdmoe::gpu::{Kernel, Launch};
use sdmoe::low_level::kernels::elementwise;
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::tensor::Tensor;

#[test]
fn a_product_runs_and_reads_back() {
    let gpu = gpu();
    let (x, y) = (Array::random(&[7, 33], 1), Array::random(&[33, 5], 2));
    let a = Tensor::from_f32(&gpu, [7, 33], &x.to_f32()).unwrap();
    let b = Tensor::from_f32(&gpu, [33, 5], &y.to_f32()).unwrap();
    let c = Tensor::empty_f32(&gpu, [7, 5]).unwrap();
    gemm(Trans::N, Trans::N, 1.0, &a, &b, 0.0, &c).unwrap();
    compare("gemm", &block_on(c.to_f32()).unwrap(), &x.matmul(&y), 1e-6).unwrap();
}

#[test]
fn a_wrong_binding_is_named_with_what_was_expected() {
    let gpu = gpu();
    let x = Tensor::zeros(&gpu, [4]).unwrap();
    let missing = Launch::new(&elementwise::FILL[0]).run(&gpu).unwrap_err().to_string();
    assert!(missing.contains("fill") && missing.contains("params"), "{missing}");
    sdmoe::params! { struct Wrong { count: u32, beta: f32, alpha: f32 } }
    let params = Wrong { count: 4, beta: 0.0, alpha: 0.0 };
    let layout = Launch::new(&elementwise::FILL[0]).params(&params).write("y", &x).run(&gpu).unwrap_err().to_string();
    assert!(layout.contains("WGSL has") && layout.contains("alpha"), "{layout}");
    sdmoe::params! { struct Right { count: u32, alpha: f32, beta: f32 } }
    let params = Right { count: 4, alpha: 0.0, beta: 0.0 };
    let access = Launch::new(&elementwise::FILL[0]).params(&params).read("y", &x).run(&gpu).unwrap_err().to_string();
    assert!(access.contains("read_write"), "{access}");
    let unknown = Launch::new(&elementwise::FILL[0]).params(&params).write("y", &x).read("z", &x).run(&gpu);
    assert!(unknown.unwrap_err().to_string().contains('z'));
    static BROKEN: Kernel = Kernel::new("broken", &["fn main( {"]);
    assert!(Launch::new(&BROKEN).run(&gpu).unwrap_err().to_string().contains("broken"));
    assert!(gemm(Trans::N, Trans::N, 1.0, &x, &x, 0.0, &x).unwrap_err().to_string().contains("matrices"));
}

#[test]
fn content_written_later_is_not_seen_by_work_recorded_earlier() {
    let gpu = gpu();
    let x = Tensor::from_f32(&gpu, [3], &[1.0, 2.0, 3.0]).unwrap();
    let y = Tensor::zeros(&gpu, [3]).unwrap();
    elementwise::add_into(&y, &x).unwrap();
    x.write_f32(&[10.0, 20.0, 30.0]).unwrap();
    elementwise::add_into(&y, &x).unwrap();
    assert_eq!(block_on(y.to_f32()).unwrap(), [11.0, 22.0, 33.0]);
}

#[test]
fn repeated_work_reuses_buffers_bind_groups_and_pipelines() {
    let gpu = gpu();
    let step = || {
        let x = Tensor::from_f32(&gpu, [1000], &[1.0; 1000]).unwrap();
        let y = Tensor::zeros(&gpu, [1000]).unwrap();
        for _ in 0..600 {
            elementwise::add_into(&y, &x).unwrap();
        }
        block_on(y.to_f32()).unwrap()
    };
    assert_eq!(step()[999], 600.0);
    let before = gpu.counters();
    assert_eq!(step()[0], 600.0);
    let after = gpu.counters();
    assert_eq!(before.buffers_created, after.buffers_created);
    assert_eq!(before.bind_groups_created, after.bind_groups_created);
    assert_eq!(before.pipelines_created, after.pipelines_created);
    assert!(after.dispatches >= before.dispatches + 600);
}

#[test]
fn kernels_are_timed_where_the_adapter_can() {
    let gpu = gpu();
    if !gpu.adapter().timestamps {
        assert!(gpu.start_profile().is_err());
        return;
    }
    let a = Tensor::zeros(&gpu, [64, 64]).unwrap();
    let c = Tensor::zeros(&gpu, [64, 64]).unwrap();
    gpu.start_profile().unwrap();
    for _ in 0..3 {
        gemm(Trans::N, Trans::T, 1.0, &a, &a, 0.0, &c).unwrap();
    }
    let times = block_on(gpu.finish_profile()).unwrap();
    assert_eq!((times.len(), times[0].calls), (1, 3));
    assert!(times[0].seconds > 0.0 && times[0].seconds < 10.0, "{times:?}");
}

#[test]
fn a_size_beyond_all_counting_is_an_error() {
    let gpu = gpu();
    let huge = usize::MAX / 2;
    for shape in [vec![huge, huge], vec![huge, 1, 1, 5], vec![huge / 2]] {
        let message = Tensor::empty_f32(&gpu, &shape).map(drop).unwrap_err().to_string();
        assert!(message.contains("2^64 bytes") || message.contains("the adapter's largest"), "{shape:?}: {message}");
    }
}

#[test]
fn a_fifth_dimension_is_an_error() {
    let gpu = gpu();
    let message = Tensor::empty_f32(&gpu, &vec![1; 5]).map(drop).unwrap_err().to_string();
    assert_eq!(message, "tensor: expected at most 4 dimensions, got 5 dimensions");
    let message = Tensor::zeros(&gpu, [1]).unwrap().reshape(&vec![1; 5]).map(drop).unwrap_err().to_string();
    assert_eq!(message, "reshape: expected at most 4 dimensions, got 5 dimensions");
}
