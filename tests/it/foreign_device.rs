//! Devices that an application made: what they lack is named, what fails on them ends the step with an error, and their handlers
//! stay the application's. And devices that go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::own_gpu as gpu;
use pollster::block_on;
use sdmoe::Error;
use sdmoe::gpu::{Gpu, GpuOptions, Kernel, Launch, NEEDS, OPTIONAL_FEATURES};
use sdmoe::tensor::Tensor;

/// A device of the tests' adapter with these limits, as an application would make it.
fn device(limits: wgpu::Limits) -> (wgpu::Device, wgpu::Queue) {
    let index = gpu().adapter().index;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = block_on(instance.enumerate_adapters(wgpu::Backends::all())).swap_remove(index);
    let description = wgpu::DeviceDescriptor {
        required_features: adapter.features() & OPTIONAL_FEATURES,
        required_limits: limits,
        ..Default::default()
    };
    block_on(adapter.request_device(&description)).unwrap()
}

fn open(limits: wgpu::Limits) -> Result<Gpu, Error> {
    let (device, queue) = device(limits);
    Gpu::from_device(device, queue, &GpuOptions::default())
}

/// Needs more threads than WebGPU's default limits give.
static WIDE: Kernel = Kernel::new(
    "wide",
    &["@group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(1024) fn wide(@builtin(local_invocation_index) i: u32) { y[i] = 1.0; }"],
);

fn launch_wide(gpu: &Gpu) -> Result<Vec<f32>, Error> {
    let y = Tensor::zeros(gpu, [1024])?;
    Launch::new(&WIDE).write("y", &y).run(gpu)?;
    block_on(y.to_f32())
}

#[test]
fn a_device_with_less_than_the_kernels_need_is_refused_by_the_name_of_the_limit() {
    open(wgpu::Limits::default()).unwrap();
    let refused = |limits: wgpu::Limits| {
        let error = open(limits).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        error.to_string()
    };
    let few = wgpu::Limits { max_storage_buffers_per_shader_stage: 4, ..wgpu::Limits::default() };
    assert!(refused(few).ends_with("the kernels need max_storage_buffers_per_shader_stage of at least 8, it has 4"));
    let narrow = wgpu::Limits {
        max_compute_invocations_per_workgroup: 128,
        max_compute_workgroup_size_x: 128,
        ..wgpu::Limits::default()
    };
    assert!(refused(narrow).ends_with("max_compute_invocations_per_workgroup of at least 256, it has 128"));
    assert!(refused(wgpu::Limits::downlevel_defaults()).contains(NEEDS[0].limit));
}

#[test]
fn an_error_of_a_launch_ends_the_step_and_is_not_told_to_the_applications_handler() {
    let (device, queue) = device(wgpu::Limits::default());
    let told = Arc::new(AtomicUsize::new(0));
    let of_handler = told.clone();
    device.on_uncaptured_error(Arc::new(move |_| {
        of_handler.fetch_add(1, Ordering::Relaxed);
    }));
    let gpu = Gpu::from_device(device.clone(), queue, &GpuOptions::default()).unwrap();
    let error = launch_wide(&gpu).unwrap_err();
    let Error::Validation { message, .. } = &error else { panic!("expected a call that wgpu refuses") };
    assert!(std::error::Error::source(&error).is_some());
    assert!(message.contains("wide") && message.contains("1024"), "{message}");
    assert_eq!(told.load(Ordering::Relaxed), 0);
    // Nothing is computed with what failed, however often it is asked for.
    assert!(launch_wide(&gpu).is_err());
    // The application's own errors still reach its handler.
    let nothing = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::STORAGE;
    let description = wgpu::BufferDescriptor { label: None, size: 4, usage: nothing, mapped_at_creation: false };
    drop(device.create_buffer(&description));
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn an_error_of_a_launch_is_an_error_where_the_application_has_no_handler() {
    // wgpu's own handler panics.
    let gpu = open(wgpu::Limits::default()).unwrap();
    assert!(matches!(launch_wide(&gpu), Err(Error::Validation { .. })));
}

#[test]
fn training_on_a_device_that_goes_away_ends_with_an_error_that_says_so() {
    let own = gpu();
    let (device, queue) = device(wgpu::Limits::default());
    let lost = Arc::new(AtomicUsize::new(0));
    let of_callback = lost.clone();
    device.set_device_lost_callback(move |_, _| {
        of_callback.fetch_add(1, Ordering::Relaxed);
    });
    let foreign = Gpu::from_device(device, queue, &GpuOptions::default()).unwrap();
    for gpu in [own, foreign] {
        let config = crate::common::training::config();
        let mut trainer = crate::common::training::trainer(&gpu, &config);
        crate::common::training::train(&mut trainer, 1);
        gpu.device().destroy();
        for step in 2..4 {
            let error = trainer.step(&crate::common::training::micro_batches(&config, step)).unwrap_err();
            assert!(matches!(error, Error::DeviceLost(_)), "{error}");
            let line = error.to_string();
            assert!(line.starts_with("GPU device lost: ") && line.contains(&gpu.adapter().name), "{line}");
        }
        assert!(block_on(gpu.finish()).is_err());
        // With this wgpu calls back.
        let _ = gpu.device().poll(wgpu::PollType::Poll);
    }
    assert_eq!(lost.load(Ordering::Relaxed), 1, "the application's own callback is called");
}
