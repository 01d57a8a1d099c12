//! Launches that are kept with what their buffers held before and after, so that each can be run again alone.

use std::sync::Arc;

use super::captured::Captured;
use super::compile::Pipeline;
use super::pool::{BufferSlice, Pool};
use super::recorder::State;
use super::reflect::BindingKind;
use super::{Gpu, Inner, Kernel, lock};
use crate::error::Result;

/// Launches that are kept at most.
const MOST: usize = 200;

/// A kernel, its constants, and the variables that are bound to f16.
type Form<'a> = (&'static Kernel, &'a [(&'static str, f64)], &'a [&'static str]);

impl State {
    /// Whether the next launch is to be kept.
    pub(super) fn captures(&self) -> bool {
        self.capture.as_ref().is_some_and(|kept| kept.len() < MOST)
    }

    /// As [`State::dispatch`], and keeps the launch.
    pub(super) fn dispatch_captured(
        &mut self,
        inner: &Inner,
        pipeline: &Arc<Pipeline>,
        (kernel, constants, half): Form<'_>,
        params: Option<&[u8]>,
        slices: &[&BufferSlice],
        groups: [u32; 3],
    ) -> Result<()> {
        let copy = |state: &mut State, slice: &BufferSlice| {
            let buffer = Pool::allocate(&inner.pool, &inner.device, slice.size);
            let target = BufferSlice { buffer, offset: 0, size: slice.size };
            state.copy(slice, &target);
            target
        };
        let storage: Vec<(String, bool)> = pipeline
            .reflection
            .bindings
            .iter()
            .filter(|b| !matches!(b.kind, BindingKind::Uniform { .. }))
            .map(|b| (b.name.clone(), b.kind == BindingKind::Write))
            .collect();
        let before: Vec<BufferSlice> = slices.iter().map(|slice| copy(self, slice)).collect();
        self.dispatch(&inner.device, pipeline, params, slices, groups);
        let mut buffers = Vec::new();
        for (((name, written), before), slice) in storage.into_iter().zip(before).zip(slices) {
            let after = written.then(|| copy(self, slice));
            buffers.push((name, before, after));
        }
        let launch = Captured {
            kernel,
            constants: constants.to_vec(),
            half: half.to_vec(),
            params: params.map(<[u8]>::to_vec),
            groups,
            buffers,
        };
        self.capture.get_or_insert_default().push(launch);
        inner.failures.check()
    }
}

impl Gpu {
    /// Keeps every launch from here on, the first [`MOST`] of them.
    pub(crate) fn start_capture(&self) {
        lock(&self.0.state).capture = Some(Vec::new());
    }

    /// Returns the launches that were kept, and keeps none any more.
    pub(crate) fn finish_capture(&self) -> Vec<Captured> {
        lock(&self.0.state).capture.take().unwrap_or_default()
    }
}
