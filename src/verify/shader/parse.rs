//! The buffers that an entry point binds, read from its WGSL by naga.

use std::error::Error as _;

use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage, StorageAccess};

use super::Job;
use super::layout::Layout;
use crate::error::Result;

/// How a shader uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferKind {
    /// `var<uniform>`.
    Uniform,
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// A buffer that an entry point uses.
#[derive(Clone, Debug)]
pub struct Variable {
    /// The WGSL variable's name.
    pub name: String,
    /// Its group.
    pub group: u32,
    /// Its binding in the group.
    pub binding: u32,
    /// How it is used.
    pub kind: BufferKind,
    /// Its bytes.
    pub size: u64,
    /// The scalars in it.
    pub(super) layout: Layout,
}

/// A shader that was parsed and validated, with the buffers that it uses.
#[derive(Debug)]
pub struct Prepared {
    /// The buffers, by group and binding.
    pub variables: Vec<Variable>,
    pub(super) module: naga::Module,
    pub(super) info: ModuleInfo,
}

/// A message with where it is, on one line.
fn located(job: &Job, location: Option<naga::SourceLocation>, message: &str) -> crate::Error {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match location {
        Some(at) => job.fail(format!("line {}, column {}: {message}", at.line_number, at.line_position)),
        None => job.fail(message),
    }
}

/// Parses and validates WGSL.
fn module(job: &Job) -> Result<(naga::Module, ModuleInfo)> {
    let module =
        naga::front::wgsl::parse_str(&job.wgsl).map_err(|e| located(job, e.location(&job.wgsl), e.message()))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    validator.subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| {
        let mut message = e.as_inner().to_string();
        let mut source = e.as_inner().source();
        while let Some(inner) = source {
            message += &format!(": {inner}");
            source = inner.source();
        }
        located(job, e.location(&job.wgsl), &message)
    })?;
    Ok((module, info))
}

impl Prepared {
    /// Reads what the entry point of `job` binds, and how large that is.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] when the WGSL is not valid, the entry point, a name or a constant is unknown, something else than a
    /// buffer is bound, a size is not known, or a content does not fit.
    pub fn new(job: &Job) -> Result<Self> {
        let (module, info) = module(job)?;
        let compute = || module.entry_points.iter().filter(|e| e.stage == ShaderStage::Compute);
        let position = module.entry_points.iter().position(|e| e.name == job.entry && e.stage == ShaderStage::Compute);
        let position = position.ok_or_else(|| {
            let known: Vec<&str> = compute().map(|e| e.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            job.fail(format!("no compute entry point `{}`; there are {known}", job.entry))
        })?;
        let uses = info.get_entry_point(position);
        let mut variables = Vec::new();
        for (handle, variable) in module.global_variables.iter() {
            let Some(at) = variable.binding else { continue };
            if uses[handle].is_empty() {
                continue;
            }
            let name = variable.name.clone().unwrap_or_default();
            let kind = match variable.space {
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => BufferKind::Write,
                AddressSpace::Storage { .. } => BufferKind::Read,
                AddressSpace::Uniform => BufferKind::Uniform,
                _ => return Err(job.fail(format!("`{name}` is no buffer; only shaders with buffers alone can be run"))),
            };
            let layout = Layout::new(&module, variable.ty).map_err(|m| job.fail(format!("`{name}`: {m}")))?;
            let size = size(job, &name, kind, &layout)?;
            variables.push(Variable { name, group: at.group, binding: at.binding, kind, size, layout });
        }
        variables.sort_by_key(|v| (v.group, v.binding));
        let known = |name: &String| variables.iter().any(|v| v.name == *name);
        let names: Vec<&str> = variables.iter().map(|v| v.name.as_str()).collect();
        let dynamic = job.dynamic.as_ref().map(|(name, _)| name);
        let mut given = job.inputs.keys().chain(job.sizes.keys()).chain(job.expected.keys()).chain(dynamic);
        if let Some(name) = given.find(|name| !known(name)) {
            return Err(job.fail(format!("`{}` binds no `{name}`; it binds {}", job.entry, names.join(", "))));
        }
        for (name, want) in &job.expected {
            let Some(variable) = variables.iter().find(|v| v.name == *name) else { continue };
            if variable.kind != BufferKind::Write {
                return Err(job.fail(format!("`{name}` is not written, so nothing can be expected of it")));
            }
            if want.len() as u64 != variable.size {
                let message = format!("`{name}` has {} bytes, {} are expected of it", variable.size, want.len());
                return Err(job.fail(message));
            }
        }
        let constants: Vec<&str> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
        if let Some(name) = job.constants.keys().find(|name| !constants.contains(&name.as_str())) {
            let known = if constants.is_empty() { "none".to_owned() } else { constants.join(", ") };
            return Err(job.fail(format!("no override constant `{name}`; there are {known}")));
        }
        Ok(Self { variables, module, info })
    }
}

/// The bytes of a buffer: of what it is given, or as it is told, or as its type has it.
fn size(job: &Job, name: &str, kind: BufferKind, layout: &Layout) -> Result<u64> {
    let given = job.inputs.get(name).map(|bytes| bytes.len() as u64);
    let told = job.sizes.get(name).copied();
    if let (Some(given), Some(told)) = (given, told)
        && given != told
    {
        return Err(job.fail(format!("`{name}` is given {given} bytes and should have {told}")));
    }
    let size = given.or(told).or(layout.fixed);
    let Some(size) = size else {
        return Err(job.fail(format!("the size of `{name}` is not known: give its content or its bytes")));
    };
    if size < layout.least {
        return Err(job.fail(format!("`{name}` has at least {} bytes by its type, got {size}", layout.least)));
    }
    if size % 4 != 0 {
        return Err(job.fail(format!("`{name}`: expected whole words of 4 bytes, got {size} bytes")));
    }
    if kind != BufferKind::Write && given.is_none() {
        return Err(job.fail(format!("`{name}` is only read: expected its content, got none")));
    }
    Ok(size)
}
