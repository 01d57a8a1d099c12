//! A launch: a kernel with its buffers, bound by the WGSL variable's name, and its parameters.

use super::Gpu;
use super::command::SLOT;
use super::compile::Pipeline;
use super::kernel::{DType, Fields, Kernel, KernelParams, ParamScalar};
use super::pool::{Bound, BufferSlice};
use super::recorder::grid;
use super::reflect::BindingKind;
use crate::error::{Error, Result};

/// A question about a device.
type Condition = fn(&Gpu) -> bool;

/// A dispatch being put together. The WGSL variable of the parameters is named `params`.
#[must_use = "nothing is recorded until `run`"]
pub struct Launch<'a> {
    kernel: &'static Kernel,
    instead: Option<(Condition, &'static Kernel)>,
    constants: Vec<(&'static str, f64)>,
    params: Option<(&'a [u8], Fields)>,
    bindings: Vec<(&'static str, Bound, bool)>,
    groups: u64,
}

impl<'a> Launch<'a> {
    /// A launch of `kernel` with one workgroup.
    pub fn new(kernel: &'static Kernel) -> Self {
        Self { kernel, instead: None, constants: Vec::new(), params: None, bindings: Vec::with_capacity(8), groups: 1 }
    }

    /// Launches `kernel` instead, which computes the same of the same bindings, where `condition` holds of the device and
    /// nothing that is bound is f16.
    pub(crate) fn instead_where(mut self, condition: Condition, kernel: &'static Kernel) -> Self {
        self.instead = Some((condition, kernel));
        self
    }

    /// Sets an `override` constant; each combination is a pipeline of its own.
    pub fn constant(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Sets `override` constants, as [`Launch::constant`] each.
    pub fn constants(mut self, constants: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        self.constants.extend(constants);
        self
    }

    /// Sets the parameters.
    pub fn params<P: KernelParams>(mut self, params: &'a P) -> Self {
        self.params = Some((bytemuck::bytes_of(params), P::FIELDS));
        self
    }

    /// Binds `slice` to the `var<storage, read>` called `name`. What is bound to f16 decides which of the kernel's storage
    /// aliases are f16; see [`super::compose_half`].
    pub fn read(mut self, name: &'static str, slice: impl Into<Bound>) -> Self {
        self.bindings.push((name, slice.into(), false));
        self
    }

    /// Binds `slice` to the `var<storage, read_write>` called `name`.
    pub fn write(mut self, name: &'static str, slice: impl Into<Bound>) -> Self {
        self.bindings.push((name, slice.into(), true));
        self
    }

    /// Sets the number of workgroups. They are laid out in two dimensions where one does not suffice, so a kernel finds
    /// its number by `workgroup_index` of `lib/grid.wgsl` and leaves when it is past its last.
    pub fn workgroups(mut self, groups: impl TryInto<u64>) -> Self {
        self.groups = groups.try_into().unwrap_or(u64::MAX);
        self
    }

    /// As many workgroups of `size` threads as `threads` need.
    pub fn threads(self, threads: usize, size: u32) -> Self {
        self.workgroups(threads.div_ceil(size as usize))
    }

    fn fail(&self, message: String) -> Error {
        Error::Kernel { kernel: self.kernel.name.into(), message }
    }

    /// Records the dispatch. No workgroups is no dispatch.
    ///
    /// # Errors
    /// [`Error::Kernel`] when a binding is missing, unknown, of the wrong access or type, too large or misaligned, or when the
    /// parameters do not match the WGSL struct; [`Error::Device`] when the device has failed.
    pub fn run(mut self, gpu: &Gpu) -> Result<()> {
        if self.groups == 0 {
            return Ok(());
        }
        let groups = grid(self.groups, gpu.0.max_workgroups)?;
        let mut state = gpu.room()?;
        let is_half = |(name, bound, _): &(_, Bound, _)| (bound.dtype == Some(DType::F16)).then_some(*name);
        let half: Vec<&'static str> = self.bindings.iter().filter_map(is_half).collect();
        if let Some((condition, kernel)) = self.instead
            && half.is_empty()
            && condition(gpu)
        {
            self.kernel = kernel;
        }
        let pipeline = state.pipeline(&gpu.0.device, self.kernel, &self.constants, &half)?;
        let mut slices = Vec::with_capacity(self.bindings.len());
        let mut uniform = false;
        for binding in &pipeline.reflection.bindings {
            if let BindingKind::Uniform { fields, .. } = &binding.kind {
                uniform = true;
                self.check_params(&pipeline, &binding.name, fields)?;
                continue;
            }
            let found = self.bindings.iter().find(|(name, ..)| *name == binding.name);
            let (_, Bound { slice, dtype }, write) =
                found.ok_or_else(|| self.fail(format!("expected a buffer for `{}`, got none", binding.name)))?;
            if *write != (binding.kind == BindingKind::Write) {
                let (wants, got) = if *write { ("read", "write") } else { ("read_write", "read") };
                return Err(self.fail(format!("`{}` is var<storage, {wants}>, bound by {got}()", binding.name)));
            }
            if let (Some(wants), Some(got)) = (binding.element, *dtype)
                && wants != got
                && (wants, got) != (DType::U32, DType::Bf16)
            {
                return Err(self.fail(format!("`{}`: expected elements of {wants:?}, got {got:?}", binding.name)));
            }
            self.check_slice(gpu, &binding.name, slice)?;
            slices.push(slice);
        }
        if slices.len() != self.bindings.len() || self.params.is_some() != uniform {
            let known = pipeline.reflection.bindings.iter().map(|b| b.name.as_str()).collect::<Vec<_>>();
            let got = self.bindings.iter().map(|(name, ..)| *name).collect::<Vec<_>>();
            let params = if self.params.is_some() { " and params" } else { "" };
            return Err(self.fail(format!("expected bindings {known:?}, got {got:?}{params}")));
        }
        #[cfg(any(feature = "bench", feature = "verify"))]
        if let Some(log) = &mut state.launched {
            log.note(self.kernel.name, &self.constants);
        }
        #[cfg(feature = "verify")]
        if state.captures() {
            let params = self.params.map(|(bytes, _)| bytes);
            let launch = (self.kernel, self.constants.as_slice(), half.as_slice());
            return state.dispatch_captured(&gpu.0, &pipeline, launch, params, &slices, groups);
        }
        state.dispatch(&gpu.0.device, &pipeline, self.params.map(|(bytes, _)| bytes), &slices, groups);
        Ok(())
    }

    fn check_params(&self, pipeline: &Pipeline, name: &str, fields: &[(String, ParamScalar)]) -> Result<()> {
        let Some((bytes, own)) = self.params else {
            return Err(self.fail(format!("expected parameters for `{name}`, got none")));
        };
        if bytes.len() as u64 > SLOT {
            return Err(self.fail(format!("`{name}`: expected at most {SLOT} bytes, got {}", bytes.len())));
        }
        if pipeline.agrees_with(own) {
            return Ok(());
        }
        let same = name == "params"
            && own.len() == fields.len()
            && own.iter().zip(fields).all(|(a, b)| a.0 == b.0 && a.1 == b.1);
        if !same {
            return Err(self.fail(format!("`{name}`: WGSL has {fields:?}, Rust has {own:?}")));
        }
        pipeline.remember(own);
        Ok(())
    }

    fn check_slice(&self, gpu: &Gpu, name: &str, slice: &BufferSlice) -> Result<()> {
        let (limit, alignment) = (gpu.max_binding_bytes(), gpu.offset_alignment());
        if slice.size > limit {
            return Err(self.fail(format!("`{name}`: expected at most {limit} bytes, got {}", slice.size)));
        }
        if !slice.offset.is_multiple_of(alignment) {
            return Err(
                self.fail(format!("`{name}`: expected a multiple of {alignment} as offset, got {}", slice.offset))
            );
        }
        if slice.size == 0 {
            return Err(self.fail(format!("`{name}`: expected at least one element, got none")));
        }
        Ok(())
    }
}
