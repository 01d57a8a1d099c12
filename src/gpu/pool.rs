//! Buffers: a pool for what lives within a step, and buffers of their own for what lives as long as the model.
//!
//! A pooled buffer goes back when its last handle is dropped and may be handed out again at once: commands run in the
//! order they are recorded in. The pool hands out the free buffer of lowest id within a size class, so which buffer a
//! request gets depends only on the *set* of free buffers. A training step starts from the same set each time, hence
//! gets the same buffers, hence finds its bind groups cached.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::failure::Failures;
use super::{Counters, DType, lock};

/// A GPU buffer that returns to its pool, or is freed, when dropped.
#[derive(Debug)]
pub struct Buffer {
    raw: Option<wgpu::Buffer>,
    id: u64,
    pool: Arc<Pool>,
    pooled: bool,
}

impl Buffer {
    /// The wgpu buffer.
    pub fn raw(&self) -> &wgpu::Buffer {
        self.raw.as_ref().expect("present until drop")
    }

    /// Identity, for caches.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it returns to the pool; others live as long as the model.
    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(raw) = self.raw.take() else { return };
        if self.pooled {
            let mut free = lock(&self.pool.free);
            let class = free.entry(raw.size()).or_default();
            class.ids.insert(self.id);
            class.buffers.insert(self.id, raw);
        } else {
            self.pool.note_freed(raw.size());
            lock(&self.pool.dropped).push(self.id);
        }
    }
}

/// A range of a buffer with the type of its elements, where that is known: it then has to be that of the WGSL variable.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The range.
    pub slice: BufferSlice,
    /// The elements.
    pub dtype: Option<DType>,
}

impl From<BufferSlice> for Bound {
    fn from(slice: BufferSlice) -> Self {
        Bound { slice, dtype: None }
    }
}

/// A range of a buffer.
#[derive(Clone, Debug)]
pub struct BufferSlice {
    /// The buffer.
    pub buffer: Arc<Buffer>,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Default)]
struct Class {
    ids: BTreeSet<u64>,
    buffers: HashMap<u64, wgpu::Buffer>,
}

#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<HashMap<u64, Class>>,
    /// Buffers of their own that are gone; bind groups of theirs must go too, for they keep the memory.
    dropped: Mutex<Vec<u64>>,
    next_id: AtomicU64,
    created: AtomicU64,
    bytes: AtomicU64,
    peak: AtomicU64,
    pooled: AtomicU64,
    max_buffer_bytes: u64,
    usages: wgpu::BufferUsages,
    failures: Arc<Failures>,
}

/// Rounds up to a multiple of 1/32 of the next lower power of two: at most 3.2 % are wasted. A step has few sizes, so
/// that finer classes cost nothing; a request is never served from another class, because then the buffers that a step
/// gets would depend on more than the set of free ones, and the second step could need one more than the first.
pub(super) fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (1 << bytes.ilog2()) / 32;
    bytes.div_ceil(step) * step
}

impl Pool {
    /// An empty one of a device that takes buffers of `max_buffer_bytes`; it reports to `failures` when one cannot be
    /// made. Buffers have `extra` usages beside this crate's own.
    pub(super) fn new(max_buffer_bytes: u64, extra: wgpu::BufferUsages, failures: Arc<Failures>) -> Self {
        let own = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let (free, dropped, next_id) = Default::default();
        let (created, bytes, peak, pooled) = Default::default();
        Self { free, dropped, next_id, created, bytes, peak, pooled, max_buffer_bytes, usages: own | extra, failures }
    }

    /// Frees the buffers that nobody uses.
    pub(super) fn trim(&self) {
        for (size, class) in lock(&self.free).drain() {
            for _freed in class.buffers.into_values() {
                self.pooled.fetch_sub(size, Ordering::Relaxed);
                self.note_freed(size);
            }
        }
    }

    pub(super) fn allocate(pool: &Arc<Pool>, device: &wgpu::Device, bytes: u64) -> Arc<Buffer> {
        let size = size_class(bytes).min(pool.max_buffer_bytes & !3).max(bytes.next_multiple_of(4));
        let reused = lock(&pool.free).get_mut(&size).and_then(|class| {
            let id = class.ids.pop_first()?;
            class.buffers.remove(&id).map(|raw| (id, raw))
        });
        let (id, raw) = reused.unwrap_or_else(|| {
            pool.pooled.fetch_add(size, Ordering::Relaxed);
            pool.create(device, size)
        });
        Arc::new(Buffer { raw: Some(raw), id, pool: pool.clone(), pooled: true })
    }

    /// Returns a new buffer of whole vec4s, so that a kernel can bind any content as such.
    pub(super) fn allocate_persistent(pool: &Arc<Pool>, device: &wgpu::Device, bytes: u64) -> Arc<Buffer> {
        let (id, raw) = pool.create(device, bytes.next_multiple_of(16).max(16));
        Arc::new(Buffer { raw: Some(raw), id, pool: pool.clone(), pooled: false })
    }

    fn create(&self, device: &wgpu::Device, size: u64) -> (u64, wgpu::Buffer) {
        self.note_created(size);
        let description = wgpu::BufferDescriptor { label: None, size, usage: self.usages, mapped_at_creation: false };
        let raw = self.failures.watch(device, || device.create_buffer(&description));
        (self.next_id.fetch_add(1, Ordering::Relaxed), raw)
    }

    /// Counts a buffer that lives outside the pool: the uniform arena, staging buffers.
    pub(super) fn note_created(&self, size: u64) {
        self.created.fetch_add(1, Ordering::Relaxed);
        let now = self.bytes.fetch_add(size, Ordering::Relaxed) + size;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts a buffer outside the pool that is gone.
    pub(super) fn note_freed(&self, size: u64) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }

    /// The ids of the buffers that are gone since the last call.
    pub(super) fn take_dropped(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.dropped))
    }

    /// Fills the buffers that are free and have at most `most` bytes with `word`, before what is submitted next.
    #[cfg(feature = "verify")]
    pub(super) fn fill_free(&self, device: &wgpu::Device, queue: &wgpu::Queue, most: u64, word: u32) {
        let free = lock(&self.free);
        for (&size, class) in free.iter().filter(|(size, class)| **size <= most && !class.buffers.is_empty()) {
            let words = word.to_le_bytes().repeat((size / 4) as usize);
            class.buffers.values().for_each(|raw| self.failures.write(device, queue, (raw, 0), &words));
        }
    }

    pub(super) fn count(&self, counters: &mut Counters) {
        counters.buffers_created = self.created.load(Ordering::Relaxed);
        counters.bytes_allocated = self.bytes.load(Ordering::Relaxed);
        counters.peak_bytes = self.peak.load(Ordering::Relaxed);
        counters.pooled_bytes = self.pooled.load(Ordering::Relaxed);
        let free = |(size, class): (&u64, &Class)| size * class.ids.len() as u64;
        counters.pooled_free_bytes = lock(&self.free).iter().map(free).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_waste_at_most_a_thirty_second() {
        for bytes in (1..4000).chain([65_537, 1_000_003, (1 << 27) + 4]) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(4), "{bytes} -> {class}");
            assert!(bytes < 256 || (class - bytes) * 32 <= bytes, "{bytes} -> {class}");
        }
    }
}
