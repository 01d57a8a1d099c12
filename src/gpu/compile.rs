//! Pipelines. A WGSL text is parsed once for all kernels and constants that come from it; what the driver compiles,
//! threads of its own compile while recording goes on. Nothing waits before the submission that uses a pipeline.
//!
//! The threads end when there is nothing left to compile: a training step in its steady state has none. In a browser,
//! which has no threads to give, each pipeline is compiled where it is met.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::failure::Failures;
use super::fast_hash::FastMap;
use super::kernel::Fields;
use super::pipeline_cache::PipelineCache;
use super::reflect::{Binding, BindingKind, Reflection, Source};
use super::wgsl::compose_half;
use super::{Kernel, ParamScalar, lock};
use crate::error::Result;

/// A compute pipeline, perhaps still being compiled.
pub(super) struct Pipeline {
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) reflection: Reflection,
    pub(super) name: &'static str,
    pub(super) id: usize,
    recipe: Recipe,
    used: AtomicBool,
    /// Where the fields lie that were last found to be those of the WGSL; they are static, so the same place has the
    /// same.
    agreed: AtomicUsize,
    /// None where compiling panicked.
    raw: OnceLock<Option<wgpu::ComputePipeline>>,
}

/// The parts that a pipeline is made of.
pub(super) struct Recipe {
    device: wgpu::Device,
    module: Arc<Module>,
    layout: wgpu::PipelineLayout,
    kernel: &'static Kernel,
    constants: Vec<(&'static str, f64)>,
    cache: Option<wgpu::PipelineCache>,
    failures: Arc<Failures>,
}

/// A set of sources: parsed, and handed to the driver when its first pipeline is compiled.
struct Module {
    source: Source,
    raw: OnceLock<wgpu::ShaderModule>,
}

impl Recipe {
    /// The pipeline; what wgpu has against it goes to the device's failures, whichever thread compiles.
    fn compile(&self) -> wgpu::ComputePipeline {
        self.failures.watch(&self.device, || self.compile_unwatched())
    }

    fn compile_unwatched(&self) -> wgpu::ComputePipeline {
        let module = self.module.raw.get_or_init(|| self.shader_module(&self.device));
        self.compile_on(&self.device, module, &self.layout, self.cache.as_ref())
    }

    /// The sources, handed to the driver.
    pub(super) fn shader_module(&self, device: &wgpu::Device) -> wgpu::ShaderModule {
        #[cfg(not(target_arch = "wasm32"))]
        let source = wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(self.module.source.module.clone()));
        #[cfg(target_arch = "wasm32")]
        let source = wgpu::ShaderSource::Wgsl(self.module.source.text.as_str().into());
        device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(self.kernel.name), source })
    }

    /// The pipeline on a device that may be another.
    pub(super) fn compile_on(
        &self,
        device: &wgpu::Device,
        module: &wgpu::ShaderModule,
        layout: &wgpu::PipelineLayout,
        cache: Option<&wgpu::PipelineCache>,
    ) -> wgpu::ComputePipeline {
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(self.kernel.name),
            layout: Some(layout),
            module,
            entry_point: Some(self.kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &self.constants,
                // Every kernel writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache,
        })
    }
}

/// The layouts of a pipeline that binds these.
pub(super) fn pipeline_layout(
    device: &wgpu::Device,
    name: &str,
    reflection: &Reflection,
) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
    let entries: Vec<_> = reflection.bindings.iter().map(entry).collect();
    let label = Some(name);
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let whole = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    (layout, whole)
}

impl Pipeline {
    fn new(
        device: &wgpu::Device,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
        module: Arc<Module>,
        (cache, failures): (Option<wgpu::PipelineCache>, Arc<Failures>),
        id: usize,
    ) -> Result<Self> {
        let reflection = module.source.reflect(kernel)?;
        let (layout, whole) = failures.watch(device, || pipeline_layout(device, kernel.name, &reflection));
        let constants = kernel.constants.iter().chain(constants).copied().collect();
        let recipe = Recipe { device: device.clone(), module, layout: whole, kernel, constants, cache, failures };
        Ok(Pipeline {
            layout,
            reflection,
            name: kernel.name,
            id,
            recipe,
            used: AtomicBool::new(false),
            agreed: AtomicUsize::new(0),
            raw: OnceLock::new(),
        })
    }

    /// How it is made, here or on another device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Whether its kernel uses matrix units.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn needs_cooperative_matrix(&self) -> bool {
        self.recipe.kernel.needs_cooperative_matrix()
    }

    /// Whether this is the first time that somebody asks.
    pub(super) fn first_use(&self) -> bool {
        !self.used.swap(true, Ordering::Relaxed)
    }

    /// Whether these fields were the last that [`Pipeline::remember`] got, so that launches compare the names
    /// but once.
    pub(super) fn agrees_with(&self, fields: Fields) -> bool {
        self.agreed.load(Ordering::Relaxed) == fields.as_ptr() as usize
    }

    /// Keeps that these fields are those of the WGSL.
    pub(super) fn remember(&self, fields: Fields) {
        self.agreed.store(fields.as_ptr() as usize, Ordering::Relaxed);
    }

    /// Whether [`Pipeline::raw`] would not wait.
    pub(super) fn ready(&self) -> bool {
        self.raw.get().is_some()
    }

    /// The wgpu pipeline; waits where it is still being compiled.
    pub(super) fn raw(&self) -> wgpu::ComputePipeline {
        // What panicked on a thread does so again here, where the caller sees it.
        self.raw.wait().clone().unwrap_or_else(|| self.recipe.compile())
    }

    fn compile(&self) {
        let raw = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.recipe.compile()));
        // Each pipeline is compiled once, so nothing is there yet.
        let _ = self.raw.set(raw.ok());
    }

    /// The parameters in a slot of the arena, by name.
    pub(super) fn values(&self, slot: &[u8]) -> Vec<(String, f64)> {
        let fields = self.reflection.bindings.iter().find_map(|binding| match &binding.kind {
            BindingKind::Uniform { fields, .. } => Some(fields),
            _ => None,
        });
        let value = |((name, scalar), bytes): (&(String, ParamScalar), &[u8])| {
            let bits: u32 = bytemuck::pod_read_unaligned(bytes);
            (name.clone(), if *scalar == ParamScalar::F32 { f64::from(f32::from_bits(bits)) } else { f64::from(bits) })
        };
        fields.into_iter().flatten().zip(slot.chunks_exact(4)).map(value).collect()
    }
}

fn entry(binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding.kind {
        BindingKind::Uniform { .. } => wgpu::BufferBindingType::Uniform,
        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
        BindingKind::Write => wgpu::BufferBindingType::Storage { read_only: false },
    };
    let has_dynamic_offset = matches!(binding.kind, BindingKind::Uniform { .. });
    wgpu::BindGroupLayoutEntry {
        binding: binding.index,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

/// A kernel's pipeline for these override constants, with these variables stored in f16.
struct Variant {
    constants: Vec<(&'static str, f64)>,
    half: Vec<&'static str>,
    pipeline: Arc<Pipeline>,
}

impl Variant {
    /// Whether it is this one. Numbers by their bits: -0 is another constant, and NaN the same.
    fn is(&self, constants: &[(&'static str, f64)], half: &[&'static str]) -> bool {
        let same = |(a, b): (&(&str, f64), &(&str, f64))| a.1.to_bits() == b.1.to_bits() && a.0 == b.0;
        self.constants.len() == constants.len() && self.constants.iter().zip(constants).all(same) && self.half == half
    }
}

/// All pipelines of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    /// By their text.
    modules: HashMap<String, Arc<Module>>,
    /// By the kernel's address, its identity: names are for people. A kernel has few variants.
    pipelines: FastMap<usize, Vec<Variant>>,
    count: usize,
    workers: Workers,
    /// After the threads, which end before it is stored.
    cache: Option<PipelineCache>,
    failures: Arc<Failures>,
}

impl Pipelines {
    /// None yet; what is compiled will come from `cache`, where it is there, and go there. What fails goes to
    /// `failures`.
    pub(super) fn new(cache: Option<PipelineCache>, failures: Arc<Failures>) -> Self {
        Self { cache, failures, ..Self::default() }
    }

    /// The pipeline of `kernel` with these override constants and these variables stored in f16, and whether it is new;
    /// a new one is handed to the threads.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] when the WGSL is not valid.
    pub(super) fn get(
        &mut self,
        device: &wgpu::Device,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
        half: &[&'static str],
    ) -> Result<(Arc<Pipeline>, bool)> {
        let address = std::ptr::from_ref(kernel) as usize;
        let variants = self.pipelines.entry(address).or_default();
        if let Some(variant) = variants.iter().find(|variant| variant.is(constants, half)) {
            return Ok((variant.pipeline.clone(), false));
        }
        log::debug!("compiling {} {constants:?}, f16 {half:?}", kernel.name);
        let text = compose_half(kernel, half)?;
        let module = match self.modules.get(&text) {
            Some(module) => module.clone(),
            None => {
                let module = Arc::new(Module { source: Source::parse(kernel, &text)?, raw: OnceLock::new() });
                self.modules.insert(text, module.clone());
                module
            }
        };
        let cache = (self.cache.as_ref().map(PipelineCache::raw), self.failures.clone());
        let pipeline = Arc::new(Pipeline::new(device, kernel, constants, module, cache, self.count)?);
        self.count += 1;
        variants.push(Variant { constants: constants.to_vec(), half: half.to_vec(), pipeline: pipeline.clone() });
        self.workers.compile(pipeline.clone());
        Ok((pipeline, true))
    }
}

/// The pipelines that are to be compiled, and the threads that do it.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Pipeline>>,
    /// Threads that have not found it empty.
    at_work: usize,
    handles: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Workers(Arc<Mutex<Queue>>);

impl Workers {
    /// Compiles `pipeline` soon.
    fn compile(&self, pipeline: Arc<Pipeline>) {
        let mut queue = lock(&self.0);
        queue.waiting.push_back(pipeline);
        self.start(&mut queue);
        if queue.at_work == 0 {
            queue.at_work += 1;
            drop(queue);
            work(&self.0);
        }
    }

    /// Starts another thread, unless there are as many as the machine runs at once or it gives none.
    #[cfg(not(target_arch = "wasm32"))]
    fn start(&self, queue: &mut Queue) {
        if queue.at_work >= std::thread::available_parallelism().map_or(1, usize::from) {
            return;
        }
        let shared = self.0.clone();
        let thread = std::thread::Builder::new().name("sdmoe pipelines".into());
        if let Ok(handle) = thread.spawn(move || work(&shared)) {
            queue.at_work += 1;
            queue.handles.retain(|handle| !handle.is_finished());
            queue.handles.push(handle);
        }
    }

    /// A browser has no threads to give.
    #[cfg(target_arch = "wasm32")]
    fn start(&self, _: &mut Queue) {}
}

impl Drop for Workers {
    /// Gives up what is waiting, and lets the driver finish what it compiles: a program must not end under it.
    fn drop(&mut self) {
        let handles = {
            let mut queue = lock(&self.0);
            queue.waiting.clear();
            std::mem::take(&mut queue.handles)
        };
        // A thread that panicked has ended too.
        handles.into_iter().for_each(|handle| drop(handle.join()));
    }
}

/// Compiles what is waiting, until nothing is.
fn work(shared: &Mutex<Queue>) {
    loop {
        let mut queue = lock(shared);
        let Some(pipeline) = queue.waiting.pop_front() else {
            queue.at_work -= 1;
            return;
        };
        drop(queue);
        pipeline.compile();
    }
}
