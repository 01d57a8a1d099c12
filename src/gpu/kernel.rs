//! A kernel: WGSL sources, an entry point, a parameter struct.

/// One compute entry point. Sources are joined by plain concatenation; WGSL globals are order-independent.
#[derive(Debug)]
pub struct Kernel {
    /// The name in profiles, errors and the kernel list; unique.
    pub name: &'static str,
    /// The WGSL sources: the kernel's own file and the shared fragments it uses.
    pub sources: &'static [&'static str],
    /// The WGSL entry point.
    pub entry: &'static str,
    /// Values of `override` constants that are always the same; a launch can add others.
    pub constants: &'static [(&'static str, f64)],
}

impl Kernel {
    /// Whether it runs only where [`super::Gpu::cooperative_matrix`] says so.
    pub fn needs_cooperative_matrix(&self) -> bool {
        self.sources.iter().any(|source| source.contains("coop_mat"))
    }
}

/// Element types of arrays on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// `f32`.
    F32,
    /// `f16`: storage of activations and weight copies in mixed precision, where the device has `SHADER_F16`.
    F16,
    /// `u32`: tokens, indices, counts.
    U32,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == DType::F16 { 2 } else { 4 }
    }
}

/// A scalar type that WGSL and Rust share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamScalar {
    /// `f32`.
    F32,
    /// `u32`.
    U32,
}

/// A parameter struct made by [`crate::params!`]: its fields are checked against the WGSL struct by name, order and type.
pub trait KernelParams: bytemuck::Pod {
    /// Field names and types in order; every field has 4 bytes.
    const FIELDS: &'static [(&'static str, ParamScalar)];
}

#[doc(hidden)]
pub trait ScalarType {
    const SCALAR: ParamScalar;
}

impl ScalarType for f32 {
    const SCALAR: ParamScalar = ParamScalar::F32;
}

impl ScalarType for u32 {
    const SCALAR: ParamScalar = ParamScalar::U32;
}

/// Declares a kernel's parameter struct, the mirror of `struct Params` in its WGSL.
///
/// ```
/// sdmoe::params! {
///     /// Parameters of `scale`.
///     pub struct ScaleParams { count: u32, factor: f32 }
/// }
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, $crate::__private::bytemuck::Pod, $crate::__private::bytemuck::Zeroable)]
        #[bytemuck(crate = "sdmoe::__private::bytemuck")]
        $vis struct $name { $($(#[$fmeta])* #[allow(missing_docs, reason = "documented in the WGSL")] $vis $field: $ty),* }
        impl $crate::gpu::KernelParams for $name {
            const FIELDS: &'static [(&'static str, $crate::gpu::ParamScalar)] =
                &[$((stringify!($field), <$ty as $crate::gpu::ScalarType>::SCALAR)),*];
        }
    };
}
