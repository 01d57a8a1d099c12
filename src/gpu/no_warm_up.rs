//! No other devices that compile: a browser has no threads to give, and does not say how it compiles.

use std::sync::Arc;

use super::AdapterReport;
use super::compile::Pipeline;
use super::progress::Compilation;

/// None is ever made.
pub(super) enum WarmUp {}

impl WarmUp {
    /// None.
    pub(super) fn new(_: &wgpu::Adapter, _: &AdapterReport, _: wgpu::Features, _: Arc<Compilation>) -> Option<Self> {
        None
    }

    /// Has a pipeline compiled.
    pub(super) fn push(&self, _: Arc<Pipeline>) {
        match *self {}
    }
}
