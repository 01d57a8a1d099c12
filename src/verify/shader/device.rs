//! A device for shaders of any kind: all that its adapter can do, but for what is experimental.

use pollster::block_on;

use crate::error::{Error, Result};
use crate::gpu::{AdapterChoice, AdapterReport, Gpu, adapters};
use crate::verify::header::{Header, header, raw_adapter};

/// Features that change what a shader can say.
const FEATURES: wgpu::Features = wgpu::Features::SHADER_F16
    .union(wgpu::Features::SHADER_F64)
    .union(wgpu::Features::SHADER_INT64)
    .union(wgpu::Features::SHADER_INT64_ATOMIC_MIN_MAX)
    .union(wgpu::Features::SHADER_INT64_ATOMIC_ALL_OPS)
    .union(wgpu::Features::SHADER_FLOAT32_ATOMIC)
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::SUBGROUP_BARRIER);

/// A device and its queue.
#[derive(Clone, Debug)]
pub struct ShaderDevice {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
}

impl ShaderDevice {
    /// The device on which kernels run.
    pub(in crate::verify) fn of(gpu: &Gpu) -> Self {
        Self { device: gpu.device().clone(), queue: gpu.queue().clone() }
    }

    /// Opens the adapter that is chosen, with all limits and every feature of shaders that it has; returns what it says of itself too.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::UnknownAdapter`]; [`Error::Device`] when the driver refuses the device.
    pub fn open(choice: &AdapterChoice) -> Result<(Self, Header)> {
        let found: Vec<AdapterReport> = block_on(adapters())?;
        let report = &found[choice.among(&found)?];
        let adapter = block_on(raw_adapter(report.index))?;
        let description = wgpu::DeviceDescriptor {
            label: Some("sdmoe verify"),
            required_features: adapter.features() & FEATURES,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = block_on(adapter.request_device(&description))
            .map_err(|e| Error::Device(format!("{}: {e}", report.name)))?;
        // Errors that no scope sees are those of a device that is gone, which every run finds out.
        device.on_uncaptured_error(std::sync::Arc::new(|error| log::warn!("{error}")));
        Ok((Self { device, queue }, block_on(header(report))?))
    }
}
