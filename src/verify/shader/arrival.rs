//! Waiting for the results of a run: a program polls the device until they are there, a browser's event loop brings them.

use std::time::Duration;

use futures_channel::oneshot::Receiver;

/// The news of a buffer that was to be mapped.
pub(super) type Mapped = Receiver<Result<(), wgpu::BufferAsyncError>>;

/// Why results did not arrive.
pub(super) enum Problem {
    /// They took longer than this.
    Late(Duration),
    /// The device does not wait for them.
    Refused(String),
    /// The device is gone.
    Lost(String),
}

/// Waits until all of `mapped` are, after `submission`; a browser knows no `timeout`.
#[cfg_attr(target_arch = "wasm32", allow(unused_variables))]
pub(super) async fn arrival(
    device: &wgpu::Device,
    submission: wgpu::SubmissionIndex,
    mapped: Vec<Mapped>,
    timeout: Option<Duration>,
) -> Result<(), Problem> {
    #[cfg(not(target_arch = "wasm32"))]
    match device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout }) {
        Ok(_) => {}
        Err(wgpu::PollError::Timeout) => return Err(Problem::Late(timeout.unwrap_or_default())),
        Err(error) => return Err(Problem::Refused(error.to_string())),
    }
    for news in mapped {
        match news.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Problem::Lost(error.to_string())),
            Err(_) => return Err(Problem::Lost("results never arrived".into())),
        }
    }
    Ok(())
}
