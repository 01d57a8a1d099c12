//! Who waits for the device, and who is to poll it for them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::thread::Thread;

use super::lock;

#[derive(Debug, Default)]
pub(super) struct Wakers {
    waiting: Mutex<Vec<Waker>>,
    /// The program polls; otherwise whoever waits does.
    pub(super) host_polls: AtomicBool,
    /// The thread that polls, to be woken when there is something to poll for.
    pub(super) thread: Mutex<Option<Thread>>,
}

impl Wakers {
    /// Has `waker` woken when the next submission ends.
    pub(super) fn add(&self, waker: &Waker) {
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        drop(waiting);
        if let Some(thread) = &*lock(&self.thread) {
            thread.unpark();
        }
    }

    /// Wakes all that wait.
    pub(super) fn wake(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether `waker` is still to be woken.
    pub(super) fn waits(&self, waker: &Waker) -> bool {
        lock(&self.waiting).iter().any(|other| other.will_wake(waker))
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn somebody_waits(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    pub(super) fn host_polls(&self) -> bool {
        // A browser's event loop moves the device along, and nothing may block there.
        cfg!(target_arch = "wasm32") || self.host_polls.load(Ordering::Relaxed)
    }
}
