//! A case in a thread of its own, which a browser does not give.

use std::time::Duration;

use super::attempt::Ended;
use super::context::{Case, Context};
use crate::error::Error;

/// Says that there are no threads.
pub(super) fn attempt_in_thread(_case: Case, _context: Context, _timeout: Duration) -> Ended {
    Ended::Error(Error::Device("a browser has no threads: expected `run_without_threads`".into()))
}
