//! Opening a device: which of the adapter's features it gets, and what it begins with.

#[cfg(feature = "files")]
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::failure::{Failures, caught};
use super::matrix_units::MatrixUnits;
#[cfg(feature = "files")]
use super::pipeline_cache::PipelineCache;
use super::progress::Compilation;
use super::shapes::Shapes;
#[cfg(feature = "files")]
use super::shapes_file;
use super::warm_up::WarmUp;
use super::{AdapterChoice, AdapterReport, Gpu, Inner, Tier, adapter, needs, pool, recorder, unsafe_code};
use crate::error::{Error, Result};

/// Features that are used where a device has them; none is needed. Subgroups make software adapters several times
/// faster; u64 is for their loads; f16 is for training in mixed precision.
pub const OPTIONAL_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::SHADER_F16)
    .union(wgpu::Features::SHADER_INT64);

/// How to open a device: `GpuOptions::default().tier(Tier::Gpu)`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// The kernel family, instead of the adapter's own; must be one it can run.
    pub tier: Option<Tier>,
    /// Whether the kernels of [`Tier::Software`] get compact code, instead of what the adapter is known to need: loops
    /// in place of unrolled stores. Drivers whose compilers take long over large kernels then start many times faster
    /// and run products a few percent slower. The results are the same to the bit.
    pub compact: Option<bool>,
    /// A lower limit than the adapter's on the bytes of one binding; tensors beyond it are split.
    pub max_binding_bytes: Option<u64>,
    /// For [`Gpu::open`]: products of f16 operands run on matrix units (tensor cores), see [`Gpu::cooperative_matrix`];
    /// opening an adapter without them is an error, and where products that are tried then are wrong, other kernels serve and a
    /// warning is logged. wgpu's feature for them is experimental: it may have bugs that make
    /// behaviour undefined, and who sets this accepts that and reports such bugs to wgpu.
    pub matrix_units: bool,
    /// For [`Gpu::from_device`]: what the device's adapter says in `cooperative_matrix_properties()`, as a device does
    /// not tell. See [`Gpu::cooperative_matrix`].
    pub cooperative_matrix: Vec<wgpu::CooperativeMatrixProperties>,
    /// What the application does with the buffers of tensors beside what this crate does: `VERTEX` or `INDIRECT` for
    /// one that draws from them. They have `STORAGE`, `COPY_SRC` and `COPY_DST` in any case. See
    /// [`Tensor::buffer`](crate::Tensor::buffer).
    pub buffer_usages: wgpu::BufferUsages,
    /// A folder for the pipelines that the driver compiled, so that the next process need not compile them again: made
    /// where it is missing, one file for each adapter and driver, written when the [`Gpu`]'s last handle is dropped.
    /// Nobody but the user should be able to write there, as the driver runs what the file holds. A file that does not
    /// fit is replaced, and a folder that cannot be written does no harm; both are logged. Without a folder, and where
    /// the device has no feature `PIPELINE_CACHE` (only Vulkan has it), nothing is read or written. Most drivers have
    /// such a cache of their own.
    #[cfg(feature = "files")]
    pub pipeline_cache: Option<PathBuf>,
    /// A folder with the shapes of products that `sdmoe tune` or `bench::tune` found to be the fastest, a file for each
    /// adapter. One that is missing, damaged or made with another driver or version is as none: then a table chooses.
    /// Opening a device never measures; `bench::tune::open` does, where it is asked to.
    #[cfg(feature = "files")]
    pub tuned: Option<PathBuf>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            adapter: AdapterChoice::default(),
            tier: None,
            compact: None,
            max_binding_bytes: None,
            matrix_units: false,
            cooperative_matrix: Vec::new(),
            buffer_usages: wgpu::BufferUsages::empty(),
            #[cfg(feature = "files")]
            pipeline_cache: None,
            #[cfg(feature = "files")]
            tuned: None,
        }
    }
}

setters!(GpuOptions {
    adapter: impl Into<AdapterChoice>,
    tier: impl Into<Option<Tier>>,
    compact: impl Into<Option<bool>>,
    max_binding_bytes: impl Into<Option<u64>>,
    matrix_units: bool,
    cooperative_matrix: Vec<wgpu::CooperativeMatrixProperties>,
    buffer_usages: wgpu::BufferUsages,
});

#[cfg(feature = "files")]
setters!(GpuOptions {
    pipeline_cache: impl Into<Option<PathBuf>>,
    tuned: impl Into<Option<PathBuf>>,
});

impl Gpu {
    /// [`Gpu::open`], with nothing known of products on matrix units.
    pub(crate) async fn open_unchecked(options: &GpuOptions) -> Result<Self> {
        let (adapter, report) = adapter::choose(&options.adapter).await?;
        let mut wanted = OPTIONAL_FEATURES;
        #[cfg(feature = "files")]
        wanted.set(wgpu::Features::PIPELINE_CACHE, options.pipeline_cache.is_some());
        if options.matrix_units {
            let found = report.find_matrix_block(adapter.features(), &adapter.cooperative_matrix_properties());
            let lacks = found.err();
            let tier = options.tier.unwrap_or(report.tier);
            let other = (tier != Tier::Gpu).then(|| format!("the kernels {:?}, not {tier:?}", Tier::Gpu));
            if let Some(needed) = lacks.or(other) {
                return Err(Error::Device(format!("{}: matrix units need {needed}", report.name)));
            }
            wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        check_kernels(&report, &adapter.limits(), options)?;
        let description = wgpu::DeviceDescriptor {
            label: Some("sdmoe"),
            required_features: adapter.features() & wanted,
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::Performance,
            experimental_features: unsafe_code::experimental_features(options.matrix_units),
            ..Default::default()
        };
        let (device, queue) = caught(&format!("opening {}", report.name), adapter.request_device(&description))
            .await?
            .map_err(|e| Error::Device(format!("{}: {e}", report.name)))?;
        let failures = Arc::new(Failures::new(&report.name));
        // Errors on the way to the device are seen without this; of others, as when buffers are freed, nobody hears.
        let of_device = failures.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| of_device.report(&error)));
        let of_device = failures.clone();
        device.set_device_lost_callback(move |reason, message| {
            let reason = if message.is_empty() { format!("{reason:?}").to_lowercase() } else { message };
            of_device.lost(&reason);
        });
        Self::build(device, queue, report, options, failures, Some(&adapter))
    }

    /// Uses a device that exists already, as an application that draws with wgpu has one. The device's own handler of
    /// errors and callback for its loss are left alone: what this crate does with the device runs in error scopes of
    /// its own, so that an error of it is returned here and does not reach the handler. Software kernels, profiling and
    /// cooperative matrices are used only where the device has the features, these after [`Gpu::check_matrix_units`].
    ///
    /// wgpu runs callbacks of the application (`map_async`, `on_submitted_work_done`) on whichever thread submits or polls,
    /// this crate's too: they must not call into this crate.
    ///
    /// # Errors
    /// [`Error::Limit`] when a limit of the device is less than the kernels need, which [`NEEDS`](super::NEEDS) lists;
    /// [`Error::Device`] when `options.tier` needs a feature that it lacks.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue, options: &GpuOptions) -> Result<Self> {
        let (info, blocks) = (device.adapter_info(), &options.cooperative_matrix);
        let report = AdapterReport::new(0, &info, device.features(), &device.limits(), blocks);
        check_kernels(&report, &device.limits(), options)?;
        let failures = Arc::new(Failures::new(&report.name));
        Self::build(device, queue, report, options, failures, None)
    }

    /// `adapter` where the device is of this crate's own making.
    fn build(
        device: wgpu::Device,
        queue: wgpu::Queue,
        report: AdapterReport,
        options: &GpuOptions,
        failures: Arc<Failures>,
        adapter: Option<&wgpu::Adapter>,
    ) -> Result<Self> {
        let tier = options.tier.unwrap_or(report.tier);
        // An adapter may have them and the device not.
        let usable = tier == Tier::Gpu && device.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let matrix_units = MatrixUnits::new(report.matrix_block.filter(|_| usable));
        let has_u64 = device.features().contains(wgpu::Features::SHADER_INT64);
        let compact = options.compact.unwrap_or(report.compact);
        log::debug!("{} ({}), {tier:?} kernels", report.name, report.driver);
        let limits = device.limits();
        let own_limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let max_binding_bytes = options.max_binding_bytes.map_or(own_limit, |b| b.min(own_limit));
        // Not less than what a thread loads at once (lib/oct_*.wgsl).
        let offset_alignment =
            limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment).max(32).into();
        let pool = Arc::new(pool::Pool::new(limits.max_buffer_size, options.buffer_usages, failures.clone()));
        #[cfg(feature = "files")]
        let cache = options.pipeline_cache.as_deref().and_then(|folder| PipelineCache::open(&device, folder));
        #[cfg(not(feature = "files"))]
        let cache = None;
        let compilation = Arc::<Compilation>::default();
        let warm_up = adapter.and_then(|a| WarmUp::new(a, &report, device.features(), compilation.clone()));
        let mut state = recorder::State::new(
            &device,
            &pool,
            cache,
            failures.clone(),
            report.is_software(),
            compilation.clone(),
            warm_up,
        );
        state.shared = adapter.is_none();
        let state = Mutex::new(state);
        #[cfg(feature = "files")]
        let shapes = Shapes::new(options.tuned.as_deref().and_then(|folder| shapes_file::measured(folder, &report)));
        #[cfg(not(feature = "files"))]
        let shapes = Shapes::default();
        failures.check()?;
        Ok(Gpu(Arc::new(Inner {
            device,
            queue,
            report,
            tier,
            matrix_units,
            has_u64,
            compact,
            max_binding_bytes,
            offset_alignment,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            state,
            compilation,
            pool,
            shapes,
            failures,
        })))
    }
}

/// Checks that an adapter or device can run the kernels that it would get.
fn check_kernels(report: &AdapterReport, limits: &wgpu::Limits, options: &GpuOptions) -> Result<()> {
    if let Some((need, has)) = needs::unmet(limits) {
        let (limit, least, adapter) = (need.limit, need.least, report.name.clone());
        return Err(Error::Limit { adapter, limit, least, has });
    }
    let tier = options.tier.unwrap_or(report.tier);
    match report.lacks_for(tier) {
        None => Ok(()),
        Some(needed) => Err(Error::Device(format!("{}: the {} kernels need {needed}", report.name, tier.name()))),
    }
}
