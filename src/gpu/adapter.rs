//! Which adapters there are, which one to take, and which family of kernels it gets.

use serde::Serialize;

use super::failure::caught;
use super::needs;
#[cfg(not(feature = "files"))]
use crate::error::INSTALL_HINT;
use crate::error::{Error, Result};

/// A family of kernels. Every op runs in every tier that an adapter can run, and is tested there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Software adapters: one subgroup a workgroup, operands broadcast in registers, no barriers.
    Software,
    /// GPUs: register blocks fed from workgroup memory.
    Gpu,
    /// The least WebGPU promises; nothing optional, nothing tuned.
    Plain,
}

impl Tier {
    /// All tiers.
    pub const ALL: [Tier; 3] = [Tier::Software, Tier::Gpu, Tier::Plain];

    /// The name, as flags and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Software => "software",
            Tier::Gpu => "gpu",
            Tier::Plain => "plain",
        }
    }

    /// The former name, which flags and variables still take.
    pub(crate) fn former_name(self) -> Option<&'static str> {
        match self {
            Tier::Software => Some("subgroup"),
            Tier::Gpu => Some("workgroup"),
            Tier::Plain => None,
        }
    }

    /// The tier of this name, or former name.
    pub fn named(name: &str) -> Option<Self> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name || tier.former_name() == Some(name))
    }
}

/// The features that products on matrix units need; wgpu's cooperative matrices are experimental.
pub(super) const COOPERATIVE_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

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

impl AdapterChoice {
    /// The position of the adapter that is taken of `all`.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`] when there is none of that name or index.
    pub(crate) fn among(&self, all: &[AdapterReport]) -> Result<usize> {
        let (position, wanted) = match self {
            AdapterChoice::Auto => ((0..all.len()).min_by_key(|&i| all[i].rank()), String::new()),
            AdapterChoice::Index(index) if *index < all.len() => (Some(*index), String::new()),
            // A number that is no index may be part of a name: 4090.
            AdapterChoice::Index(number) => (named(all, &number.to_string()), number.to_string()),
            AdapterChoice::Name(name) => (named(all, name), name.clone()),
        };
        position.ok_or_else(|| {
            let available = all.iter().map(|r| format!("{}: {}", r.index, r.name)).collect::<Vec<_>>().join(", ");
            Error::UnknownAdapter { wanted, available }
        })
    }
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

/// The description that an adapter gives of itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
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
    /// Rows and columns of the blocks of its matrix units, 16 or 8; none where products of f16 operands cannot run on such. See
    /// [`super::GpuOptions::matrix_units`].
    pub matrix_block: Option<u32>,
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
    /// Whether its kernels get compact code, see [`super::GpuOptions::compact`].
    pub compact: bool,
    /// The first of its limits that is too low for every kernel; none where it can run some.
    pub lacks: Option<String>,
}

/// Whether `driver` (`llvmpipe`) at `version` (`Mesa 22.3.6 (LLVM 15.0.6)`) is a software driver that compiles large
/// kernels quickly: llvmpipe up to Mesa 22 takes a tenth of a second for the largest. Mesa 25 takes seconds with each
/// of the LLVM releases tried, SwiftShader up to half a minute, and what is unknown is taken to be like them
/// (docs/notes/software-drivers.md). The time itself is no guide: on a busy machine that of one kernel varied by a
/// factor of four.
fn compiles_fast(driver: &str, version: &str) -> bool {
    let major = version.strip_prefix("Mesa ").and_then(|v| v.split('.').next()).and_then(|v| v.parse::<u32>().ok());
    driver == "llvmpipe" && major.is_some_and(|major| major <= 22)
}

impl AdapterReport {
    pub(super) fn new(
        index: usize,
        info: &wgpu::AdapterInfo,
        features: wgpu::Features,
        limits: &wgpu::Limits,
        blocks: &[wgpu::CooperativeMatrixProperties],
    ) -> Self {
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
            matrix_block: None,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_threads: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            tier: Tier::Plain,
            compact: info.device_type == wgpu::DeviceType::Cpu && !compiles_fast(&info.driver, &info.driver_info),
            lacks: needs::lacks(limits),
        };
        report.tier = if info.device_type == wgpu::DeviceType::Cpu {
            if report.runs(Tier::Software) { Tier::Software } else { Tier::Plain }
        } else {
            Tier::Gpu
        };
        report.matrix_block = report.find_matrix_block(features, blocks).ok();
        report
    }

    /// The place in the order in which adapters are taken: those of OpenGL, which show a device that another interface may show as well,
    /// come after all others, and those that can run no kernel come last.
    fn rank(&self) -> u32 {
        let kind = match self.device_type.as_str() {
            "DiscreteGpu" => 0,
            "IntegratedGpu" => 1,
            "VirtualGpu" => 2,
            "Cpu" => 4,
            _ => 3,
        };
        kind + 5 * u32::from(self.backend == "Gl") + 10 * u32::from(self.lacks.is_some())
    }

    /// Whether it computes on the processor, as llvmpipe and SwiftShader do.
    pub fn is_software(&self) -> bool {
        self.device_type == "Cpu"
    }

    /// Loop iterations that one invocation may make in all its loops together. llvmpipe leaves every loop, without an
    /// error, once an invocation has made 65,535 (`LP_MAX_TGSI_LOOP_ITERATIONS` of Mesa); others have no such limit.
    pub fn loop_limit(&self) -> usize {
        if self.is_software() && self.name.contains("llvmpipe") { 60_000 } else { usize::MAX }
    }

    /// Whether the adapter can run `tier`. The software kernels need a subgroup size that is known beforehand and
    /// divides their tiles.
    pub fn runs(&self, tier: Tier) -> bool {
        self.lacks_for(tier).is_none()
    }

    /// Returns in words what this adapter lacks for the kernels of `tier`; none where it runs them.
    pub(crate) fn lacks_for(&self, tier: Tier) -> Option<String> {
        if self.lacks.is_some() || tier != Tier::Software {
            return self.lacks.clone();
        }
        let (least, most) = self.subgroup_size;
        let has = match (least, most) {
            _ if !self.subgroups => "none".to_owned(),
            _ if least == most && (4..=32).contains(&least) => return None,
            (least, most) => format!("{least} to {most}"),
        };
        Some(format!("subgroups of one size from 4 to 32, it has {has}"))
    }

    /// The side of the blocks that the kernels on matrix units take on an adapter with these features, which lists `blocks`: 16, or
    /// else 8, from f16 to f32.
    ///
    /// # Errors
    /// In words, what it lacks: such blocks, or workgroups of four of its subgroups.
    pub(super) fn find_matrix_block(
        &self,
        features: wgpu::Features,
        blocks: &[wgpu::CooperativeMatrixProperties],
    ) -> std::result::Result<u32, String> {
        use wgpu::CooperativeScalarType::{F16, F32};
        let missing = COOPERATIVE_FEATURES - features;
        if !missing.is_empty() {
            return Err(format!("the feature {missing}, which this adapter lacks"));
        }
        let listed = |side: &u32| {
            blocks.iter().any(|b| {
                (b.m_size, b.n_size, b.k_size) == (*side, *side, *side)
                    && (b.ab_type, b.cr_type) == (F16, F32)
                    && !b.saturating_accumulation
            })
        };
        let Some(side) = [16, 8].into_iter().find(listed) else {
            let needed = "cooperative matrices of 16 x 16 x 16 or 8 x 8 x 8 from f16 to f32";
            return Err(format!("{needed}, which this adapter lacks"));
        };
        let most = self.subgroup_size.1;
        if !(8..=128).contains(&most) {
            Err(format!("subgroups of at most 8 to 128 lanes, this adapter has {most}"))
        } else if 4 * most > self.workgroup_threads {
            Err(format!("workgroups of {} threads, this adapter has {}", 4 * most, self.workgroup_threads))
        } else {
            Ok(side)
        }
    }
}

/// Every adapter of the machine; without one, why.
async fn enumerate() -> Result<Vec<(wgpu::Adapter, AdapterReport)>> {
    let search = async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let found = instance.enumerate_adapters(wgpu::Backends::all()).await;
        let report = |(index, adapter): (usize, wgpu::Adapter)| {
            let blocks = adapter.cooperative_matrix_properties();
            let report = AdapterReport::new(index, &adapter.get_info(), adapter.features(), &adapter.limits(), &blocks);
            (adapter, report)
        };
        found.into_iter().enumerate().map(report).collect::<Vec<_>>()
    };
    let found = caught("looking for adapters", search).await?;
    if found.is_empty() { Err(Error::NoAdapter(why_none())) } else { Ok(found) }
}

/// Why there is no adapter: on Linux from the files of the Vulkan loader and its drivers.
fn why_none() -> String {
    if cfg!(target_arch = "wasm32") {
        return "this browser has no WebGPU, or has switched it off".into();
    }
    #[cfg(feature = "files")]
    return super::no_adapter::reason();
    #[cfg(not(feature = "files"))]
    INSTALL_HINT.into()
}

/// Every adapter of the machine, one at least.
///
/// # Errors
/// [`Error::NoAdapter`] with the reason; [`Error::Device`] when a driver panics.
pub async fn adapters() -> Result<Vec<AdapterReport>> {
    Ok(enumerate().await?.into_iter().map(|(_, report)| report).collect())
}

/// The first adapter whose name, driver or backend contains `name`, ignoring case.
fn named(all: &[AdapterReport], name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let contains = |text: &String| text.to_lowercase().contains(&name);
    all.iter().position(|r| [&r.name, &r.driver, &r.backend].into_iter().any(contains))
}

pub(super) async fn choose(choice: &AdapterChoice) -> Result<(wgpu::Adapter, AdapterReport)> {
    let (mut found, mut reports): (Vec<_>, Vec<_>) = enumerate().await?.into_iter().unzip();
    let position = choice.among(&reports)?;
    Ok((found.swap_remove(position), reports.swap_remove(position)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    /// Returns the block that a GPU with this subgroup size, this many threads a workgroup, these features and one form of block
    /// gets, or what it lacks.
    fn block_of(
        (least, most): (u32, u32),
        threads: u32,
        features: wgpu::Features,
        block: wgpu::CooperativeMatrixProperties,
    ) -> std::result::Result<u32, String> {
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan);
        (info.subgroup_min_size, info.subgroup_max_size) = (least, most);
        let limits = wgpu::Limits {
            max_compute_invocations_per_workgroup: threads,
            max_compute_workgroup_size_x: 1024,
            ..wgpu::Limits::default()
        };
        let blocks = [block];
        let report = AdapterReport::new(0, &info, features, &limits, &blocks);
        let found = report.find_matrix_block(features, &blocks);
        assert_eq!(report.matrix_block, found.clone().ok());
        found
    }

    #[test]
    fn only_drivers_known_to_compile_fast_get_large_kernels() {
        assert!(compiles_fast("llvmpipe", "Mesa 22.3.6 (LLVM 15.0.6)"));
        for (driver, version) in [
            ("llvmpipe", "Mesa 25.0.7-2+deb13u1 (LLVM 19.1.7)"),
            ("llvmpipe", ""),
            ("SwiftShader driver", ""),
            ("other", "Mesa 22.3.6"),
        ] {
            assert!(!compiles_fast(driver, version), "{driver} {version}");
        }
    }

    #[test]
    fn what_an_adapter_lacks_for_a_family_of_kernels_is_named() {
        let report = |features, (least, most), storage| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Cpu, wgpu::Backend::Vulkan);
            (info.subgroup_min_size, info.subgroup_max_size) = (least, most);
            let limits = wgpu::Limits { max_storage_buffers_per_shader_stage: storage, ..wgpu::Limits::default() };
            AdapterReport::new(0, &info, features, &limits, &[])
        };
        let all = wgpu::Features::SUBGROUP;
        let good = report(all, (8, 8), 8);
        assert!(Tier::ALL.into_iter().all(|tier| good.runs(tier)));
        assert_eq!(good.tier, Tier::Software);
        let needed = "subgroups of one size from 4 to 32, it has ";
        for (features, sizes, has) in
            [(wgpu::Features::empty(), (8, 8), "none"), (all, (4, 8), "4 to 8"), (all, (64, 64), "64 to 64")]
        {
            let other = report(features, sizes, 8);
            assert_eq!(other.lacks_for(Tier::Software), Some(format!("{needed}{has}")));
            assert_eq!((other.lacks_for(Tier::Plain), other.tier), (None, Tier::Plain));
        }
        let few = report(all, (8, 8), 4);
        for tier in Tier::ALL {
            assert_eq!(few.lacks_for(tier).unwrap(), "max_storage_buffers_per_shader_stage of at least 8, it has 4");
        }
        // What can run no kernel is taken last, and OpenGL after a software driver.
        assert_eq!(AdapterChoice::Auto.among(&[few.clone(), good.clone()]).unwrap(), 1);
        let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Gl);
        (info.subgroup_min_size, info.subgroup_max_size) = (8, 8);
        let gl = AdapterReport::new(0, &info, all, &wgpu::Limits::default(), &[]);
        assert_eq!(AdapterChoice::Auto.among(&[few, gl.clone(), good]).unwrap(), 2);
        assert_eq!(AdapterChoice::Auto.among(&[gl]).unwrap(), 0);
    }

    #[test]
    fn what_an_adapter_lacks_for_matrix_units_is_named() {
        let all = COOPERATIVE_FEATURES;
        let block = |side, n_size, cr_type, saturating_accumulation| wgpu::CooperativeMatrixProperties {
            m_size: side,
            n_size,
            k_size: side,
            ab_type: F16,
            cr_type,
            saturating_accumulation,
        };
        let good = block(16, 16, F32, false);
        assert_eq!(block_of((32, 32), 1024, all, good), Ok(16));
        assert_eq!(block_of((8, 32), 256, all, block(8, 8, F32, false)), Ok(8));
        assert_eq!(block_of((64, 128), 512, all, good), Ok(16));
        let told = |what| block_of((32, 32), 1024, all - what, good).unwrap_err();
        assert_eq!(
            told(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            "the feature EXPERIMENTAL_COOPERATIVE_MATRIX, which this adapter lacks"
        );
        assert!(told(wgpu::Features::SHADER_F16).starts_with("the feature SHADER_F16, "));
        let others = [block(16, 8, F32, false), block(16, 16, F16, false), block(16, 16, F32, true)];
        for other in others.into_iter().chain([block(8, 16, F32, false)]) {
            assert!(block_of((32, 32), 1024, all, other).unwrap_err().contains("8 x 8 x 8 from f16 to f32"));
        }
        assert!(block_of((4, 4), 1024, all, good).unwrap_err().ends_with("this adapter has 4"));
        assert!(block_of((64, 64), 128, all, good).unwrap_err().contains("256 threads, this adapter has 128"));
    }
}
