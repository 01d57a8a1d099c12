//! Reading back without blocking: a copy to a staging buffer, mapped when the device is done.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_channel::oneshot;

use super::command::{Map, Submitted};
use super::pool::{BufferSlice, size_class};
use super::{Gpu, lock};
use crate::error::{Error, Result};

/// Bytes of the largest staging buffer that is kept for the next readback: figures of a step are, checkpoints are not.
const KEPT_STAGING: u64 = 1 << 16;

/// Bytes on their way from the device. Awaiting it gives them; [`Readback::try_take`] looks without waiting.
#[derive(Debug)]
pub struct Readback {
    gpu: Gpu,
    staging: Option<wgpu::Buffer>,
    size: u64,
    mapped: oneshot::Receiver<Result<(), wgpu::BufferAsyncError>>,
    submitted: Submitted,
    /// Whether it was counted that the host waits for it.
    counted: bool,
}

/// The bytes of a staging buffer for `bytes`.
fn staging_class(gpu: &Gpu, bytes: u64) -> u64 {
    size_class(bytes).min(gpu.0.max_buffer_bytes & !3)
}

fn create_staging(gpu: &Gpu, class: u64) -> wgpu::Buffer {
    gpu.0.pool.note_created(class);
    let description = wgpu::BufferDescriptor {
        label: Some("staging"),
        size: class,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    };
    gpu.0.failures.watch(&gpu.0.device, || gpu.0.device.create_buffer(&description))
}

/// Makes staging buffers until `count` readbacks of `bytes` can be under way at once. How many are depends on how far
/// the host is ahead of the device, which may be seen first late in a run.
pub(super) fn reserve(gpu: &Gpu, bytes: u64, count: usize) -> Result<()> {
    let class = staging_class(gpu, bytes);
    if class <= KEPT_STAGING {
        let mut state = lock(&gpu.0.state);
        let free = state.staging.entry(class).or_default();
        while free.len() < count {
            free.push(create_staging(gpu, class));
        }
    }
    gpu.check()
}

pub(super) fn start(gpu: &Gpu, slice: &BufferSlice) -> Result<Readback> {
    let class = staging_class(gpu, slice.size);
    let mut state = lock(&gpu.0.state);
    let staging = state.staging.get_mut(&class).and_then(Vec::pop).unwrap_or_else(|| create_staging(gpu, class));
    state.copy_raw(slice, staging.clone(), 0);
    let (sender, mapped) = oneshot::channel();
    let submitted = Submitted::default();
    let bytes = slice.size.next_multiple_of(4).max(4);
    state.map(Map { staging: staging.clone(), bytes, sender, submitted: submitted.clone() });
    if !state.holds() {
        state.flush(&gpu.0.device, &gpu.0.queue, &gpu.0.pool);
    }
    drop(state);
    gpu.check()?;
    Ok(Readback { gpu: gpu.clone(), staging: Some(staging), size: slice.size, mapped, submitted, counted: false })
}

impl Readback {
    /// With nothing submitted behind this readback, the device runs dry while the host waits.
    fn count_wait(&mut self, number: u64) {
        if !std::mem::replace(&mut self.counted, true) {
            let state = &mut *lock(&self.gpu.0.state);
            state.counters.waits += u64::from(!state.pending() && state.counters.submissions == number);
        }
    }

    /// The bytes if they have arrived.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has failed.
    pub fn try_take(&mut self) -> Option<Result<Vec<u8>>> {
        if let Err(error) = self.gpu.poll() {
            return Some(Err(error));
        }
        match self.mapped.try_recv() {
            Ok(None) => None,
            Ok(Some(result)) => Some(self.take(result)),
            Err(oneshot::Canceled) => Some(Err(Error::Device("the readback was abandoned".into()))),
        }
    }

    fn take(&mut self, result: Result<(), wgpu::BufferAsyncError>) -> Result<Vec<u8>> {
        self.gpu.check()?;
        if let Err(error) = result {
            // A device that is gone maps nothing.
            self.gpu.probe()?;
            return Err(Error::Device(format!("readback: {error}")));
        }
        let staging = self.staging.take().ok_or_else(|| Error::Device("readback taken twice".into()))?;
        let bytes = self.size.next_multiple_of(4).max(4);
        let view = staging.slice(0..bytes).get_mapped_range();
        let view = view.map_err(|e| Error::Device(format!("readback: {e}")))?;
        let data = view[..self.size as usize].to_vec();
        drop(view);
        staging.unmap();
        if staging.size() <= KEPT_STAGING {
            lock(&self.gpu.0.state).staging.entry(staging.size()).or_default().push(staging);
        } else {
            self.gpu.0.pool.note_freed(staging.size());
        }
        Ok(data)
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            self.gpu.0.pool.note_freed(staging.size());
        }
    }
}

impl Future for Readback {
    type Output = Result<Vec<u8>>;

    /// Who moves the device along meanwhile, [`Polling`](super::Polling) says.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let submitted = self.submitted.get().cloned();
        if let Some((_, number)) = submitted {
            self.count_wait(number);
        }
        if let Err(error) = self.gpu.wait_for(submitted.map(|(index, _)| index), context) {
            return Poll::Ready(Err(error));
        }
        match Pin::new(&mut self.mapped).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(result)) => Poll::Ready(self.take(result)),
            Poll::Ready(Err(oneshot::Canceled)) => Poll::Ready(Err(Error::Device("the readback was abandoned".into()))),
        }
    }
}
