//! The requests that end training from outside: Ctrl-C, and on Unix the signals by which a system, a scheduler or a
//! closed terminal ends programs, SIGTERM and SIGHUP. Each finishes the step and writes a checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::train::progress::say;

/// Exit code of a program that an interrupt ended, by the shells' convention: 128 + SIGINT.
pub(super) const INTERRUPTED: u8 = 130;

/// How training is asked to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    saved: Arc<AtomicBool>,
}

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// [`Error::Device`] where the system gives no handler.
    pub(super) fn listen() -> Result<Self> {
        let stop = Self::default();
        stop.install().map_err(|e| Error::Device(format!("cannot listen for interrupts: {e}")))?;
        Ok(stop)
    }

    /// Set when training is to stop.
    pub(super) fn asked(&self) -> &AtomicBool {
        &self.asked
    }

    /// Says that the run is whole and saved: whatever comes from here on ends the program at once.
    pub(super) fn saved(&self) {
        self.saved.store(true, Ordering::Relaxed);
    }

    /// Takes note of a request. Only a second Ctrl-C is impatience: a terminal that is closed, or a service that is
    /// stopped, sends several signals.
    fn hear(&self, interrupt: bool) {
        let again = self.asked.swap(true, Ordering::Relaxed);
        if self.saved.load(Ordering::Relaxed) || (again && interrupt) {
            std::process::exit(INTERRUPTED.into());
        }
        if !again {
            // Behind the ^C that a terminal shows.
            say("");
            say("finishing this step and writing a checkpoint; press Ctrl-C again to stop at once");
        }
    }

    #[cfg(unix)]
    fn install(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let mut signals = vec![SIGINT, SIGTERM];
        if !hangups_are_ignored() {
            signals.push(SIGHUP);
        }
        let mut signals = signal_hook::iterator::Signals::new(signals)?;
        let stop = self.clone();
        let listen = move || signals.forever().for_each(|signal| stop.hear(signal == SIGINT));
        std::thread::Builder::new().name("sdmoe signals".into()).spawn(listen).map(|_| ())
    }

    #[cfg(not(unix))]
    fn install(&self) -> Result<(), ctrlc::Error> {
        let stop = self.clone();
        ctrlc::set_handler(move || stop.hear(true))
    }
}

/// Whether the program was started by `nohup` or the like, to go on when its terminal is closed. Only Linux says so.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangups(&status))
}

/// Reads the same from `/proc/self/status`: a mask of signals in hexadecimal, of which SIGHUP is the lowest bit.
#[cfg(unix)]
fn ignores_hangups(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert!(ignores_hangups("Name:\tsdmoe\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"));
        assert!(!ignores_hangups("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangups("") && !ignores_hangups("SigIgn:\tx\n"));
    }
}
