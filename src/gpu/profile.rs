//! The time of every kernel, from timestamp queries around each dispatch.

use std::collections::HashMap;

use super::Gpu;
use super::pool::Pool;
use crate::error::{Error, Result};

/// What one kernel took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's name.
    pub name: &'static str,
    /// Dispatches.
    pub calls: u64,
    /// Seconds of all of them together.
    pub seconds: f64,
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
    names: Vec<&'static str>,
}

impl Profile {
    pub(super) fn begin(&self, device: &wgpu::Device, pool: &Pool, names: Vec<&'static str>) -> Option<Batch> {
        if names.is_empty() {
            return None;
        }
        let count = 2 * names.len() as u32;
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
        Some(Batch { queries, resolved, staging, names })
    }

    pub(super) async fn collect(self, gpu: &Gpu) -> Result<Vec<KernelTime>> {
        let nanoseconds = f64::from(gpu.queue().get_timestamp_period());
        let mut times: HashMap<&'static str, KernelTime> = HashMap::new();
        for batch in self.batches {
            let (sender, mapped) = futures_channel::oneshot::channel();
            batch.staging.map_async(wgpu::MapMode::Read, .., move |result| drop(sender.send(result)));
            gpu.finish().await?;
            let fail = |e: String| Error::Device(format!("profile: {e}"));
            mapped.await.map_err(|e| fail(e.to_string()))?.map_err(|e| fail(e.to_string()))?;
            let view = batch.staging.get_mapped_range(..).map_err(|e| fail(e.to_string()))?;
            let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&view);
            for (name, pair) in batch.names.iter().zip(stamps.chunks_exact(2)) {
                let time = times.entry(name).or_insert(KernelTime { name, calls: 0, seconds: 0.0 });
                time.calls += 1;
                time.seconds += pair[1].saturating_sub(pair[0]) as f64 * nanoseconds * 1e-9;
            }
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
        encoder.resolve_query_set(&self.queries, 0..2 * self.names.len() as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, self.staging.size());
    }
}
