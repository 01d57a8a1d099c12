//! Waiting for the results of a run: a program polls the device until they are there, a browser's event loop brings them.

use std::time::Duration;

use futures_channel::oneshot::Receiver;

use super::Job;
use crate::error::{Error, Result};

/// The news of a buffer that was to be mapped.
pub(super) type Mapped = Receiver<std::result::Result<(), wgpu::BufferAsyncError>>;

/// Waits until all of `mapped` are, after `submission`; a browser knows no `timeout`.
///
/// # Errors
/// [`Error::Device`] after `timeout`; [`Error::DeviceLost`].
#[cfg_attr(target_arch = "wasm32", allow(unused_variables))]
pub(super) async fn arrival(
    device: &wgpu::Device,
    job: &Job,
    submission: wgpu::SubmissionIndex,
    mapped: Vec<Mapped>,
    timeout: Option<Duration>,
) -> Result<()> {
    #[cfg(not(target_arch = "wasm32"))]
    match device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout }) {
        Ok(_) => {}
        Err(wgpu::PollError::Timeout) => {
            let limit = timeout.unwrap_or_default().as_secs_f64();
            return Err(Error::Device(format!("{}: no end after {limit} s", job.name)));
        }
        Err(error) => return Err(Error::Device(format!("{}: {error}", job.name))),
    }
    for news in mapped {
        match news.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Error::DeviceLost(format!("{}: {error}", job.name))),
            Err(_) => return Err(Error::DeviceLost(format!("{}: results never arrived", job.name))),
        }
    }
    Ok(())
}
