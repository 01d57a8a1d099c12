//! The list of commands that waits for the queue, the pipelines and bind groups it reuses, and the uniform arena.
//!
//! Parameters of all dispatches of a submission lie in one arena buffer, one slot a dispatch, bound with a dynamic
//! offset: `write_buffer` takes effect before the whole submission, so two dispatches must not share a slot, and a bind
//! group must not depend on the slot.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::compile::{Pipeline, Pipelines};
use super::failure::Failures;
use super::fast_hash::FastMap;
use super::pipeline_cache::PipelineCache;
use super::pool::{BufferSlice, Pool};
use super::profile::{Dispatch, Profile};
use super::progress::{Compilation, NEW_PIPELINES};
use super::reflect::BindingKind;
use super::warm_up::WarmUp;
use super::{Counters, Kernel, lock};
use crate::error::{Error, Result};

/// Bytes of an arena slot: the largest `min_uniform_buffer_offset_alignment` that WebGPU allows.
pub(super) const SLOT: u64 = 256;
/// Commands a submission has at most: enough to amortise the submit, few enough to start the device early.
const COMMANDS: usize = 256;
/// Bytes of the arena.
pub(super) const ARENA: u64 = SLOT * COMMANDS as u64;
/// Bind groups kept; a training step needs a few hundred. Past this the cache starts anew.
const BIND_GROUPS: usize = 1 << 14;
enum Command {
    Dispatch {
        pipeline: Arc<Pipeline>,
        bind_group: Arc<wgpu::BindGroup>,
        slot: Option<u32>,
        groups: [u32; 3],
        /// The size of all buffers that are bound.
        bytes: u64,
    },
    Copy {
        source: wgpu::Buffer,
        source_offset: u64,
        target: wgpu::Buffer,
        target_offset: u64,
        size: u64,
    },
    Clear {
        target: wgpu::Buffer,
        offset: u64,
        size: u64,
    },
}

/// A pipeline's number, then id, offset and size of each slice that is bound.
type GroupKey = Vec<u64>;

pub(super) struct State {
    pub(super) counters: Counters,
    pub(super) profile: Option<Profile>,
    /// The launches since [`super::Gpu::start_capture`], where somebody wants them.
    #[cfg(feature = "verify")]
    pub(super) capture: Option<Vec<super::captured::Captured>>,
    commands: Vec<Command>,
    arena: wgpu::Buffer,
    arena_bytes: Vec<u8>,
    pipelines: Pipelines,
    compilation: Arc<Compilation>,
    warm_up: Option<WarmUp>,
    /// Pipelines whose first dispatch waits among the commands, and how many may.
    new_pipelines: u64,
    most_new_pipelines: u64,
    bind_groups: FastMap<GroupKey, Arc<wgpu::BindGroup>>,
    /// The key of the launch at hand, so that one that is looked up is not allocated.
    key: GroupKey,
    pub(super) staging: HashMap<u64, Vec<wgpu::Buffer>>,
    failures: Arc<Failures>,
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
            commands: Vec::with_capacity(COMMANDS),
            arena,
            arena_bytes: Vec::with_capacity(ARENA as usize),
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

    /// Submits if the list is full, so that one more command fits.
    pub(super) fn make_room(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, pool: &Pool) {
        if self.commands.len() >= COMMANDS || self.new_pipelines >= self.most_new_pipelines {
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
            let slot = self.arena_bytes.len();
            self.arena_bytes.extend_from_slice(bytes);
            self.arena_bytes.resize(slot + SLOT as usize, 0);
            slot as u32
        });
        self.counters.dispatches += 1;
        self.new_pipelines += u64::from(pipeline.first_use());
        let bytes = slices.iter().map(|s| s.size).sum();
        self.commands.push(Command::Dispatch { pipeline: pipeline.clone(), bind_group, slot, groups, bytes });
    }

    pub(super) fn copy(&mut self, source: &BufferSlice, target: &BufferSlice) {
        self.copy_raw(source, target.buffer.raw().clone(), target.offset);
    }

    pub(super) fn copy_raw(&mut self, source: &BufferSlice, target: wgpu::Buffer, target_offset: u64) {
        self.commands.push(Command::Copy {
            source: source.buffer.raw().clone(),
            source_offset: source.offset,
            target,
            target_offset,
            size: source.size.next_multiple_of(4),
        });
    }

    pub(super) fn clear(&mut self, slice: &BufferSlice) {
        self.commands.push(Command::Clear {
            target: slice.buffer.raw().clone(),
            offset: slice.offset,
            size: slice.size.next_multiple_of(4),
        });
    }

    /// Submits all commands; returns the submission to wait for, if there was anything to submit.
    pub(super) fn flush(
        &mut self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        pool: &Pool,
    ) -> Option<wgpu::SubmissionIndex> {
        if self.commands.is_empty() {
            return None;
        }
        let dropped = pool.take_dropped();
        if !dropped.is_empty() {
            self.bind_groups.retain(|key, _| key[1..].iter().step_by(3).all(|id| !dropped.contains(id)));
        }
        self.failures.write(device, queue, (&self.arena, 0), &self.arena_bytes);
        let submitting = lock(&self.compilation.submitting);
        let submission = self.failures.watch(device, || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            match &mut self.profile {
                None => encode(&mut encoder, &self.commands),
                Some(profile) => encode_timed(&mut encoder, &self.commands, &self.arena_bytes, profile, device, pool),
            }
            queue.submit([encoder.finish()])
        });
        drop(submitting);
        self.arena_bytes.clear();
        self.commands.clear();
        self.counters.submissions += 1;
        let new = std::mem::take(&mut self.new_pipelines);
        if new > 0 {
            let compilation = self.compilation.clone();
            queue.on_submitted_work_done(move || {
                compilation.done.fetch_add(new, Ordering::Relaxed);
            });
        }
        Some(submission)
    }

    /// Finds out whether the device is gone, by a write that the next submission overwrites.
    pub(super) fn probe(&self, device: &wgpu::Device, queue: &wgpu::Queue) {
        self.failures.write(device, queue, (&self.arena, 0), &[0; 4]);
    }
}

/// `set` is the number of the pipeline that the pass has.
fn dispatch(pass: &mut wgpu::ComputePass<'_>, command: &Command, set: &mut Option<usize>) {
    if let Command::Dispatch { pipeline, bind_group, slot, groups, .. } = command {
        if set.replace(pipeline.id) != Some(pipeline.id) {
            pass.set_pipeline(&pipeline.raw());
        }
        pass.set_bind_group(0, &**bind_group, slot.as_ref().map_or(&[][..], std::slice::from_ref));
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
    }
}

fn transfer(encoder: &mut wgpu::CommandEncoder, command: &Command) {
    match command {
        Command::Copy { source, source_offset, target, target_offset, size } => {
            encoder.copy_buffer_to_buffer(source, *source_offset, target, *target_offset, *size);
        }
        Command::Clear { target, offset, size } => encoder.clear_buffer(target, *offset, Some(*size)),
        Command::Dispatch { .. } => {}
    }
}

/// Runs of dispatches share a pass; copies and clears stand between passes.
fn encode(encoder: &mut wgpu::CommandEncoder, commands: &[Command]) {
    for run in commands.chunk_by(|a, b| is_dispatch(a) && is_dispatch(b)) {
        if is_dispatch(&run[0]) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let mut set = None;
            run.iter().for_each(|command| dispatch(&mut pass, command, &mut set));
        } else {
            run.iter().for_each(|command| transfer(encoder, command));
        }
    }
}

fn is_dispatch(command: &Command) -> bool {
    matches!(command, Command::Dispatch { .. })
}

fn encode_timed(
    encoder: &mut wgpu::CommandEncoder,
    commands: &[Command],
    arena: &[u8],
    profile: &mut Profile,
    device: &wgpu::Device,
    pool: &Pool,
) {
    let mut dispatches = Vec::new();
    let mut transfers_before = 0;
    for command in commands {
        let Command::Dispatch { pipeline, slot, bytes, .. } = command else {
            transfers_before += 1;
            continue;
        };
        let params = slot.map_or(Vec::new(), |slot| pipeline.values(&arena[slot as usize..]));
        let (kernel, bytes) = (pipeline.name, *bytes);
        dispatches.push(Dispatch { kernel, params, bytes, begin: 0.0, end: 0.0, submission: 0, transfers_before });
        transfers_before = 0;
    }
    let batch = profile.begin(device, pool, dispatches);
    let mut query = 0;
    for command in commands {
        if is_dispatch(command) {
            let timestamp_writes = batch.as_ref().map(|batch| batch.writes(query));
            query += 1;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            dispatch(&mut pass, command, &mut None);
        } else {
            transfer(encoder, command);
        }
    }
    if let Some(batch) = batch {
        batch.resolve(encoder);
        profile.batches.push(batch);
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
