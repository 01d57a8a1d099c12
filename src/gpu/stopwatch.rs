//! Timestamps around the passes of one submission, in buffers that are used again.

use std::time::Duration;

use super::pool::Pool;

/// Dispatches that can be timed one by one: as many as a submission has commands.
const MOST: u32 = 256;
const BYTES: u64 = 2 * MOST as u64 * 8;

/// The queries of one submission at a time.
pub(super) struct Stopwatch {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    pub(super) staging: wgpu::Buffer,
    /// Whether each dispatch has its pass and its pair of timestamps, or all passes have one pair.
    each: bool,
    /// Timestamps of this submission.
    stamps: u32,
}

impl Stopwatch {
    pub(super) fn new(device: &wgpu::Device, pool: &Pool) -> Self {
        let label = Some("stopwatch");
        let description = wgpu::QuerySetDescriptor { label, ty: wgpu::QueryType::Timestamp, count: 2 * MOST };
        let queries = device.create_query_set(&description);
        let buffer = |usage| {
            pool.note_created(BYTES);
            device.create_buffer(&wgpu::BufferDescriptor { label, size: BYTES, usage, mapped_at_creation: false })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        Self { queries, resolved, staging, each: false, stamps: 0 }
    }

    /// For a submission of so many dispatches, which are timed one by one if `each`.
    pub(super) fn set(mut self, dispatches: u32, each: bool) -> Self {
        (self.each, self.stamps) = (each, if each { 2 * dispatches.min(MOST) } else { 2 });
        self
    }

    pub(super) fn times_each(&self) -> bool {
        self.each
    }

    /// The bytes of the timestamps.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.stamps) * 8
    }

    /// The timestamps of pass `number` of so many.
    pub(super) fn writes(&self, number: u32, passes: u32) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let (begin, end) = match self.each {
            true => (Some(2 * number), Some(2 * number + 1)),
            false => ((number == 0).then_some(0), (number + 1 == passes).then_some(1)),
        };
        (begin.is_some() || end.is_some()).then_some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: begin,
            end_of_pass_write_index: end,
        })
    }

    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..self.stamps, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, self.bytes());
    }

    /// From the first timestamp to the last, and each dispatch's own seconds where they were timed one by one. The staging
    /// buffer must be mapped, and no longer is then. None where the timestamps are none.
    pub(super) fn read(&self, queue: &wgpu::Queue) -> Option<(Duration, Vec<f64>)> {
        let period = f64::from(queue.get_timestamp_period()) * 1e-9;
        let view = self.staging.slice(0..self.bytes()).get_mapped_range().ok()?;
        let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&view);
        drop(view);
        self.staging.unmap();
        let seconds = |begin: u64, end: u64| (end >= begin && begin > 0).then(|| (end - begin) as f64 * period);
        let all = Duration::try_from_secs_f64(seconds(*stamps.first()?, *stamps.last()?)?).ok()?;
        let pairs = if self.each { &stamps[..] } else { &[] };
        let each: Option<Vec<f64>> = pairs.chunks_exact(2).map(|pair| seconds(pair[0], pair[1])).collect();
        Some((all, each.unwrap_or_default()))
    }
}
