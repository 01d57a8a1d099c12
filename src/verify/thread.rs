//! A case in a thread of its own, so that one that does not end is left behind.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pollster::block_on;

use super::attempt::{Ended, attempt};
use super::context::{Case, Context};
use crate::error::Error;

/// Runs `case` in a thread of its own, for at most `timeout`.
pub(super) fn attempt_in_thread(case: Case, context: Context, timeout: Duration) -> Ended {
    let (sender, receiver) = channel();
    let work = move || {
        // Nobody listens any more where it took too long.
        let _ = sender.send(block_on(attempt(case, &context)));
        drop(context);
    };
    match std::thread::Builder::new().name("sdmoe verify".into()).spawn(work) {
        Err(e) => Ended::Error(Error::Device(format!("a thread cannot be started: {e}"))),
        Ok(thread) => match receiver.recv_timeout(timeout) {
            Ok(ended) => {
                // So that the device is dropped here, not meanwhile.
                let _ = thread.join();
                ended
            }
            Err(RecvTimeoutError::Timeout) => Ended::Hung,
            Err(RecvTimeoutError::Disconnected) => Ended::Panicked("its thread ended".into()),
        },
    }
}
