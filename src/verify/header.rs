//! The header of a report: the machine, the program, and all that an adapter and its driver say of themselves.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::AdapterReport;

/// The machine and the program.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Host {
    /// The operating system, with its version where it tells.
    pub os: String,
    /// The processor's architecture.
    pub arch: String,
    /// The version of this crate.
    pub sdmoe: String,
    /// The version of wgpu.
    pub wgpu: String,
    /// The version of naga, which translates the shaders.
    pub naga: String,
    /// Environment variables that change what drivers and their loader do, as `NAME=value`.
    pub environment: Vec<String>,
}

/// Beginnings of the names of variables that drivers, their loader and its layers, or wgpu read.
const VARIABLES: [&str; 38] = [
    "ACO_",
    "AMDVLK_",
    "AMD_",
    "ANV_",
    "D3D12_",
    "DISABLE_",
    "DISPLAY",
    "DRI_",
    "DXVK_",
    "ENABLE_",
    "FD_",
    "GALLIUM_",
    "GALLIVM_",
    "INTEL_",
    "LIBGL_",
    "LP_",
    "LVP_",
    "MESA_",
    "METAL_",
    "MTL_",
    "MVK_",
    "NIR_",
    "NODEVICE_SELECT",
    "NVK_",
    "PAN_",
    "RADV_",
    "RUSTICL_",
    "SDMOE_",
    "SOFTPIPE_",
    "TU_",
    "V3D_",
    "VK_",
    "WGPU_",
    "WINE",
    "ZINK_",
    "__GLX_",
    "__GL_",
    "__VK_",
];

impl Host {
    /// This machine and program; a browser tells neither of its system nor of its environment.
    pub fn new() -> Self {
        // Where there is no environment, the standard library panics.
        let variables = (!cfg!(target_arch = "wasm32")).then(std::env::vars_os);
        let wanted = |name: &str| VARIABLES.iter().any(|start| name.starts_with(start)) && name != "DISPLAY";
        let mut environment: Vec<String> = variables
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        environment.sort();
        Self {
            os: os(),
            arch: std::env::consts::ARCH.into(),
            sdmoe: env!("CARGO_PKG_VERSION").into(),
            wgpu: env!("SDMOE_WGPU_VERSION").into(),
            naga: env!("SDMOE_NAGA_VERSION").into(),
            environment,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// The operating system, on Linux with the distribution and the kernel.
fn os() -> String {
    if cfg!(target_arch = "wasm32") {
        return "a browser".into();
    }
    let name = std::env::consts::OS;
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|v| v.trim_matches('"'));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    [Some(name), pretty, Some(kernel.trim())]
        .into_iter()
        .flatten()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// An adapter and its driver.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Header {
    /// The properties by which kernels are chosen.
    #[serde(flatten)]
    pub adapter: AdapterReport,
    /// The vendor's PCI id.
    pub vendor: u32,
    /// The device's PCI id.
    pub device: u32,
    /// The driver's name.
    pub driver_name: String,
    /// The driver's version.
    pub driver_version: String,
    /// The families of kernels that it can run.
    pub tiers: Vec<&'static str>,
    /// wgpu's names of its features.
    pub features: Vec<String>,
    /// Its limits, by the names that WebGPU gives them.
    pub limits: Vec<(String, u64)>,
    /// Blocks of its matrix units: `m x n x k`, element types of operands and sums.
    pub matrix_blocks: Vec<String>,
}

impl Header {
    /// The line that names it.
    pub fn title(&self) -> String {
        let AdapterReport { name, backend, device_type, driver, .. } = &self.adapter;
        // A browser tells of no driver.
        let driver = if driver.is_empty() { String::new() } else { format!(", {driver}") };
        format!("{name} ({backend}, {device_type}{driver})")
    }

    /// The header as lines of `name  value`.
    pub fn lines(&self, host: &Host) -> Vec<(&'static str, String)> {
        let a = &self.adapter;
        let none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        let subgroups = match a.subgroup_size {
            _ if !a.subgroups => "none".to_owned(),
            (least, most) if least == most => format!("{least}"),
            (least, most) => format!("{least} to {most}"),
        };
        let limits = self.limits.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ");
        vec![
            ("adapter", format!("{} ({})", a.name, a.device_type)),
            ("ids", format!("vendor {:#06x}, device {:#06x}", self.vendor, self.device)),
            ("backend", a.backend.clone()),
            ("driver", none(a.driver.clone())),
            ("system", format!("{} on {}", host.os, host.arch)),
            ("versions", format!("sdmoe {}, wgpu {}, naga {}", host.sdmoe, host.wgpu, host.naga)),
            ("environment", none(host.environment.join(" "))),
            ("subgroups", subgroups),
            ("matrix units", none(self.matrix_blocks.join("; "))),
            ("kernels", format!("{}; runs {}", a.tier.name(), self.tiers.join(", "))),
            ("features", self.features.join(", ")),
            ("limits", limits),
        ]
    }
}

macro_rules! limits {
    ($limits:expr, $($name:ident)*) => { vec![$((stringify!($name).to_owned(), u64::from($limits.$name))),*] };
}

/// The limits that compute shaders meet.
fn limits(limits: &wgpu::Limits) -> Vec<(String, u64)> {
    limits!(
        limits,
        max_bind_groups
        max_bindings_per_bind_group
        max_buffer_size
        max_compute_invocations_per_workgroup
        max_compute_workgroup_size_x
        max_compute_workgroup_size_y
        max_compute_workgroup_size_z
        max_compute_workgroup_storage_size
        max_compute_workgroups_per_dimension
        max_storage_buffer_binding_size
        max_storage_buffers_per_shader_stage
        max_uniform_buffer_binding_size
        max_uniform_buffers_per_shader_stage
        min_storage_buffer_offset_alignment
        min_uniform_buffer_offset_alignment
    )
}

/// wgpu's adapters, in the order of [`crate::gpu::adapters`].
///
/// # Errors
/// [`Error::Device`] when the adapter at `index` is gone.
pub(super) async fn raw_adapter(index: usize) -> Result<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let mut all = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if index >= all.len() {
        return Err(Error::Device(format!("adapter {index} is gone; there are {}", all.len())));
    }
    Ok(all.swap_remove(index))
}

/// The header of an adapter.
///
/// # Errors
/// [`Error::Device`] when the adapter is gone.
pub(super) async fn header(adapter: &AdapterReport) -> Result<Header> {
    let raw = raw_adapter(adapter.index).await?;
    let info = raw.get_info();
    let blocks = raw.cooperative_matrix_properties();
    let block = |b: &wgpu::CooperativeMatrixProperties| {
        format!("{} x {} x {} from {:?} to {:?}", b.m_size, b.n_size, b.k_size, b.ab_type, b.cr_type)
    };
    let tiers = crate::gpu::Tier::ALL.into_iter().filter(|tier| adapter.runs(*tier)).map(|tier| tier.name()).collect();
    Ok(Header {
        vendor: info.vendor,
        device: info.device,
        driver_name: info.driver.clone(),
        driver_version: info.driver_info.clone(),
        tiers,
        features: raw.features().iter_names().map(|(name, _)| name.to_owned()).collect(),
        limits: limits(&raw.limits()),
        matrix_blocks: blocks.iter().map(block).collect(),
        adapter: adapter.clone(),
    })
}
