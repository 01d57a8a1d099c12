//! All `unsafe` of the crate: what wgpu cannot check for its callers, each with the reason why it holds here.
#![allow(unsafe_code, reason = "the one module where it is allowed")]

use super::pipeline_cache::Data;

/// wgpu's token for its experimental features, where it is `wanted`.
pub(super) fn experimental_features(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks to acknowledge that the features' implementation may have bugs that are undefined behaviour, and to
    // report those. `GpuOptions::matrix_units`, off by default, passes this on to who sets it and is the only reason to come
    // here; cooperative matrices are the only experimental feature that this crate then asks for, and naga validates the
    // kernels that use them (`tests/shaders.rs`).
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A cache that begins with `data`, empty where there is none or the driver does not take it.
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&Data>) -> wgpu::PipelineCache {
    let data = data.map(Data::bytes);
    // SAFETY: wgpu asks for data that `PipelineCache::get_data` returned, and takes it only from an adapter with the same
    // `pipeline_cache_key`. A `Data` is made only from a file that `seal` wrote around what `get_data` returned: it begins with
    // this program's mark, and a 64-bit checksum holds over the rest, in which the adapter with that key, its driver and the
    // version of this crate are those of `device`. So a file that was cut off, damaged, or made elsewhere does not get here.
    // Who forges one has to write into the user's own folder; wgpu's documentation grants that nothing can be proved there.
    unsafe {
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label: Some("sdmoe"), data, fallback: true })
    }
}
