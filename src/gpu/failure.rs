//! Failures of a device, wherever wgpu reports them, kept for the operation that asks next.
//!
//! wgpu reports an error to the error scopes of the thread, or else to the device's one handler, which on an
//! application's own device is the application's. So what can fail runs in scopes of this crate, which are pushed where
//! something is made or submitted, not for each dispatch. That a device is gone is reported to one callback alone, the
//! application's too; but wgpu then gives no memory to write parameters into, which every submission finds out.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;
use crate::error::{Cause, Error, Result};

/// The first failure that a device has reported.
#[derive(Debug, Default)]
pub(super) struct Failures {
    adapter: String,
    first: Mutex<Option<Failure>>,
}

#[derive(Clone, Debug)]
enum Failure {
    Error(String),
    Validation(String, Option<Cause>),
    OutOfMemory(String, Option<Cause>),
    Lost(String),
}

impl Failures {
    /// None so far, on a device of the adapter with this name.
    pub(super) fn new(adapter: &str) -> Self {
        Self { adapter: adapter.to_owned(), first: Mutex::default() }
    }

    /// Keeps what wgpu reported, unless something is kept.
    pub(super) fn report(&self, error: &wgpu::Error) {
        lock(&self.first).get_or_insert_with(|| match error {
            wgpu::Error::OutOfMemory { .. } => Failure::OutOfMemory(error.to_string(), Cause::behind(error)),
            wgpu::Error::Validation { .. } => Failure::Validation(error.to_string(), Cause::behind(error)),
            _ => Failure::Error(error.to_string()),
        });
    }

    /// Keeps that the device is gone, which explains any other failure.
    pub(super) fn lost(&self, reason: &str) {
        let mut first = lock(&self.first);
        // A reason of the driver's own says more than that it takes no work.
        if !matches!(*first, Some(Failure::Lost(_))) || !reason.is_empty() {
            *first = Some(Failure::Lost(reason.to_owned()));
        }
    }

    /// The first failure, if any.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`], [`Error::Validation`] or [`Error::Device`].
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.first).as_ref() {
            None => Ok(()),
            Some(Failure::Error(message)) => Err(Error::Device(message.clone())),
            Some(Failure::Validation(message, source)) => {
                Err(Error::Validation { message: message.clone(), source: source.clone() })
            }
            Some(Failure::OutOfMemory(message, source)) => {
                Err(Error::OutOfMemory { message: message.clone(), source: source.clone() })
            }
            Some(Failure::Lost(reason)) if reason.is_empty() => {
                Err(Error::DeviceLost(format!("{} takes no more work", self.adapter)))
            }
            Some(Failure::Lost(reason)) => Err(Error::DeviceLost(format!("{}: {reason}", self.adapter))),
        }
    }

    /// Runs `work`; errors that wgpu reports meanwhile on this thread are kept here and reported to nobody else.
    pub(super) fn watch<T>(&self, device: &wgpu::Device, work: impl FnOnce() -> T) -> T {
        // In a browser a scope answers only when its event loop runs again; errors go to the device's handler there.
        if cfg!(target_arch = "wasm32") {
            return work();
        }
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| device.push_error_scope(filter));
        let result = work();
        for scope in scopes.into_iter().rev() {
            let error = pin!(scope.pop()).poll(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(Some(error)) = error {
                self.report(&error);
            }
        }
        result
    }

    /// Writes `bytes` to `buffer` from `offset` on, before what is submitted next. A device that is gone is found out
    /// here.
    pub(super) fn write(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        (buffer, offset): (&wgpu::Buffer, u64),
        bytes: &[u8],
    ) {
        let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else { return };
        let written = self.watch(device, || match queue.write_buffer_with(buffer, offset, size) {
            Some(mut memory) => {
                memory.copy_from_slice(bytes);
                true
            }
            None => false,
        });
        // Of all errors only this one goes to no scope.
        if !written && lock(&self.first).is_none() {
            self.lost("");
        }
    }

    /// Lets the device make progress; wgpu panics where that finds it gone.
    ///
    /// # Errors
    /// As [`Failures::check`].
    pub(super) fn poll(&self, device: &wgpu::Device, kind: wgpu::PollType) -> Result<()> {
        match catch_unwind(AssertUnwindSafe(|| device.poll(kind))) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                self.check()?;
                Err(Error::Device(format!("waiting: {error}")))
            }
            Err(panic) => {
                self.lost(panic_message(&*panic));
                self.check()
            }
        }
    }
}

/// Awaits `future`; a panic in it, as drivers and wgpu are seen to have while a device opens, is an error that begins
/// with `what`.
///
/// # Errors
/// [`Error::Device`].
pub(crate) async fn caught<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    let panicked = |message| Error::Device(format!("{what}: wgpu or the driver panicked: {message}"));
    unwound(future).await.map_err(panicked)
}

/// Awaits `future`; a panic in it is an error with the panic's message.
pub(crate) async fn unwound<T>(future: impl Future<Output = T>) -> std::result::Result<T, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic_message(&*panic).to_owned())),
    })
    .await
}

/// Returns the message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_a_device_opens_is_an_error_of_one_line() {
        let broken = async { if std::hint::black_box(true) { panic!("vkCreateDevice: {}\n", -3) } else { 1 } };
        let error = pollster::block_on(caught("opening some adapter", broken)).unwrap_err().to_string();
        assert_eq!(error, "GPU device: opening some adapter: wgpu or the driver panicked: vkCreateDevice: -3");
        assert_eq!(pollster::block_on(caught("opening", async { 1 })).unwrap(), 1);
    }

    #[test]
    fn the_first_failure_stays_and_a_lost_device_explains_the_others() {
        let failures = Failures::new("some adapter");
        failures.check().unwrap();
        let error = |text: &str| wgpu::Error::Validation { source: text.into(), description: text.into() };
        failures.report(&error("first"));
        failures.report(&error("second"));
        let message = failures.check().unwrap_err().to_string();
        assert!(message.contains("first") && !message.contains("second"), "{message}");
        let full = Failures::new("some adapter");
        full.report(&wgpu::Error::OutOfMemory { source: "full".into() });
        let kept = full.check().unwrap_err();
        assert_eq!(kept.kind(), crate::error::ErrorKind::OutOfMemory);
        assert_eq!(std::error::Error::source(&kept).unwrap().to_string(), "full");
        failures.lost("");
        failures.report(&error("third"));
        assert_eq!(failures.check().unwrap_err().to_string(), "GPU device lost: some adapter takes no more work");
        failures.lost("the driver restarted");
        failures.lost("");
        assert_eq!(failures.check().unwrap_err().to_string(), "GPU device lost: some adapter: the driver restarted");
    }
}
