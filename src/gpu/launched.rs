//! Which kernels are launched, in which variants.

use super::{Gpu, lock};

/// A kernel as it was launched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launched {
    /// The kernel's name.
    pub(crate) kernel: &'static str,
    /// Override constants, those of the kernel left out.
    pub(crate) constants: Vec<(&'static str, f64)>,
}

/// The kernels that were launched, each variant once, in the order of their first launch.
#[derive(Debug, Default)]
pub(super) struct Log(Vec<Launched>);

impl Log {
    /// Keeps that a kernel is launched.
    pub(super) fn note(&mut self, kernel: &'static str, constants: &[(&'static str, f64)]) {
        if !self.0.iter().any(|one| one.kernel == kernel && one.constants == constants) {
            self.0.push(Launched { kernel, constants: constants.to_vec() });
        }
    }
}

impl Gpu {
    /// Keeps which kernels are launched from here on.
    pub(crate) fn start_noting(&self) {
        lock(&self.0.state).launched = Some(Log::default());
    }

    /// The kernels that were launched since [`Gpu::start_noting`]; none is kept any more.
    pub(crate) fn finish_noting(&self) -> Vec<Launched> {
        lock(&self.0.state).launched.take().unwrap_or_default().0
    }
}
