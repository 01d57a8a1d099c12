//! A kernel: WGSL sources, an entry point, a parameter struct.

/// One compute entry point.
///
/// ```
/// use sdmoe::gpu::Kernel;
///
/// sdmoe::params! {
///     pub struct ScaleParams { count: u32, factor: f32 }
/// }
///
/// /// `x = factor x`; its WGSL is given `struct Params`, and a fragment of this crate that it needs.
/// static SCALE: Kernel = Kernel::new("scale", &["
///     // needs: lib/grid.wgsl
///     @group(0) @binding(0) var<uniform> params: Params;
///     @group(0) @binding(1) var<storage, read_write> x: array<f32>;
///     @compute @workgroup_size(64)
///     fn scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
///              @builtin(local_invocation_index) lane: u32) {
///         let i = workgroup_index(group, groups) * 64u + lane;
///         if i < params.count { x[i] *= params.factor; }
///     }
/// "]).params::<ScaleParams>();
/// # sdmoe::gpu::reflect(&SCALE).unwrap();
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Kernel {
    /// The name in profiles, errors and the kernel list; unique.
    pub name: &'static str,
    /// The WGSL of the kernel, behind those fragments that it chooses among several; what they need of this crate's shaders is
    /// added, see [`super::sources`].
    pub sources: &'static [&'static str],
    /// The WGSL entry point.
    pub entry: &'static str,
    /// Values of `override` constants that are always the same; a launch can add others.
    pub constants: &'static [(&'static str, f64)],
    /// The fields of the parameters, of which `struct Params` is made; none where the WGSL has its own.
    pub params: Fields,
}

impl Kernel {
    /// The kernel called `name`, whose entry point is called so too.
    pub const fn new(name: &'static str, sources: &'static [&'static str]) -> Self {
        Kernel { name, sources, entry: name, constants: &[], params: &[] }
    }

    /// With another entry point.
    pub const fn entry(self, entry: &'static str) -> Self {
        Kernel { entry, ..self }
    }

    /// With values of `override` constants.
    pub const fn constants(self, constants: &'static [(&'static str, f64)]) -> Self {
        Kernel { constants, ..self }
    }

    /// With parameters: its WGSL is given `struct Params` with the fields of `P`.
    pub const fn params<P: KernelParams>(self) -> Self {
        Kernel { params: P::FIELDS, ..self }
    }

    /// Whether it runs only where [`super::Gpu::cooperative_matrix`] says so.
    pub fn needs_cooperative_matrix(&self) -> bool {
        self.sources.iter().any(|source| source.contains("coop_mat"))
    }
}

/// The contents of shaders of this crate, by their paths in its folder of shaders.
macro_rules! wgsl {
    ($($path:expr),* $(,)?) => {
        &[$(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path))),*]
    };
}
pub(crate) use wgsl;

/// Element types of arrays on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// `f32`.
    F32,
    /// `f16`: storage of activations and weight copies in mixed precision, where the device has `SHADER_F16`.
    F16,
    /// bf16, two in a word of `u32`: weights for inference alone, on every device.
    Bf16,
    /// `u32`: tokens, indices, counts.
    U32,
}

impl DType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F16 | DType::Bf16 => 2,
            DType::F32 | DType::U32 => 4,
        }
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

/// Names and types of a parameter struct's fields, in order; every field has 4 bytes.
pub type Fields = &'static [(&'static str, ParamScalar)];

/// A parameter struct made by [`crate::params!`]. `struct Params` of its kernels is made from it.
pub trait KernelParams: bytemuck::Pod {
    /// The fields.
    const FIELDS: Fields;
}

/// The type of a parameter struct's field: a scalar, or another parameter struct.
#[doc(hidden)]
pub trait Field {
    /// The fields of WGSL that it stands for; a scalar, which has the name of the field, leaves the name empty.
    const FLAT: Fields;
}

impl Field for f32 {
    const FLAT: Fields = &[("", ParamScalar::F32)];
}

impl Field for u32 {
    const FLAT: Fields = &[("", ParamScalar::U32)];
}

/// How many fields of WGSL these are.
#[doc(hidden)]
pub const fn field_count(fields: &[(&str, Fields)]) -> usize {
    let (mut count, mut i) = (0, 0);
    while i < fields.len() {
        count += fields[i].1.len();
        i += 1;
    }
    count
}

/// The fields of WGSL, of which there are `N`: those of structs stand in the place of the field that has the struct.
#[doc(hidden)]
pub const fn flat_fields<const N: usize>(fields: &[(&'static str, Fields)]) -> [(&'static str, ParamScalar); N] {
    let mut all = [("", ParamScalar::U32); N];
    let (mut count, mut i) = (0, 0);
    while i < fields.len() {
        let (name, flat) = fields[i];
        let mut j = 0;
        while j < flat.len() {
            all[count] = if flat[j].0.is_empty() { (name, flat[j].1) } else { flat[j] };
            count += 1;
            j += 1;
        }
        i += 1;
    }
    all
}

/// Declares a kernel's parameter struct, of which `struct Params` of its WGSL is made ([`crate::gpu::Kernel::params`]). A field is a
/// number, or another such struct, whose own fields then are fields of the WGSL.
///
/// ```
/// sdmoe::params! {
///     /// Parameters of `scale`.
///     pub struct ScaleParams { count: u32, factor: f32 }
/// }
/// sdmoe::params! {
///     /// Parameters of `scale_and_shift`, in WGSL `count`, `factor` and `shift`.
///     pub struct ShiftParams { scale: ScaleParams, shift: f32 }
/// }
/// use sdmoe::gpu::{KernelParams, ParamScalar::{F32, U32}};
/// assert_eq!(ShiftParams::FIELDS, [("count", U32), ("factor", F32), ("shift", F32)]);
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, $crate::__private::bytemuck::Pod, $crate::__private::bytemuck::Zeroable)]
        #[bytemuck(crate = "sdmoe::__private::bytemuck")]
        $vis struct $name { $($(#[$fmeta])* #[allow(missing_docs, reason = "its name says it, or its comment")] $vis $field: $ty),* }
        impl $crate::gpu::KernelParams for $name {
            const FIELDS: $crate::gpu::Fields = {
                const NESTED: &[(&str, $crate::gpu::Fields)] =
                    &[$((stringify!($field), <$ty as $crate::gpu::Field>::FLAT)),*];
                &$crate::gpu::flat_fields::<{ $crate::gpu::field_count(NESTED) }>(NESTED)
            };
        }
        impl $crate::gpu::Field for $name {
            const FLAT: $crate::gpu::Fields = <Self as $crate::gpu::KernelParams>::FIELDS;
        }
    };
}
