//! What the GPU tests share.

pub mod checkpoints;
pub mod families;
pub mod groups;
pub mod place;
pub mod plant;
pub mod training;

use std::io::Write;
use std::ops::Deref;
use std::sync::{Mutex, OnceLock, PoisonError};

use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions, Tier};
use sdmoe::tensor::Tensor;

/// The device of the tests, in the adapter's own tier, or the one that the variable SDMOE_TIER asks for. Tests share it, so that
/// each kernel is compiled once: who counts, times or breaks something takes [`lent_gpu`] or [`own_gpu`].
pub fn gpu() -> Gpu {
    shared(wanted_tier())
}

/// As [`gpu`], a device that no other test uses, has used or will use: for who breaks it, or counts from its opening on.
pub fn own_gpu() -> Gpu {
    open(&GpuOptions::default().tier(wanted_tier()))
}

/// As [`gpu`], a device that no other test uses at the time, with the kernels that those before have compiled: a driver takes seconds for
/// those of a training step, even where their machine code is in its cache.
pub fn lent_gpu() -> Lent {
    let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    Lent(free.unwrap_or_else(own_gpu))
}

static FREE: Mutex<Vec<Gpu>> = Mutex::new(Vec::new());

/// A device until this is dropped; the next who takes it finds it without a budget and with an empty pool.
pub struct Lent(Gpu);

impl Deref for Lent {
    type Target = Gpu;

    fn deref(&self) -> &Gpu {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.set_budget(None);
        // One on which something failed is good for nothing more.
        if !std::thread::panicking() && self.0.trim().is_ok() && self.0.check().is_ok() {
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0.clone());
        }
    }
}

/// The one device of a tier, or of the adapter's own.
fn shared(tier: Option<Tier>) -> Gpu {
    static DEVICES: Mutex<Vec<Gpu>> = Mutex::new(Vec::new());
    static OWN: OnceLock<Tier> = OnceLock::new();
    let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = tier.or(OWN.get().copied());
    if let Some(gpu) = devices.iter().find(|gpu| Some(gpu.tier()) == wanted) {
        return gpu.clone();
    }
    let gpu = open(&GpuOptions::default().tier(tier));
    if tier.is_none() {
        OWN.get_or_init(|| gpu.tier());
    }
    devices.push(gpu.clone());
    gpu
}

/// A device with other options.
pub fn open(options: &GpuOptions) -> Gpu {
    pollster::block_on(Gpu::open(options)).unwrap_or_else(|e| panic!("{e}"))
}

/// The only family of kernels to test, where the variable SDMOE_TIER names one: on some drivers others compile for too long.
fn wanted_tier() -> Option<Tier> {
    let name = std::env::var("SDMOE_TIER").ok().filter(|name| !["", "auto"].contains(&name.as_str()))?;
    let tier = Tier::named(&name);
    Some(tier.unwrap_or_else(|| panic!("SDMOE_TIER: expected the name of a tier, got {name}")))
}

/// The adapter of the tests with a device that has of its features only those of `wanted`.
pub fn with_features(wanted: wgpu::Features) -> Gpu {
    with_features_and_options(wanted, &GpuOptions::default())
}

/// As [`with_features`], with these options.
pub fn with_features_and_options(wanted: wgpu::Features, options: &GpuOptions) -> Gpu {
    let index = gpu().adapter().index;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all())).swap_remove(index);
    let description = wgpu::DeviceDescriptor {
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&description)).unwrap();
    Gpu::from_device(device, queue, options).unwrap()
}

/// The device once in each tier that its adapter can run, or in the one that the variable SDMOE_TIER asks for. Tests share
/// them as they share [`gpu`].
pub fn tiers() -> Vec<Gpu> {
    tiers_to_run().map(|tier| shared(Some(tier))).collect()
}

/// As [`tiers`], devices that no other test uses.
pub fn own_tiers() -> Vec<Gpu> {
    tiers_to_run().map(|tier| open(&GpuOptions::default().tier(tier))).collect()
}

fn tiers_to_run() -> impl Iterator<Item = Tier> {
    let wanted = wanted_tier();
    let adapter = gpu().adapter().clone();
    Tier::ALL.into_iter().filter(move |tier| adapter.runs(*tier) && wanted.is_none_or(|wanted| wanted == *tier))
}

/// Says on standard error that the running test tests nothing here, and why. The test harness hides what a passing test prints, but
/// not this; `.ci/run` counts these lines.
pub fn untested(why: &str) {
    let thread = std::thread::current();
    let line = format!("not tested: {}: {why}\n", thread.name().unwrap_or("a test"));
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A device whose bindings hold `bytes`.
pub fn small_binding(bytes: u64) -> Gpu {
    open(&GpuOptions::default().max_binding_bytes(bytes))
}

/// The same in each tier that the adapter can run.
pub fn small_bindings(bytes: u64) -> Vec<Gpu> {
    let small = |gpu: Gpu| GpuOptions::default().tier(gpu.tier()).max_binding_bytes(bytes);
    tiers().into_iter().map(|gpu| open(&small(gpu))).collect()
}

/// `x` on the device.
pub fn upload(gpu: &Gpu, x: &Array) -> Tensor {
    Tensor::from_f32(gpu, &x.shape, &x.to_f32()).unwrap()
}

/// The f32 content of `x`.
pub fn download(x: &Tensor) -> Vec<f32> {
    pollster::block_on(x.to_f32()).unwrap()
}
