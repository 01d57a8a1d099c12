//! One try of a case, and how it ended.

use super::context::{Case, Context, Findings};
use crate::error::Error;
use crate::gpu::unwound;

/// How a case ended.
pub(super) enum Ended {
    Found(Findings),
    Error(Error),
    Panicked(String),
    #[cfg_attr(target_arch = "wasm32", allow(dead_code))]
    Hung,
}

/// Runs `case`.
pub(super) async fn attempt(case: Case, context: &Context) -> Ended {
    let work = async {
        let found = (case.work)(context).await?;
        context.gpu.check().map(|()| found)
    };
    match unwound(work).await {
        Ok(Ok(found)) => Ended::Found(found),
        Ok(Err(error)) => Ended::Error(error),
        Err(panic) => Ended::Panicked(panic.replace('\n', " ")),
    }
}
