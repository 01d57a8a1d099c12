//! Which adapters there are, which one to take, and which family of kernels it gets.

use serde::Serialize;

use crate::error::{Error, Result};

/// A family of kernels. Every op runs in every tier that an adapter can run, and is tested there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Software adapters: one subgroup a workgroup, operands broadcast in registers, no barriers.
    Subgroup,
    /// GPUs: register blocks fed from workgroup memory.
    Workgroup,
    /// The least WebGPU promises; nothing optional, nothing tuned.
    Plain,
}

impl Tier {
    /// All tiers.
    pub const ALL: [Tier; 3] = [Tier::Subgroup, Tier::Workgroup, Tier::Plain];
}

/// Which adapter to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The fastest kind there is: discrete, integrated, virtual, software.
    #[default]
    Auto,
    /// By position in [`adapters`].
    Index(usize),
    /// The first whose name, driver or backend contains this, ignoring case.
    Name(String),
}

impl From<&str> for AdapterChoice {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| AdapterChoice::Name(text.to_owned()), AdapterChoice::Index)
    }
}

impl From<Option<&str>> for AdapterChoice {
    fn from(text: Option<&str>) -> Self {
        text.map_or(AdapterChoice::Auto, AdapterChoice::from)
    }
}

/// What an adapter says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterReport {
    /// Position in [`adapters`].
    pub index: usize,
    /// The adapter's name.
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12`, ...
    pub backend: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` or `Other`.
    pub device_type: String,
    /// Driver and its version.
    pub driver: String,
    /// Lanes of a subgroup, least and most; 0 where there are none.
    pub subgroup_size: (u32, u32),
    /// Whether subgroup operations are available.
    pub subgroups: bool,
    /// Whether kernels can be timed.
    pub timestamps: bool,
    /// Whether shaders can compute in f16.
    pub f16: bool,
    /// Bytes of one storage binding.
    pub max_binding_bytes: u64,
    /// Bytes of one buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Threads of a workgroup.
    pub workgroup_threads: u32,
    /// Storage buffers of one kernel.
    pub storage_buffers: u32,
    /// The family of kernels it gets.
    pub tier: Tier,
}

impl AdapterReport {
    pub(super) fn new(index: usize, info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> Self {
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        let mut report = Self {
            index,
            name: info.name.clone(),
            backend: format!("{:?}", info.backend),
            device_type: format!("{:?}", info.device_type),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            subgroup_size: if subgroups { (info.subgroup_min_size, info.subgroup_max_size) } else { (0, 0) },
            subgroups,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            f16: features.contains(wgpu::Features::SHADER_F16),
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_threads: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            tier: Tier::Plain,
        };
        report.tier = if info.device_type == wgpu::DeviceType::Cpu {
            if report.runs(Tier::Subgroup) { Tier::Subgroup } else { Tier::Plain }
        } else {
            Tier::Workgroup
        };
        report
    }

    /// Loop iterations that one invocation may make in all its loops together. llvmpipe leaves every loop, without an
    /// error, once an invocation has made 65,535 (`LP_MAX_TGSI_LOOP_ITERATIONS` of Mesa); others have no such limit.
    pub fn loop_limit(&self) -> usize {
        if self.device_type == "Cpu" && self.name.contains("llvmpipe") { 60_000 } else { usize::MAX }
    }

    /// Whether the adapter can run `tier`. The subgroup kernels need a subgroup size that is known beforehand and
    /// divides their tiles.
    pub fn runs(&self, tier: Tier) -> bool {
        match tier {
            Tier::Subgroup => {
                let (least, most) = self.subgroup_size;
                self.subgroups && least == most && (4..=32).contains(&least)
            }
            Tier::Workgroup | Tier::Plain => true,
        }
    }

    /// Whether the kernels for matrix units can run where the adapter lists `blocks`: f16 to f32, 16 x 16 x 16, and four
    /// subgroups of a size that is known beforehand in a workgroup.
    pub(super) fn has_blocks(&self, blocks: &[wgpu::CooperativeMatrixProperties]) -> bool {
        use wgpu::CooperativeScalarType::{F16, F32};
        let (least, most) = self.subgroup_size;
        let listed = blocks.iter().any(|b| {
            (b.m_size, b.n_size, b.k_size) == (16, 16, 16)
                && (b.ab_type, b.cr_type) == (F16, F32)
                && !b.saturating_accumulation
        });
        listed && least == most && (8..=64).contains(&least) && 4 * least <= self.workgroup_threads
    }
}

async fn enumerate() -> Vec<(wgpu::Adapter, AdapterReport)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let report = |(index, adapter): (usize, wgpu::Adapter)| {
        let report = AdapterReport::new(index, &adapter.get_info(), adapter.features(), &adapter.limits());
        (adapter, report)
    };
    found.into_iter().enumerate().map(report).collect()
}

/// Every adapter of the machine.
pub async fn adapters() -> Vec<AdapterReport> {
    enumerate().await.into_iter().map(|(_, report)| report).collect()
}

/// The first adapter whose name, driver or backend contains `name`, ignoring case.
fn named(all: &[(wgpu::Adapter, AdapterReport)], name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let contains = |text: &String| text.to_lowercase().contains(&name);
    all.iter().position(|(_, r)| [&r.name, &r.driver, &r.backend].into_iter().any(contains))
}

pub(super) async fn choose(choice: &AdapterChoice) -> Result<(wgpu::Adapter, AdapterReport)> {
    let mut all = enumerate().await;
    if all.is_empty() {
        return Err(Error::NoAdapter);
    }
    let rank = |report: &AdapterReport| match report.device_type.as_str() {
        "DiscreteGpu" => 0,
        "IntegratedGpu" => 1,
        "VirtualGpu" => 2,
        "Cpu" => 4,
        _ => 3,
    };
    let position = match choice {
        AdapterChoice::Auto => (0..all.len()).min_by_key(|&i| rank(&all[i].1)),
        AdapterChoice::Index(index) if *index < all.len() => Some(*index),
        // A number that is no index may be part of a name: 4090.
        AdapterChoice::Index(number) => named(&all, &number.to_string()),
        AdapterChoice::Name(name) => named(&all, name),
    };
    match position {
        Some(position) => Ok(all.swap_remove(position)),
        None => Err(Error::UnknownAdapter {
            wanted: match choice {
                AdapterChoice::Index(index) => index.to_string(),
                AdapterChoice::Name(name) => name.clone(),
                AdapterChoice::Auto => String::new(),
            },
            available: all.iter().map(|(_, r)| format!("{}: {}", r.index, r.name)).collect::<Vec<_>>().join(", "),
        }),
    }
}
