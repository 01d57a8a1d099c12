//! What the GPU tests share.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod groups;

use sdmoe::gpu::{Gpu, GpuOptions, Tier, adapters};

/// The device of the tests, in the adapter's own tier.
pub fn gpu() -> Gpu {
    open(&GpuOptions::default())
}

/// A device with other options.
pub fn open(options: &GpuOptions) -> Gpu {
    pollster::block_on(Gpu::open(options)).unwrap_or_else(|e| panic!("{e}"))
}

/// The device once in each tier that its adapter can run.
pub fn tiers() -> Vec<Gpu> {
    let own = gpu();
    let runs = |tier: &Tier| own.adapter().runs(*tier);
    Tier::ALL
        .into_iter()
        .filter(runs)
        .map(|tier| open(&GpuOptions { tier: Some(tier), ..GpuOptions::default() }))
        .collect()
}

/// Bits of the adapters' names, for messages.
pub fn adapter_names() -> Vec<String> {
    pollster::block_on(adapters()).into_iter().map(|a| a.name).collect()
}
