//! `sdmoe devices`: every adapter with what it can do.

use crate::error::{Error, Result};

/// Lists the adapters.
pub(super) fn run() -> Result<()> {
    Err(Error::Device("the list of adapters is not connected to the device yet".into()))
}
