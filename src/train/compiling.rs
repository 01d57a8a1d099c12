//! Says that the driver compiles, where that takes long: some software drivers need a minute for the kernels of a model.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::gpu::Gpu;

/// How often the device is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Silence of this length is too much.
const SILENCE: Duration = Duration::from_millis(1800);
/// Between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Watches a device from a thread of its own until it is dropped, and says how far compiling is whenever that takes longer than two
/// seconds.
#[derive(Debug)]
pub struct CompileNotice {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl CompileNotice {
    /// Begins; `say` is handed each line. Where the machine gives no thread, nothing is watched.
    pub fn start(gpu: &Gpu, say: impl Fn(&str) + Send + 'static) -> Self {
        let (stop, stopped) = channel::<()>();
        let gpu = gpu.clone();
        let watch = move || {
            let mut lines = Lines::default();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                // A device that fails says so elsewhere.
                let Ok((done, begun)) = gpu.compilation() else { return };
                if let Some(line) = lines.look(Instant::now(), done, begun) {
                    say(&line);
                }
            }
        };
        let thread = std::thread::Builder::new().name("sdmoe compiling".into()).spawn(watch);
        Self { thread: thread.ok().map(|thread| (stop, thread)) }
    }
}

impl Drop for CompileNotice {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // A thread that panicked has ended too.
            drop(thread.join());
        }
    }
}

/// Which lines are due.
#[derive(Debug, Default)]
struct Lines {
    /// Since when something is being compiled, and what was ready then.
    since: Option<(Instant, u64)>,
    said: Option<Instant>,
}

impl Lines {
    /// The line that is due when `done` of `begun` pipelines are ready.
    fn look(&mut self, now: Instant, done: u64, begun: u64) -> Option<String> {
        if done >= begun {
            self.since = None;
            return None;
        }
        let (since, first) = *self.since.get_or_insert((now, done));
        let quiet = self.said.is_none_or(|said| now - said >= LINE_EVERY);
        if now - since < SILENCE || !quiet {
            return None;
        }
        self.said = Some(now);
        Some(format!("compiling kernels: {} of {}", done - first, begun - first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiling_is_told_after_two_seconds_and_then_now_and_then() {
        let mut lines = Lines::default();
        let start = Instant::now();
        let mut look = |millis, done, begun| lines.look(start + Duration::from_millis(millis), done, begun);
        assert_eq!(look(0, 0, 0), None);
        assert_eq!(look(250, 0, 20), None);
        assert_eq!(look(1750, 8, 50), None);
        assert_eq!(look(2250, 12, 60).as_deref(), Some("compiling kernels: 12 of 60"));
        assert_eq!(look(4000, 20, 60), None);
        assert_eq!(look(7500, 40, 60).as_deref(), Some("compiling kernels: 40 of 60"));
        // A quick pause for one kernel is nobody's business; a long one counts from there.
        assert_eq!(look(8000, 60, 60), None);
        assert_eq!(look(20_000, 60, 64), None);
        assert_eq!(look(20_500, 64, 64), None);
        assert_eq!(look(30_000, 64, 70), None);
        assert_eq!(look(32_000, 65, 70).as_deref(), Some("compiling kernels: 1 of 6"));
    }
}
