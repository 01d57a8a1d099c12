//! From the recorder to the queue: all of what is recorded, or the next piece of what is held back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::command::{Command, Piece, SLOT};
use super::costs::CostKey;
use super::instant::Instant;
use super::lock;
use super::pace::{InFlight, Next};
use super::pool::Pool;
use super::progress::NEW_PIPELINES;
use super::recorder::{COMMANDS, State};
use super::stopwatch::Stopwatch;

/// How soon a pipeline that is being compiled is looked at again.
const COMPILING: Duration = Duration::from_millis(1);

impl State {
    /// Submits all commands, without waiting for anything.
    pub(super) fn flush(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, pool: &Pool) {
        self.pacer.collect(queue);
        loop {
            self.write_first(device, queue);
            if self.commands.is_empty() {
                break;
            }
            let count = self.next_piece(false);
            self.submit(count, device, queue, pool);
        }
        self.seconds = 0.0;
    }

    /// Where commands are held back: submits the next piece of them if its turn has come, and says what there is to wait
    /// for.
    pub(super) fn advance(&mut self, device: &wgpu::Device, queue: &wgpu::Queue, pool: &Pool) -> Next {
        self.pacer.collect(queue);
        if let Some(last) = self.pacer.in_flight.back() {
            return Next::Device(last.index.clone());
        }
        if !self.holds() {
            return Next::Nothing;
        }
        self.write_first(device, queue);
        if self.commands.is_empty() {
            return Next::Nothing;
        }
        if let Some(rest) = self.pacer.pause() {
            return Next::Pause(rest);
        }
        match self.next_piece(true) {
            0 => Next::Pause(COMPILING),
            count => Next::Device(self.submit(count, device, queue, pool)),
        }
    }

    /// Writes the data that is next, before what is submitted next.
    fn write_first(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
        while let Some(Command::Write { target, offset, data }) = self.commands.front() {
            self.failures.write(device, queue, (target, *offset), data);
            self.commands.pop_front();
        }
    }

    /// How many commands the next submission has. Where it may be none, it ends before a pipeline that is still being
    /// compiled.
    fn next_piece(&self, may_be_none: bool) -> usize {
        let bound = self.holds().then(|| self.pacer.bound(false)).flatten();
        // What compiles at the first dispatch is to be seen one by one.
        let most_new = match self.most_new_pipelines {
            NEW_PIPELINES if self.holds() => 1,
            most => most,
        };
        let (mut seconds, mut new) = (0.0, 0);
        let mut ends = |(i, command): (usize, &Command)| {
            seconds += bound.map_or(0.0, |bound| self.pacer.seconds(command, bound));
            new += u64::from(command.is_new());
            let compiling = may_be_none && matches!(command, Command::Dispatch { pipeline, .. } if !pipeline.ready());
            let full = i >= COMMANDS || new > most_new || bound.is_some_and(|bound| seconds > bound);
            // A readback's end belongs to its copy.
            !matches!(command, Command::Map(_))
                && (compiling || i > 0 && (full || matches!(command, Command::Write { .. })))
        };
        self.commands.iter().enumerate().position(|(i, command)| ends((i, command))).unwrap_or(self.commands.len())
    }

    /// Submits the first `count` commands, at least one and no write.
    fn submit(
        &mut self,
        count: usize,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        pool: &Pool,
    ) -> wgpu::SubmissionIndex {
        let dropped = pool.take_dropped();
        if !dropped.is_empty() {
            self.bind_groups.retain(|key, _| key[1..].iter().step_by(3).all(|id| !dropped.contains(id)));
        }
        let mut commands = std::mem::take(&mut self.piece);
        commands.extend(self.commands.drain(..count));
        let slots = commands.iter().filter(|c| matches!(c, Command::Dispatch { slot: Some(_), .. })).count();
        let new = commands.iter().filter(|command| command.is_new()).count() as u64;
        let measured = self.holds() || self.bounded;
        let keys: Vec<_> = if measured { commands.iter().filter_map(Command::key).collect() } else { Vec::new() };
        let watch = self.watch(&keys, device, pool);
        let arena = &self.arena_bytes[self.arena_start..][..slots * SLOT as usize];
        let piece = Piece { commands: &commands, arena, first_slot: self.first_slot };
        piece.write_arena(&self.failures, device, queue, &self.arena);
        let submitting = lock(&self.compilation.submitting);
        let began = measured.then(Instant::now);
        let index = self.failures.watch(device, || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            match &mut self.profile {
                None => piece.encode(&mut encoder, watch.as_ref()),
                Some(profile) => piece.encode_timed(&mut encoder, profile, device, pool),
            }
            queue.submit([encoder.finish()])
        });
        drop(submitting);
        self.counters.submissions += 1;
        self.new_pipelines -= new;
        self.arena_start += slots * SLOT as usize;
        self.first_slot += slots as u64;
        if self.arena_start >= self.arena_bytes.len() / 2 {
            self.arena_bytes.drain(..self.arena_start);
            self.arena_start = 0;
        }
        let number = self.counters.submissions;
        self.failures.watch(device, || {
            for command in commands.drain(..) {
                if let Command::Map(map) = command {
                    map.start(&index, number);
                }
            }
        });
        self.piece = commands;
        if new > 0 {
            let compilation = self.compilation.clone();
            queue.on_submitted_work_done(move || {
                compilation.done.fetch_add(new, Ordering::Relaxed);
            });
        }
        if let Some(began) = began {
            let done = self.tell_end(watch.as_ref(), device, queue);
            self.pacer.submitted(InFlight { index: index.clone(), began, done, keys, watch, first_run: new > 0 });
        }
        index
    }

    /// The stopwatch for a submission of these dispatches, where there is a budget to be kept and a device that has
    /// timestamps. Those of unknown times are timed one by one.
    fn watch(&mut self, keys: &[CostKey], device: &wgpu::Device, pool: &Pool) -> Option<Stopwatch> {
        let wanted = self.timestamps && self.pacer.budget.is_some() && self.profile.is_none() && !keys.is_empty();
        let each = keys.iter().any(|key| self.pacer.costs.get(key).is_none());
        let free = wanted.then(|| self.pacer.watch())?;
        let watch = free.unwrap_or_else(|| self.failures.watch(device, || Stopwatch::new(device, pool)));
        Some(watch.set(keys.len() as u32, each))
    }

    /// Has the end of what was submitted last noted, with whether the stopwatch can be read, and those that wait for it woken.
    fn tell_end(
        &self,
        watch: Option<&Stopwatch>,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> Arc<OnceLock<(Instant, bool)>> {
        let done = Arc::<OnceLock<_>>::default();
        let (of_device, wakers) = (done.clone(), self.wakers.clone());
        let tell = move |mapped| {
            // There is one end.
            let _ = of_device.set((Instant::now(), mapped));
            wakers.wake();
        };
        match watch {
            Some(watch) => self.failures.watch(device, || {
                let stamps = watch.staging.slice(0..watch.bytes());
                stamps.map_async(wgpu::MapMode::Read, move |result| tell(result.is_ok()));
            }),
            None => queue.on_submitted_work_done(move || tell(false)),
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::BufferSlice;
    use super::super::{Gpu, GpuOptions, lock};

    #[test]
    fn submissions_on_a_gpu_are_short_without_a_budget_too() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default())).unwrap();
        // As a GPU is treated, whatever the machine has.
        lock(&gpu.0.state).bounded = true;
        // A clear of 64 MiB is thought to take 17 ms.
        let size = 64 << 20;
        let slice = BufferSlice { buffer: gpu.allocate(size).unwrap(), offset: 0, size };
        let submitted = |clears| {
            let before = gpu.counters().submissions;
            (0..clears).for_each(|_| gpu.clear(&slice).unwrap());
            gpu.counters().submissions - before
        };
        assert_eq!(submitted(3), 0);
        assert_eq!(submitted(4), 2);
        pollster::block_on(gpu.finish()).unwrap();
        let pacing = gpu.pacing();
        assert!(
            pacing.submissions == gpu.counters().submissions && pacing.busy > std::time::Duration::ZERO,
            "{pacing:?}"
        );
    }
}
