//! The other cores' part in a cold start on llvmpipe, which compiles a pipeline at its first dispatch, on its queue's
//! one thread.
//!
//! The driver keeps on disk what it compiles, and every device finds it there. So devices of their own, each with a
//! queue and its thread, run the pipelines that the recorder asked for on a few bytes of zeros, from the newest back to
//! those that the device itself is at. Nothing is computed with them; where the disk keeps nothing they are of no use
//! and do no harm.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::compile::{Pipeline, pipeline_layout};
use super::progress::{Compilation, NEW_PIPELINES};
use super::reflect::BindingKind;
use super::{AdapterReport, lock};

/// How long the device may take before it is given help: with what it compiles on disk it needs none.
const PATIENCE: Duration = Duration::from_millis(600);
/// How many pipelines past those that the device has run it may be at: a submission has as many new ones.
const AHEAD: u64 = NEW_PIPELINES;
/// Devices besides the one that computes, at most.
const MOST: usize = 3;
/// Bytes bound to each variable: enough for an element of any, and the parameters of any kernel.
const BYTES: u64 = 4096;

#[derive(Default)]
struct Queue {
    waiting: Vec<Arc<Pipeline>>,
    at_work: usize,
    handles: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    stop: AtomicBool,
    begun: AtomicBool,
    adapter: wgpu::Adapter,
    features: wgpu::Features,
    compilation: Arc<Compilation>,
}

/// Runs pipelines on other devices of the same adapter.
pub(super) struct WarmUp(Arc<Shared>);

impl WarmUp {
    /// For a device of `adapter` with these features, where that helps: its driver compiles on one thread and keeps on
    /// disk what it compiled, and there are cores to spare.
    pub(super) fn new(
        adapter: &wgpu::Adapter,
        report: &AdapterReport,
        features: wgpu::Features,
        compilation: Arc<Compilation>,
    ) -> Option<Self> {
        let off =
            |name| std::env::var_os(name).is_some_and(|value| !["", "0", "false"].map(Into::into).contains(&value));
        let kept = !["MESA_SHADER_CACHE_DISABLE", "MESA_GLSL_CACHE_DISABLE"].into_iter().any(off);
        let helps =
            report.name.starts_with("llvmpipe") && kept && spare_cores() > 0 && cfg!(not(target_arch = "wasm32"));
        let (queue, stop, begun) = Default::default();
        helps.then(|| WarmUp(Arc::new(Shared { queue, stop, begun, adapter: adapter.clone(), features, compilation })))
    }

    /// Has a pipeline compiled, unless the device gets to it before.
    pub(super) fn push(&self, pipeline: Arc<Pipeline>) {
        // The other devices are opened without wgpu's experimental feature.
        if pipeline.needs_cooperative_matrix() {
            return;
        }
        let mut queue = lock(&self.0.queue);
        queue.waiting.push(pipeline);
        if queue.at_work >= spare_cores().min(MOST) {
            return;
        }
        let shared = self.0.clone();
        if let Ok(handle) = std::thread::Builder::new().name("sdmoe warm-up".into()).spawn(move || shared.work()) {
            queue.at_work += 1;
            queue.handles.retain(|handle| !handle.is_finished());
            queue.handles.push(handle);
        }
    }
}

fn spare_cores() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}

impl Drop for WarmUp {
    /// Gives up what is waiting, and lets the driver finish what it compiles: a program must not end under it.
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        let handles = std::mem::take(&mut lock(&self.0.queue).handles);
        for handle in handles {
            // It may be waiting for the device to need help.
            handle.thread().unpark();
            drop(handle.join());
        }
    }
}

impl Shared {
    /// Runs what is waiting, until nothing is.
    fn work(&self) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            std::thread::park_timeout(PATIENCE);
        }
        let run = || {
            let Some(first) = self.next() else { return Some(()) };
            let mut device = Device::open(&self.adapter, self.features)?;
            std::iter::successors(Some(first), |_| self.next()).try_for_each(|pipeline| device.run(&pipeline))
        };
        // What fails here fails on the device too, or does no harm.
        if !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Some(()))) {
            log::debug!("warm-up: given up");
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// The newest of those that the device is not at yet, for the device works through the oldest and the two meet
    /// once; None ends the thread.
    fn next(&self) -> Option<Arc<Pipeline>> {
        let mut queue = lock(&self.queue);
        let done = self.compilation.done.load(Ordering::Relaxed);
        // A pipeline's number is how many were asked for before.
        queue.waiting.retain(|pipeline| pipeline.id as u64 >= done && !self.stop.load(Ordering::Relaxed));
        let next = queue.waiting.pop_if(|pipeline| pipeline.id as u64 >= done + AHEAD);
        queue.at_work -= usize::from(next.is_none());
        next
    }
}

/// A device that is there to compile.
struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// By binding number: one buffer must not be read and written by one dispatch.
    buffers: HashMap<u32, wgpu::Buffer>,
}

impl Device {
    fn open(adapter: &wgpu::Adapter, features: wgpu::Features) -> Option<Self> {
        let description = wgpu::DeviceDescriptor {
            label: Some("sdmoe warm-up"),
            required_features: features - wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&description)).ok()?;
        device.on_uncaptured_error(Arc::new(|error: wgpu::Error| log::debug!("warm-up: {error}")));
        Some(Device { device, queue, buffers: HashMap::new() })
    }

    /// Runs one workgroup of the pipeline on zeros, and waits for it.
    fn run(&mut self, pipeline: &Pipeline) -> Option<()> {
        let (name, reflection) = (pipeline.name, &pipeline.reflection);
        let (layout, whole) = pipeline_layout(&self.device, name, reflection);
        let recipe = pipeline.recipe();
        let compiled = recipe.compile_on(&self.device, &recipe.shader_module(&self.device), &whole, None);
        let buffers: Vec<_> = reflection.bindings.iter().map(|binding| (binding, self.buffer(binding.index))).collect();
        let entries: Vec<_> = buffers
            .iter()
            .map(|(binding, buffer)| {
                let size = match &binding.kind {
                    BindingKind::Uniform { size, .. } => (*size).into(),
                    BindingKind::Read | BindingKind::Write => BYTES,
                };
                let buffer = wgpu::BufferBinding { buffer, offset: 0, size: size.try_into().ok() };
                wgpu::BindGroupEntry { binding: binding.index, resource: wgpu::BindingResource::Buffer(buffer) }
            })
            .collect();
        let description = wgpu::BindGroupDescriptor { label: Some(name), layout: &layout, entries: &entries };
        let group = self.device.create_bind_group(&description);
        let uniform = reflection.bindings.iter().any(|binding| matches!(binding.kind, BindingKind::Uniform { .. }));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&compiled);
        pass.set_bind_group(0, &group, if uniform { &[0] } else { &[] });
        pass.dispatch_workgroups(1, 1, 1);
        drop(pass);
        let began = Instant::now();
        self.queue.submit([encoder.finish()]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).ok()?;
        log::debug!("warm-up: {} took {:.2} s", name, began.elapsed().as_secs_f64());
        Some(())
    }

    fn buffer(&mut self, binding: u32) -> wgpu::Buffer {
        let Device { device, buffers, .. } = self;
        let create = || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("warm-up"),
                size: BYTES,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: false,
            })
        };
        buffers.entry(binding).or_insert_with(create).clone()
    }
}
