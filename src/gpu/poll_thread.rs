//! A thread that polls the device, where there are threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wakers::Wakers;
use super::{Gpu, Polling, lock};
use crate::error::{Error, Result};

/// How often the thread looks at a device that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How often it does so otherwise.
const IDLE: Duration = Duration::from_millis(50);

/// A thread that polls the device, until this is dropped.
#[derive(Debug)]
pub struct PollThread {
    wakers: Arc<Wakers>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for PollThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        *lock(&self.wakers.thread) = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has ended too.
            drop(thread.join());
        }
        self.wakers.host_polls.store(false, Ordering::Relaxed);
        self.wakers.wake();
    }
}

impl Gpu {
    /// Starts a thread that calls [`Gpu::poll`] as often as somebody waits, with [`Polling::Host`] until it is dropped. For
    /// executors whose threads must not wait.
    ///
    /// # Errors
    /// [`Error::Device`] where the machine gives no thread.
    pub fn poll_in_thread(&self) -> Result<PollThread> {
        let (gpu, wakers, stop) = (self.clone(), self.wakers(), Arc::new(AtomicBool::new(false)));
        let (of_thread, stopped) = (wakers.clone(), stop.clone());
        let poll = move || {
            while !stopped.load(Ordering::Relaxed) {
                if gpu.poll().is_err() {
                    // Who waits finds the error.
                    of_thread.host_polls.store(false, Ordering::Relaxed);
                    of_thread.wake();
                    return;
                }
                std::thread::park_timeout(if of_thread.somebody_waits() { LOOK_EVERY } else { IDLE });
            }
        };
        let thread = std::thread::Builder::new().name("sdmoe polling".into()).spawn(poll);
        let thread = thread.map_err(|e| Error::Device(format!("a thread that polls: {e}")))?;
        *lock(&wakers.thread) = Some(thread.thread().clone());
        self.set_polling(Polling::Host);
        Ok(PollThread { wakers, stop, thread: Some(thread) })
    }
}
