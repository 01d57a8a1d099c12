//! The list of commands that waits for the queue, the pipelines and bind groups it reuses, and the uniform arena.
//!
//! Parameters of all dispatches of a submission lie in one arena buffer, one slot a dispatch, bound with a dynamic
//! offset: `write_buffer` takes effect before the whole submission, so two dispatches must not share a slot, and a bind
//! group must not depend on the slot.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::command::{Command, Map, SLOT};
use super::compile::{Pipeline, Pipelines};
use super::failure::Failures;
use super::fast_hash::FastMap;
use super::pace::Pacer;
use super::pipeline_cache::PipelineCache;
use super::pool::{BufferSlice, Pool};
use super::profile::Profile;
use super::progress::{Compilation, NEW_PIPELINES};
use super::reflect::BindingKind;
use super::wakers::Wakers;
use super::warm_up::WarmUp;
use super::{Counters, Kernel};
use crate::error::{Error, Result};

/// Commands a submission has at most: enough to amortise the submit, few enough to start the device early.
pub(super) const COMMANDS: usize = 256;
/// Bytes of the arena.
pub(super) const ARENA: u64 = SLOT * COMMANDS as u64;
/// Bind groups kept; a training step needs a few hundred. Past this the cache starts anew.
const BIND_GROUPS: usize = 1 << 14;
/// Commands that are held back for a budget at most; a program that records more without waiting for any of it is not kept
/// to its budget.
const MOST_HELD: usize = 1 << 17;
/// A pipeline's number, then id, offset and size of each slice that is bound.
type GroupKey = Vec<u64>;

pub(super) struct State {
    pub(super) counters: Counters,
    pub(super) profile: Option<Profile>,
    /// The launches since [`super::Gpu::start_capture`], where somebody wants them.
    #[cfg(feature = "verify")]
    pub(super) capture: Option<Vec<super::captured::Captured>>,
    /// The kernels that were launched since [`super::Gpu::start_noting`], where somebody wants to know.
    #[cfg(any(feature = "bench", feature = "verify"))]
    pub(super) launched: Option<super::launched::Log>,
    pub(super) commands: VecDeque<Command>,
    /// The commands of the submission at hand, empty between two.
    pub(super) piece: Vec<Command>,
    pub(super) arena: wgpu::Buffer,
    /// The parameters of the commands, from `arena_start` on; before lie some of commands that are submitted.
    pub(super) arena_bytes: Vec<u8>,
    pub(super) arena_start: usize,
    /// The number of the parameters at `arena_start`.
    pub(super) first_slot: u64,
    /// Submissions wait for one another, each cut to a time.
    pub(super) pacer: Pacer,
    /// How many want that everything is held back.
    pub(super) holds: u32,
    pub(super) wakers: Arc<Wakers>,
    /// An application uses the device too.
    pub(super) shared: bool,
    /// The device has timestamps.
    pub(super) timestamps: bool,
    /// Submissions are kept short without a budget too, and `seconds` are expected of the commands.
    pub(super) bounded: bool,
    pub(super) seconds: f64,
    pipelines: Pipelines,
    pub(super) compilation: Arc<Compilation>,
    warm_up: Option<WarmUp>,
    /// Pipelines whose first dispatch waits among the commands, and how many may.
    pub(super) new_pipelines: u64,
    pub(super) most_new_pipelines: u64,
    pub(super) bind_groups: FastMap<GroupKey, Arc<wgpu::BindGroup>>,
    /// The key of the launch at hand, so that one that is looked up is not allocated.
    key: GroupKey,
    pub(super) staging: HashMap<u64, Vec<wgpu::Buffer>>,
    pub(super) failures: Arc<Failures>,
}

impl State {
    /// `software` says that the driver is a software driver, see [`NEW_PIPELINES`].
    pub(super) fn new(
        device: &wgpu::Device,
        pool: &Pool,
        cache: Option<PipelineCache>,
        failures: Arc<Failures>,
        software: bool,
        compilation: Arc<Compilation>,
        warm_up: Option<WarmUp>,
    ) -> Self {
        pool.note_created(ARENA);
        let description = wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: ARENA,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let arena = failures.watch(device, || device.create_buffer(&description));
        Self {
            counters: Counters {
                pipeline_bytes_read: cache.as_ref().map_or(0, PipelineCache::bytes_read),
                ..Counters::default()
            },
            profile: None,
            #[cfg(feature = "verify")]
            capture: None,
            #[cfg(any(feature = "bench", feature = "verify"))]
            launched: None,
            commands: VecDeque::with_capacity(COMMANDS),
            piece: Vec::with_capacity(COMMANDS),
            arena,
            arena_bytes: Vec::with_capacity(ARENA as usize),
            arena_start: 0,
            first_slot: 0,
            pacer: Pacer::default(),
            holds: 0,
            wakers: Arc::default(),
            shared: false,
            timestamps: device.features().contains(wgpu::Features::TIMESTAMP_QUERY),
            // A browser watches over its devices itself.
            bounded: !software && cfg!(not(target_arch = "wasm32")),
            seconds: 0.0,
            pipelines: Pipelines::new(cache, failures.clone()),
            compilation,
            warm_up,
            new_pipelines: 0,
            most_new_pipelines: if software { NEW_PIPELINES } else { u64::MAX },
            bind_groups: FastMap::default(),
            key: GroupKey::new(),
            staging: HashMap::new(),
            failures,
        }
    }

    pub(super) fn pending(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether commands wait until somebody asks for the next piece of them.
    pub(super) fn holds(&self) -> bool {
        self.holds > 0 || self.pacer.budget.is_some()
    }

    /// Submits if the list is full, so that one more command fits.
    pub(super) fn make_room(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, pool: &Pool) {
        let full = if self.holds() {
            self.commands.len() >= MOST_HELD
        } else {
            let long = self.pacer.bound(self.bounded).is_some_and(|bound| self.seconds >= bound);
            self.commands.len() >= COMMANDS || self.new_pipelines >= self.most_new_pipelines || long
        };
        if full {
            self.flush(device, queue, pool);
        }
    }

    /// The pipeline of `kernel` with these override constants and these variables stored in f16, which starts compiling
    /// at its first use.
    pub(super) fn pipeline(
        &mut self,
        device: &wgpu::Device,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
        half: &[&'static str],
    ) -> Result<Arc<Pipeline>> {
        let (pipeline, new) = self.pipelines.get(device, kernel, constants, half)?;
        self.counters.pipelines_created += u64::from(new);
        self.compilation.begun.fetch_add(u64::from(new), Ordering::Relaxed);
        if let Some(warm_up) = self.warm_up.as_ref().filter(|_| new) {
            warm_up.push(pipeline.clone());
        }
        Ok(pipeline)
    }

    /// Records a dispatch. `slices` are the storage bindings in binding order.
    pub(super) fn dispatch(
        &mut self,
        device: &wgpu::Device,
        pipeline: &Arc<Pipeline>,
        params: Option<&[u8]>,
        slices: &[&BufferSlice],
        groups: [u32; 3],
    ) {
        self.key.clear();
        self.key.push(pipeline.id as u64);
        self.key.extend(slices.iter().flat_map(|s| [s.buffer.id(), s.offset, s.size]));
        let bind_group = match self.bind_groups.get(&self.key) {
            Some(group) => group.clone(),
            None => {
                if self.bind_groups.len() >= BIND_GROUPS {
                    self.bind_groups.clear();
                }
                let group = self.failures.watch(device, || bind(device, pipeline, &self.arena, slices));
                let group = Arc::new(group);
                self.counters.bind_groups_created += 1;
                self.bind_groups.insert(self.key.clone(), group.clone());
                group
            }
        };
        let slot = params.map(|bytes| {
            let start = self.arena_bytes.len();
            self.arena_bytes.extend_from_slice(bytes);
            self.arena_bytes.resize(start + SLOT as usize, 0);
            self.first_slot + (start - self.arena_start) as u64 / SLOT
        });
        self.counters.dispatches += 1;
        let new = pipeline.first_use();
        self.new_pipelines += u64::from(new);
        let bytes = slices.iter().map(|s| s.size).sum();
        self.push(Command::Dispatch { pipeline: pipeline.clone(), bind_group, slot, groups, bytes, new });
    }

    pub(super) fn copy(&mut self, source: &BufferSlice, target: &BufferSlice) {
        self.copy_raw(source, target.buffer.raw().clone(), target.offset);
    }

    pub(super) fn copy_raw(&mut self, source: &BufferSlice, target: wgpu::Buffer, target_offset: u64) {
        self.push(Command::Copy {
            source: source.buffer.raw().clone(),
            source_offset: source.offset,
            target,
            target_offset,
            size: source.size.next_multiple_of(4),
        });
    }

    pub(super) fn clear(&mut self, slice: &BufferSlice) {
        self.push(Command::Clear {
            target: slice.buffer.raw().clone(),
            offset: slice.offset,
            size: slice.size.next_multiple_of(4),
        });
    }

    /// Has `data` written to `target` behind the commands that wait.
    pub(super) fn write(&mut self, target: &BufferSlice, data: &[u8]) {
        let (raw, offset) = (target.buffer.raw().clone(), target.offset);
        self.push(Command::Write { target: raw, offset, data: data.to_vec() });
    }

    /// Has a staging buffer mapped behind the commands that wait.
    pub(super) fn map(&mut self, map: Map) {
        self.push(Command::Map(map));
    }

    fn push(&mut self, command: Command) {
        if let Some(bound) = self.pacer.bound(self.bounded && !self.holds()) {
            self.seconds += self.pacer.seconds(&command, bound);
        }
        self.commands.push_back(command);
    }

    /// Lets go of every buffer that is kept for later.
    pub(super) fn trim(&mut self, pool: &Pool) {
        self.bind_groups.clear();
        self.staging.drain().flat_map(|(_, free)| free).for_each(|buffer| pool.note_freed(buffer.size()));
        pool.trim();
    }

    /// Finds out whether the device is gone, by a write that the next submission overwrites.
    pub(super) fn probe(&self, device: &wgpu::Device, queue: &wgpu::Queue) {
        self.failures.write(device, queue, (&self.arena, 0), &[0; 4]);
    }
}

fn bind(device: &wgpu::Device, pipeline: &Pipeline, arena: &wgpu::Buffer, slices: &[&BufferSlice]) -> wgpu::BindGroup {
    let mut storage = slices.iter();
    let entries: Vec<_> = pipeline
        .reflection
        .bindings
        .iter()
        .filter_map(|binding| {
            let buffer = match &binding.kind {
                BindingKind::Uniform { size, .. } => {
                    wgpu::BufferBinding { buffer: arena, offset: 0, size: u64::from(*size).try_into().ok() }
                }
                _ => {
                    let slice = storage.next()?;
                    let size = slice.size.next_multiple_of(4).try_into().ok();
                    wgpu::BufferBinding { buffer: slice.buffer.raw(), offset: slice.offset, size }
                }
            };
            Some(wgpu::BindGroupEntry { binding: binding.index, resource: wgpu::BindingResource::Buffer(buffer) })
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(pipeline.name),
        layout: &pipeline.layout,
        entries: &entries,
    })
}

/// Splits a count of workgroups over two dimensions: one dimension takes 65535.
pub(super) fn grid(groups: u64, limit: u32) -> Result<[u32; 3], Error> {
    let limit = u64::from(limit);
    let rows = groups.div_ceil(limit).max(1);
    if rows > limit {
        return Err(Error::Device(format!("a dispatch of {groups} workgroups; the adapter takes {}", limit * limit)));
    }
    Ok([groups.div_ceil(rows) as u32, rows as u32, 1])
}
