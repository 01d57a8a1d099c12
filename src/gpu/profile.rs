//! The time of every dispatch, from timestamp queries around each.

use std::collections::HashMap;

use super::Gpu;
use super::pool::Pool;
use crate::error::{Error, Result};

/// The time that one kernel took.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct KernelTime {
    /// The kernel's name.
    pub name: &'static str,
    /// Dispatches.
    pub calls: u64,
    /// Seconds of all of them together.
    pub seconds: f64,
}

/// One dispatch of a profile. Times are seconds since the first one began.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Dispatch {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Its parameters, by their names in the WGSL.
    pub params: Vec<(String, f64)>,
    /// Bytes of all buffers bound to it.
    pub bytes: u64,
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
    /// Its submission, counted from 0.
    pub submission: usize,
    /// Copies and clears between the dispatch before and this one, in the same submission.
    pub transfers_before: usize,
}

#[derive(Default)]
pub(super) struct Profile {
    pub(super) batches: Vec<Batch>,
}

/// The queries of one submission.
pub(super) struct Batch {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// The dispatches, without their times.
    dispatches: Vec<Dispatch>,
}

impl Profile {
    pub(super) fn begin(&self, device: &wgpu::Device, pool: &Pool, dispatches: Vec<Dispatch>) -> Option<Batch> {
        if dispatches.is_empty() {
            return None;
        }
        let count = 2 * dispatches.len() as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let buffer = |usage| {
            let size = u64::from(count) * 8;
            pool.note_created(size);
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let staging = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        Some(Batch { queries, resolved, staging, dispatches })
    }

    /// Every dispatch, in the order of their recording.
    pub(super) async fn trace(self, gpu: &Gpu) -> Result<Vec<Dispatch>> {
        let period = f64::from(gpu.queue().get_timestamp_period()) * 1e-9;
        let mut all: Vec<Dispatch> = Vec::new();
        let mut first = None;
        for (submission, batch) in self.batches.into_iter().enumerate() {
            let (sender, mapped) = futures_channel::oneshot::channel();
            gpu.0.failures.watch(gpu.device(), || {
                batch.staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
            });
            gpu.finish().await?;
            let fail = |e: String| Error::Device(format!("profile: {e}"));
            mapped.await.map_err(|e| fail(e.to_string()))?.map_err(|e| fail(e.to_string()))?;
            let view = batch.staging.get_mapped_range(..).map_err(|e| fail(e.to_string()))?;
            let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&view);
            for (dispatch, pair) in batch.dispatches.into_iter().zip(stamps.chunks_exact(2)) {
                let first = *first.get_or_insert(pair[0]);
                let since = |stamp: u64| stamp.saturating_sub(first) as f64 * period;
                all.push(Dispatch { begin: since(pair[0]), end: since(pair[1]), submission, ..dispatch });
            }
        }
        Ok(all)
    }

    /// The kernels' times, longest first.
    pub(super) async fn collect(self, gpu: &Gpu) -> Result<Vec<KernelTime>> {
        let mut times: HashMap<&'static str, KernelTime> = HashMap::new();
        for dispatch in self.trace(gpu).await? {
            let name = dispatch.kernel;
            let time = times.entry(name).or_insert(KernelTime { name, calls: 0, seconds: 0.0 });
            time.calls += 1;
            time.seconds += (dispatch.end - dispatch.begin).max(0.0);
        }
        let mut times: Vec<_> = times.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

impl Batch {
    pub(super) fn writes(&self, dispatch: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * dispatch),
            end_of_pass_write_index: Some(2 * dispatch + 1),
        }
    }

    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..2 * self.dispatches.len() as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, self.staging.size());
    }
}
