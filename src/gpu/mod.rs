//! The device: adapter choice, kernels bound by name, one recorder of commands, pooled buffers, timing.
//!
//! A [`Gpu`] is a cheap handle. Work is *recorded* by [`Launch::run`] and friends, and reaches the queue in a few
//! submissions of bounded length ([`Gpu::flush`]); on a device that something else draws with, in pieces of a set time
//! ([`Gpu::set_budget`]). Recording does not wait for the device, reading back is a future, and [`Polling`] says who moves it
//! along. Nothing here knows what a tensor or a layer is.

mod adapter;
#[cfg(feature = "verify")]
mod capture;
#[cfg(feature = "verify")]
mod captured;
mod command;
mod compile;
mod costs;
mod descriptor;
mod failure;
mod fast_hash;
mod instant;
mod kernel;
mod launch;
#[cfg(any(feature = "bench", feature = "verify"))]
mod launched;
mod matrix_units;
mod needs;
#[cfg(feature = "files")]
mod no_adapter;
mod open;
mod pace;
mod parts;
#[cfg_attr(not(feature = "files"), path = "no_pipeline_cache.rs")]
mod pipeline_cache;
#[cfg(feature = "files")]
mod pipeline_file;
#[cfg(not(target_arch = "wasm32"))]
mod poll_thread;
mod pool;
mod profile;
mod progress;
mod readback;
mod recorder;
mod reflect;
mod shapes;
#[cfg(feature = "files")]
mod shapes_file;
mod stopwatch;
mod submit;
pub(crate) mod unsafe_code;
mod waiting;
mod wakers;
#[cfg_attr(target_arch = "wasm32", path = "no_warm_up.rs")]
mod warm_up;
mod wgsl;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use adapter::{AdapterChoice, AdapterReport, Tier, adapters};
#[cfg(feature = "verify")]
pub(crate) use captured::Captured;
pub use descriptor::{Missing, MissingPart, device_descriptor};
pub(crate) use failure::caught;
#[cfg(feature = "verify")]
pub(crate) use failure::unwound;
#[cfg(feature = "verify")]
pub(crate) use instant::{Instant, SystemTime};
pub(crate) use kernel::wgsl;
pub use kernel::{DType, Field, Fields, Kernel, KernelParams, ParamScalar, field_count, flat_fields};
pub use launch::Launch;
#[cfg(feature = "bench")]
pub(crate) use launched::Launched;
pub use needs::{NEEDS, Need};
pub use open::{GpuOptions, OPTIONAL_FEATURES};
pub use pace::{Budget, Pacing};
pub use parts::Parts;
pub(crate) use parts::rows_in_window;
#[cfg(not(target_arch = "wasm32"))]
pub use poll_thread::PollThread;
pub use pool::{Bound, Buffer, BufferSlice};
pub use profile::{Dispatch, KernelTime};
pub use progress::Compiling;
pub use readback::Readback;
pub use reflect::{Binding, BindingKind, Reflection, reflect, reflect_half};
pub use shapes::Measured;
pub(crate) use shapes::Resolved;
#[cfg(feature = "bench")]
pub(crate) use shapes_file::keep as keep_shapes;
pub use waiting::Polling;
pub use wgsl::{compose_half, sources};

use crate::error::{Error, Result};

/// The counts that the library keeps; after the first steps of a training run only `dispatches` and `submissions` still
/// grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// GPU buffers created, staging buffers included.
    pub buffers_created: u64,
    /// Bind groups created.
    pub bind_groups_created: u64,
    /// Compute pipelines compiled.
    pub pipelines_created: u64,
    /// Bytes of compiled pipelines that the device began with, from the folder [`GpuOptions::pipeline_cache`].
    pub pipeline_bytes_read: u64,
    /// Times the host waited for the newest submission: the device then runs dry.
    pub waits: u64,
    /// Dispatches recorded.
    pub dispatches: u64,
    /// Submissions to the queue.
    pub submissions: u64,
    /// Bytes of all live buffers, pooled ones included.
    pub bytes_allocated: u64,
    /// The most that `bytes_allocated` has been.
    pub peak_bytes: u64,
    /// Bytes of the pool's buffers, those in use and those that are free.
    pub pooled_bytes: u64,
    /// Bytes of the pool's buffers that are free.
    pub pooled_free_bytes: u64,
}

/// A device with its queue, kernels and buffers. Cloning shares it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    report: AdapterReport,
    tier: Tier,
    matrix_units: matrix_units::MatrixUnits,
    has_u64: bool,
    compact: bool,
    max_binding_bytes: u64,
    offset_alignment: u64,
    max_buffer_bytes: u64,
    max_workgroups: u32,
    state: Mutex<recorder::State>,
    compilation: Arc<progress::Compilation>,
    pool: Arc<pool::Pool>,
    shapes: shapes::Shapes,
    failures: Arc<failure::Failures>,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({}, {:?})", self.0.report.name, self.0.tier)
    }
}

/// A shape that is forced upon products, see [`Gpu::force_shape`].
#[derive(Debug)]
pub(crate) struct Forced(Gpu);

impl Drop for Forced {
    fn drop(&mut self) {
        self.0.force_shape(None);
    }
}

/// Ignores poisoning: the state stays consistent because every update of it is a single push or insert.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Gpu {
    /// The adapter: names, limits, features.
    pub fn adapter(&self) -> &AdapterReport {
        &self.0.report
    }

    /// The kernel family in use.
    pub fn tier(&self) -> Tier {
        self.0.tier
    }

    /// Whether products of f16 operands run on matrix units (tensor cores), with f32 sums.
    ///
    /// Only with [`GpuOptions::matrix_units`], or on a device given to [`Gpu::from_device`] with
    /// [`GpuOptions::cooperative_matrix`] after [`Gpu::check_matrix_units`]: wgpu's feature is experimental, so it is the
    /// application's choice. The device needs `EXPERIMENTAL_COOPERATIVE_MATRIX`, `SHADER_F16` and `SUBGROUP`, its adapter
    /// blocks of 16 x 16 x 16 or of 8 x 8 x 8 from f16 to f32, the tier is [`Tier::Gpu`], and products that were tried must have been
    /// right.
    pub fn cooperative_matrix(&self) -> bool {
        self.0.matrix_units.right()
    }

    /// Rows and columns of the blocks of the matrix units on which products of f16 operands run or are being tried, 16 or 8; none
    /// where they do not.
    pub(crate) fn matrix_block(&self) -> Option<u32> {
        self.0.matrix_units.in_use()
    }

    /// What is known of the device's matrix units.
    pub(crate) fn matrix_units(&self) -> &matrix_units::MatrixUnits {
        &self.0.matrix_units
    }

    /// Whether shaders have u64 (`SHADER_INT64`).
    pub(crate) fn has_u64(&self) -> bool {
        self.0.has_u64
    }

    /// Whether kernels that can do so keep their code small, see [`GpuOptions::compact`].
    pub fn compact(&self) -> bool {
        self.0.compact
    }

    /// The shapes of kernels that this device was found to run fastest.
    pub(crate) fn shapes(&self) -> &shapes::Shapes {
        &self.0.shapes
    }

    /// Has the products of tier [`Tier::Gpu`] run in the shape of this number, those in registers
    /// (`low_level::kernels::shapes::SHAPES`) before those on matrix units (`matrix_shapes::MATRIX_SHAPES`), where it suits them, their
    /// sums over K cut into so many parts; None leaves the choice to the table. For tests and measurements.
    pub fn force_shape(&self, shape: Option<(u32, u32)>) {
        self.0.shapes.force(shape);
    }

    /// The same until what is returned is dropped.
    pub(crate) fn forced(&self, number: usize, splits: usize) -> Forced {
        self.force_shape(Some((number as u32, splits as u32)));
        Forced(self.clone())
    }

    /// Whether there are measurements for the shapes of this device's products, those on matrix units too where it has such.
    #[cfg(feature = "bench")]
    pub(crate) fn has_measured_shapes(&self) -> bool {
        self.0.shapes.known().is_measured(self.cooperative_matrix())
    }

    /// Has products run in the shapes that were measured to be the fastest.
    #[cfg(feature = "bench")]
    pub(crate) fn use_measured_shapes(&self, measured: Vec<Measured>) {
        self.0.shapes.set(Some(measured));
    }

    /// Checks that shaders can hold f16.
    ///
    /// # Errors
    /// [`Error::Device`] that names the adapter and the feature.
    pub fn require_f16(&self) -> Result<()> {
        if self.0.device.features().contains(wgpu::Features::SHADER_F16) {
            return Ok(());
        }
        let name = &self.0.report.name;
        Err(Error::Device(format!("{name}: precision f16 needs the feature SHADER_F16, which this adapter lacks")))
    }

    /// The wgpu device.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The wgpu queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Bytes that one binding may have; larger tensors are processed in slices.
    pub fn max_binding_bytes(&self) -> u64 {
        self.0.max_binding_bytes
    }

    /// Bytes to which the start of a slice must be aligned.
    pub fn offset_alignment(&self) -> u64 {
        self.0.offset_alignment
    }

    /// A buffer of at least `bytes` from the pool, with whatever it holds; it returns to the pool when dropped.
    ///
    /// # Errors
    /// [`Error::Device`] when `bytes` exceeds the device's largest buffer or the device has failed before;
    /// [`Error::OutOfMemory`] when its memory does not suffice; [`Error::DeviceLost`].
    pub fn allocate(&self, bytes: u64) -> Result<Arc<Buffer>> {
        self.check_size(bytes)?;
        let buffer = pool::Pool::allocate(&self.0.pool, &self.0.device, bytes);
        self.check().map(|()| buffer)
    }

    /// A buffer of its own for something that lives as long as the model, zeroed; freed when dropped.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn allocate_persistent(&self, bytes: u64) -> Result<Arc<Buffer>> {
        self.check_size(bytes)?;
        let buffer = pool::Pool::allocate_persistent(&self.0.pool, &self.0.device, bytes);
        self.check().map(|()| buffer)
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        let limit = self.0.max_buffer_bytes;
        if bytes > limit {
            return Err(Error::Device(format!("a buffer of {bytes} bytes; the adapter's largest is {limit}")));
        }
        Ok(())
    }

    /// Writes `data` to the start of `slice`. Work recorded before sees the old content, work recorded after the new.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` is longer than the slice; [`Error::Device`] as [`Gpu::flush`].
    pub fn write(&self, slice: &BufferSlice, data: &[u8]) -> Result<()> {
        if data.len() as u64 > slice.size {
            return Err(Error::shape("write", format!("at most {} bytes", slice.size), format!("{}", data.len())));
        }
        let mut state = lock(&self.0.state);
        if state.pending() && state.holds() {
            state.write(slice, data);
            return self.check();
        }
        if state.pending() {
            state.flush(&self.0.device, &self.0.queue, &self.0.pool);
        }
        drop(state);
        self.0.failures.write(&self.0.device, &self.0.queue, (slice.buffer.raw(), slice.offset), data);
        self.check()
    }

    /// Records a copy of `source` to `target`, which must be of one size.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ, or both slices are of one buffer; [`Error::Device`],
    /// [`Error::DeviceLost`].
    pub fn copy(&self, source: &BufferSlice, target: &BufferSlice) -> Result<()> {
        if source.size != target.size {
            let got = format!("{} and {} bytes", source.size, target.size);
            return Err(Error::shape("copy", "slices of one size", got));
        }
        if source.buffer.id() == target.buffer.id() {
            return Err(Error::shape("copy", "two buffers", "two slices of one buffer"));
        }
        self.room()?.copy(source, target);
        Ok(())
    }

    /// Records that `slice` becomes zero.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::DeviceLost`].
    pub fn clear(&self, slice: &BufferSlice) -> Result<()> {
        self.room()?.clear(slice);
        Ok(())
    }

    /// Fills the pool's free buffers of at most `most` bytes with `word`, so that whoever reads what was never written finds that.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::DeviceLost`].
    #[cfg(feature = "verify")]
    pub(crate) fn fill_free(&self, most: u64, word: u32) -> Result<()> {
        self.flush()?;
        self.0.pool.fill_free(&self.0.device, &self.0.queue, most, word);
        self.check()
    }

    /// Submits what is recorded, all of it also where there is a [`Budget`].
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or [`Error::Device`] with the first failure that the device has reported, if any.
    pub fn flush(&self) -> Result<()> {
        lock(&self.0.state).flush(&self.0.device, &self.0.queue, &self.0.pool);
        self.check()
    }

    /// The recorder, with room for one more command, unless the device has failed.
    fn room(&self) -> Result<MutexGuard<'_, recorder::State>> {
        let mut state = lock(&self.0.state);
        if state.holds == 0 && state.pacer.is_due() {
            drop(state);
            self.poll()?;
            state = lock(&self.0.state);
        }
        state.make_room(&self.0.device, &self.0.queue, &self.0.pool);
        self.check().map(|()| state)
    }

    /// The first failure the device has reported, if any, as an error. On a device of an application these are the
    /// failures of what this crate does with it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`], [`Error::Validation`], [`Error::Device`].
    pub fn check(&self) -> Result<()> {
        self.0.failures.check()
    }

    /// As [`Gpu::check`], after asking the device whether it is still there.
    fn probe(&self) -> Result<()> {
        lock(&self.0.state).probe(&self.0.device, &self.0.queue);
        self.check()
    }

    /// Starts reading `slice` back: the copy is recorded here, the bytes arrive when the future is awaited.
    ///
    /// # Errors
    /// [`Error::Device`] as [`Gpu::flush`].
    pub fn read(&self, slice: &BufferSlice) -> Result<Readback> {
        readback::start(self, slice)
    }

    /// Makes the staging buffers with which `count` readbacks of `bytes` can be under way at once, where they are small
    /// enough to be kept.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(crate) fn reserve_readbacks(&self, bytes: u64, count: usize) -> Result<()> {
        readback::reserve(self, bytes, count)
    }

    /// Submits what is recorded and resolves when the device has finished it.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn finish(&self) -> Result<()> {
        let buffer = self.allocate(4)?;
        let slice = BufferSlice { size: 4, offset: 0, buffer };
        self.read(&slice)?.await.map(drop)
    }

    /// Submits what is recorded and frees all buffers that are kept for the next step and nobody uses, as after a model
    /// was dropped. The next step of another model allocates its own again.
    ///
    /// # Errors
    /// As [`Gpu::flush`].
    pub fn trim(&self) -> Result<()> {
        self.flush()?;
        lock(&self.0.state).trim(&self.0.pool);
        Ok(())
    }

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        let mut counters = lock(&self.0.state).counters;
        self.0.pool.count(&mut counters);
        counters
    }

    /// How many pipelines the device has run once, so that they are compiled whatever the driver does when, and how
    /// many were asked for so far. Looks at the device, unless another thread hands it work at that moment, and does
    /// not wait.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn compilation(&self) -> Result<(u64, u64)> {
        if let Ok(_idle) = self.0.compilation.submitting.try_lock() {
            self.0.failures.poll(&self.0.device, wgpu::PollType::Poll)?;
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok((read(&self.0.compilation.done), read(&self.0.compilation.begun)))
    }

    /// Starts timing every dispatch by timestamp queries; each then runs in a pass of its own.
    ///
    /// # Errors
    /// [`Error::Device`] when the device has no timestamp queries.
    pub fn start_profile(&self) -> Result<()> {
        self.flush()?;
        if !self.0.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Err(Error::Device(format!("{}: no timestamp queries", self.0.report.name)));
        }
        lock(&self.0.state).profile = Some(profile::Profile::default());
        Ok(())
    }

    /// Ends timing: the time of every kernel since [`Gpu::start_profile`], longest first.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn finish_profile(&self) -> Result<Vec<KernelTime>> {
        self.flush()?;
        let profile = lock(&self.0.state).profile.take();
        match profile {
            Some(profile) => profile.collect(self).await,
            None => Ok(Vec::new()),
        }
    }

    /// Ends timing: every dispatch since [`Gpu::start_profile`], in order, with when it ran.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub async fn finish_trace(&self) -> Result<Vec<Dispatch>> {
        self.flush()?;
        let profile = lock(&self.0.state).profile.take();
        match profile {
            Some(profile) => profile.trace(self).await,
            None => Ok(Vec::new()),
        }
    }
}
