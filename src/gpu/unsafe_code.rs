//! All `unsafe` of the crate: what wgpu cannot check for its callers, each with the reason why it holds here.
#![allow(unsafe_code, reason = "the one module where it is allowed")]

#[cfg(feature = "files")]
use std::path::Path;

#[cfg(feature = "files")]
use super::pipeline_file::Data;

/// wgpu's token for its experimental features, where it is `wanted`.
pub(super) fn experimental_features(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: wgpu asks to acknowledge that the features' implementation may have bugs that are undefined behaviour,
    // and to report those. `GpuOptions::matrix_units`, off by default, passes this on to who sets it and is the only
    // reason to come here; cooperative matrices are the only experimental feature that this crate then asks for, and
    // naga validates the kernels that use them (`tests/it/shaders.rs`).
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A cache that begins with `data`, empty where there is none or the driver does not take it.
#[cfg(feature = "files")]
pub(super) fn pipeline_cache(device: &wgpu::Device, data: Option<&Data>) -> wgpu::PipelineCache {
    let data = data.map(Data::bytes);
    // SAFETY: wgpu asks for data that `PipelineCache::get_data` returned, and takes it only from an adapter with the
    // same `pipeline_cache_key`. A `Data` is made only from a file that `seal` wrote around what `get_data` returned:
    // it begins with this program's mark, and a 64-bit checksum holds over the rest, in which the adapter with that
    // key, its driver and the version of this crate are those of `device`. So a file that was cut off, damaged, or made
    // elsewhere does not get here. Who forges one has to write into the user's own folder; wgpu's documentation grants
    // that nothing can be proved there.
    unsafe {
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label: Some("sdmoe"), data, fallback: true })
    }
}

/// Loads a shared library, by its name or path, and unloads it; or returns why that is not possible.
#[cfg(all(feature = "files", target_os = "linux"))]
pub(super) fn try_library(library: &Path) -> Result<(), String> {
    // SAFETY: a library's initialisers and finalisers run, and must not rely on more than a process that loads a
    // library gives. Only libraries come here that the Vulkan loader has loaded into this process, or tried to, a
    // moment before: itself, those that drivers' files name to it, two of NVIDIA's driver and, where that is here,
    // those of libglvnd that it loads itself, all made to be loaded so. No symbol of them is used.
    unsafe { libloading::Library::new(library) }.map(drop).map_err(|e| e.to_string().replace('\n', " "))
}

/// Elsewhere nothing is asked.
#[cfg(all(feature = "files", not(target_os = "linux")))]
pub(super) fn try_library(_: &Path) -> Result<(), String> {
    Ok(())
}

/// Keeps Mesa's device-select layer out of this process where it would only complain, on standard error, that there is
/// no desktop session. Does nothing where the process has other threads already.
#[cfg(feature = "cli")]
pub(crate) fn quiet_without_a_desktop() {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    let desktop = runtime.is_some_and(|folder| Path::new(&folder).is_absolute());
    // Each thread of the process has an entry; elsewhere than on Linux there is no such folder.
    let alone = || std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if !desktop && alone() {
        // SAFETY: nothing else may read or write the environment meanwhile. This is the only thread of the process, as
        // the system itself just said, and starts none before this returns.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") }
    }
}
