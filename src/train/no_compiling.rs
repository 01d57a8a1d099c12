//! No watch over what is compiled: a browser has no threads to give.

use crate::gpu::Gpu;

/// Watches nothing.
#[derive(Debug)]
pub struct CompileNotice(());

impl CompileNotice {
    /// Begins; nothing is said.
    pub fn start(_: &Gpu, _: impl Fn(&str) + Send + 'static) -> Self {
        Self(())
    }
}

impl Drop for CompileNotice {
    fn drop(&mut self) {}
}
