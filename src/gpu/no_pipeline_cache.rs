//! No cache of compiled pipelines: there are no files without the feature `files`.

/// None is ever made.
#[derive(Debug)]
pub(super) enum PipelineCache {}

impl PipelineCache {
    /// For the pipelines to be compiled.
    pub(super) fn raw(&self) -> wgpu::PipelineCache {
        match *self {}
    }

    /// Bytes of data that the file held.
    pub(super) fn bytes_read(&self) -> u64 {
        match *self {}
    }
}
