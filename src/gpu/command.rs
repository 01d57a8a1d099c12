//! Commands that wait for the queue, and how a submission of them is encoded.

use std::sync::{Arc, OnceLock};

use futures_channel::oneshot;

use super::compile::Pipeline;
use super::costs::{CostKey, TRANSFER_RATE};
use super::profile::{Dispatch, Profile};
use super::stopwatch::Stopwatch;
use super::{failure::Failures, pool::Pool};

/// Bytes of an arena slot: the largest `min_uniform_buffer_offset_alignment` that WebGPU allows.
pub(super) const SLOT: u64 = 256;

pub(super) enum Command {
    Dispatch {
        pipeline: Arc<Pipeline>,
        bind_group: Arc<wgpu::BindGroup>,
        /// The number of its parameters, counted from the recorder's first.
        slot: Option<u64>,
        groups: [u32; 3],
        /// The size of all buffers that are bound.
        bytes: u64,
        /// Whether it is the first dispatch of its pipeline.
        new: bool,
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
    /// The writes of the host between two submissions.
    Write {
        target: wgpu::Buffer,
        offset: u64,
        data: Vec<u8>,
    },
    /// Maps a staging buffer behind the submission.
    Map(Map),
}

/// A readback's staging buffer, to be mapped when the submission is done.
pub(super) struct Map {
    pub(super) staging: wgpu::Buffer,
    pub(super) bytes: u64,
    pub(super) sender: oneshot::Sender<Result<(), wgpu::BufferAsyncError>>,
    pub(super) submitted: Submitted,
}

/// The submission of a readback, as soon as there is one: its index, and how many there have been up to it.
pub(super) type Submitted = Arc<OnceLock<(wgpu::SubmissionIndex, u64)>>;

impl Map {
    /// Asks for the bytes, now that the copy is submitted.
    pub(super) fn start(self, submission: &wgpu::SubmissionIndex, number: u64) {
        // A command is taken once.
        let _ = self.submitted.set((submission.clone(), number));
        let sender = self.sender;
        // The receiver may be gone: then nobody wants the bytes.
        self.staging.map_async(wgpu::MapMode::Read, 0..self.bytes, move |result| drop(sender.send(result)));
    }
}

impl Command {
    pub(super) fn is_dispatch(&self) -> bool {
        matches!(self, Command::Dispatch { .. })
    }

    pub(super) fn is_new(&self) -> bool {
        matches!(self, Command::Dispatch { new: true, .. })
    }

    /// By which its time is remembered, of a dispatch.
    pub(super) fn key(&self) -> Option<CostKey> {
        match self {
            Command::Dispatch { pipeline, groups, bytes, .. } => {
                Some([pipeline.id as u64, u64::from(groups[0]) * u64::from(groups[1]), *bytes])
            }
            _ => None,
        }
    }

    /// The seconds of a copy or clear, roughly.
    pub(super) fn transfer_seconds(&self) -> f64 {
        match self {
            Command::Copy { size, .. } | Command::Clear { size, .. } => *size as f64 / TRANSFER_RATE,
            _ => 0.0,
        }
    }
}

/// The commands of one submission with their parameters.
pub(super) struct Piece<'a> {
    pub(super) commands: &'a [Command],
    pub(super) arena: &'a [u8],
    /// The number of the parameters with which `arena` begins.
    pub(super) first_slot: u64,
}

impl Piece<'_> {
    /// The byte of the arena at which a dispatch's parameters begin.
    fn offset(&self, slot: u64) -> u32 {
        ((slot - self.first_slot) * SLOT) as u32
    }

    /// `set` is the number of the pipeline that the pass has.
    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, command: &Command, set: &mut Option<usize>) {
        if let Command::Dispatch { pipeline, bind_group, slot, groups, .. } = command {
            if set.replace(pipeline.id) != Some(pipeline.id) {
                pass.set_pipeline(&pipeline.raw());
            }
            let offset = slot.map(|slot| self.offset(slot));
            pass.set_bind_group(0, &**bind_group, offset.as_slice());
            pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        }
    }

    /// Runs of dispatches share a pass; copies and clears stand between passes. A stopwatch that times each dispatch has a pass
    /// for each.
    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder, watch: Option<&Stopwatch>) {
        let each = watch.is_some_and(Stopwatch::times_each);
        let together = |a: &Command, b: &Command| !each && a.is_dispatch() && b.is_dispatch();
        let passes = match watch {
            Some(_) => self.commands.chunk_by(together).filter(|run| run[0].is_dispatch()).count() as u32,
            None => 0,
        };
        let mut number = 0;
        for run in self.commands.chunk_by(together) {
            if run[0].is_dispatch() {
                let timestamp_writes = watch.and_then(|watch| watch.writes(number, passes));
                number += 1;
                let mut pass =
                    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
                let mut set = None;
                run.iter().for_each(|command| self.dispatch(&mut pass, command, &mut set));
            } else {
                run.iter().for_each(|command| transfer(encoder, command));
            }
        }
        if let Some(watch) = watch {
            watch.resolve(encoder);
        }
    }

    /// As [`Piece::encode`], for a profile: each dispatch has a pass of its own.
    pub(super) fn encode_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        profile: &mut Profile,
        device: &wgpu::Device,
        pool: &Pool,
    ) {
        let mut dispatches = Vec::new();
        let mut transfers_before = 0;
        for command in self.commands {
            let Command::Dispatch { pipeline, slot, bytes, .. } = command else {
                transfers_before += usize::from(!matches!(command, Command::Map(_)));
                continue;
            };
            let params = slot.map_or(Vec::new(), |slot| pipeline.values(&self.arena[self.offset(slot) as usize..]));
            let (kernel, bytes) = (pipeline.name, *bytes);
            dispatches.push(Dispatch { kernel, params, bytes, begin: 0.0, end: 0.0, submission: 0, transfers_before });
            transfers_before = 0;
        }
        let batch = profile.begin(device, pool, dispatches);
        let mut query = 0;
        for command in self.commands {
            if command.is_dispatch() {
                let timestamp_writes = batch.as_ref().map(|batch| batch.writes(query));
                query += 1;
                let mut pass =
                    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
                self.dispatch(&mut pass, command, &mut None);
            } else {
                transfer(encoder, command);
            }
        }
        if let Some(batch) = batch {
            batch.resolve(encoder);
            profile.batches.push(batch);
        }
    }

    /// Writes the parameters to `arena`, before what is submitted next.
    pub(super) fn write_arena(
        &self,
        failures: &Failures,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        arena: &wgpu::Buffer,
    ) {
        failures.write(device, queue, (arena, 0), self.arena);
    }
}

fn transfer(encoder: &mut wgpu::CommandEncoder, command: &Command) {
    match command {
        Command::Copy { source, source_offset, target, target_offset, size } => {
            encoder.copy_buffer_to_buffer(source, *source_offset, target, *target_offset, *size);
        }
        Command::Clear { target, offset, size } => encoder.clear_buffer(target, *offset, Some(*size)),
        Command::Dispatch { .. } | Command::Write { .. } | Command::Map(_) => {}
    }
}
