//! The bindings of an entry point, read from its WGSL by naga, so that Rust binds buffers by name.

use naga::{AddressSpace, Scalar, ScalarKind, StorageAccess, TypeInner};

use super::wgsl::compose_half;
use super::{DType, Kernel, ParamScalar};
use crate::error::{Error, Result};

/// How an entry point uses a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
    /// `var<uniform>`, with the fields of its struct and its size in bytes.
    Uniform {
        /// Names and types in order.
        fields: Vec<(String, ParamScalar)>,
        /// Bytes.
        size: u32,
    },
}

/// A binding that an entry point uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The WGSL variable's name.
    pub name: String,
    /// Its binding number in group 0.
    pub index: u32,
    /// How it is used.
    pub kind: BindingKind,
    /// The type of an array's elements, where it is one that tensors have.
    pub element: Option<DType>,
}

/// The bindings of an entry point, by binding number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflection {
    /// The bindings.
    pub bindings: Vec<Binding>,
}

/// As [`reflect_half`], everything stored in f32.
///
/// # Errors
/// As [`reflect_half`].
pub fn reflect(kernel: &Kernel) -> Result<Reflection> {
    reflect_half(kernel, &[])
}

/// Parses and validates a kernel as [`compose_half`] gives it and lists what it binds.
///
/// # Errors
/// [`Error::Kernel`] as [`super::sources`], with naga's message, or what this project's conventions forbid: a binding outside group 0, a
/// uniform whose fields are not all `f32` or `u32`.
pub fn reflect_half(kernel: &Kernel, half: &[&str]) -> Result<Reflection> {
    Source::parse(kernel, &compose_half(kernel, half)?)?.reflect(kernel)
}

fn error(kernel: &Kernel, message: String) -> Error {
    Error::Kernel { kernel: kernel.name.into(), message }
}

/// Sources, parsed and validated.
pub(super) struct Source {
    pub(super) module: naga::Module,
    info: naga::valid::ModuleInfo,
    /// The text for a browser, which takes WGSL alone; naga cannot write every module back.
    #[cfg(target_arch = "wasm32")]
    pub(super) text: String,
}

impl Source {
    /// `text`, the whole WGSL of a kernel.
    pub(super) fn parse(kernel: &Kernel, text: &str) -> Result<Self> {
        let module = naga::front::wgsl::parse_str(text).map_err(|e| error(kernel, e.emit_to_string(text)))?;
        let mut validator =
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
        let info = validator.validate(&module).map_err(|e| error(kernel, e.emit_to_string(text)))?;
        Ok(Self {
            module,
            info,
            #[cfg(target_arch = "wasm32")]
            text: text.to_owned(),
        })
    }

    /// Returns the bindings of the kernel's entry point.
    pub(super) fn reflect(&self, kernel: &Kernel) -> Result<Reflection> {
        let fail = |message| error(kernel, message);
        let position = self.module.entry_points.iter().position(|e| e.name == kernel.entry);
        let position = position.ok_or_else(|| fail(format!("no entry point `{}`", kernel.entry)))?;
        let uses = self.info.get_entry_point(position);
        let mut bindings = Vec::new();
        for (handle, variable) in self.module.global_variables.iter() {
            let Some(binding) = variable.binding else { continue };
            if uses[handle].is_empty() {
                continue;
            }
            let name = variable.name.clone().unwrap_or_default();
            if binding.group != 0 {
                return Err(fail(format!("`{name}`: expected @group(0), got @group({})", binding.group)));
            }
            let kind = match variable.space {
                AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => BindingKind::Write,
                AddressSpace::Storage { .. } => BindingKind::Read,
                AddressSpace::Uniform => {
                    uniform(&self.module, variable.ty).map_err(|m| fail(format!("`{name}`: {m}")))?
                }
                other => return Err(fail(format!("`{name}`: expected storage or uniform, got {other:?}"))),
            };
            let element = element(&self.module, variable.ty);
            bindings.push(Binding { name, index: binding.binding, kind, element });
        }
        bindings.sort_by_key(|b| b.index);
        Ok(Reflection { bindings })
    }
}

/// The scalar of an array of scalars or vectors; a u64 is two f32 (software/oct_u64.wgsl).
fn element(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Option<DType> {
    let TypeInner::Array { base, .. } = module.types[ty].inner else { return None };
    match module.types[base].inner.scalar()? {
        Scalar { kind: ScalarKind::Float, width: 4 } | Scalar { kind: ScalarKind::Uint, width: 8 } => Some(DType::F32),
        Scalar { kind: ScalarKind::Float, width: 2 } => Some(DType::F16),
        Scalar { kind: ScalarKind::Uint, width: 4 } => Some(DType::U32),
        _ => None,
    }
}

fn uniform(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Result<BindingKind, String> {
    let TypeInner::Struct { members, span } = &module.types[ty].inner else {
        return Err("expected a struct".into());
    };
    let mut fields = Vec::new();
    for member in members {
        let name = member.name.clone().unwrap_or_default();
        let scalar = match module.types[member.ty].inner {
            TypeInner::Scalar(Scalar { kind: ScalarKind::Float, width: 4 }) => ParamScalar::F32,
            TypeInner::Scalar(Scalar { kind: ScalarKind::Uint, width: 4 }) => ParamScalar::U32,
            _ => return Err(format!("field `{name}`: expected f32 or u32")),
        };
        fields.push((name, scalar));
    }
    Ok(BindingKind::Uniform { fields, size: *span })
}
