//! Kernels that load eight neighbours at once, in both forms in which they lie in a buffer's type.

use super::Variant;
use super::software::loads;
use crate::gpu::{Kernel, Launch};

/// A kernel with lib/oct_vec4.wgsl, which runs everywhere, and with software/oct_u64.wgsl; to the bit they compute the same.
#[derive(Debug)]
pub struct Octs {
    /// With lib/oct_vec4.wgsl.
    pub vec4: Kernel,
    /// With software/oct_u64.wgsl.
    pub u64: Kernel,
}

impl Octs {
    /// A launch of the form that is faster on the device.
    pub(crate) fn launch<'a>(&'static self) -> Launch<'a> {
        Launch::new(&self.vec4).instead_where(loads::as_u64, &self.u64)
    }

    /// Both forms with these constants, for a module's list of kernels.
    pub(crate) fn variants(&'static self, constants: &[(&'static str, f64)]) -> [Variant; 2] {
        [&self.vec4, &self.u64].map(|kernel| Variant { kernel, constants: constants.to_vec() })
    }
}

/// Declares both forms of a kernel: its documentation, its static, its name, its entry point, its file in the folder of shaders,
/// and its parameters.
macro_rules! octs {
    ($doc:literal, $static:ident, $name:literal, $entry:literal, $file:literal, $params:ty) => {
        #[doc = $doc]
        pub static $static: $crate::kernels::octs::Octs = $crate::kernels::octs::Octs {
            vec4: $crate::gpu::Kernel::new($name, $crate::gpu::wgsl!["lib/oct_vec4.wgsl", $file])
                .entry($entry)
                .params::<$params>(),
            u64: $crate::gpu::Kernel::new(concat!($name, "_u64"), $crate::gpu::wgsl!["software/oct_u64.wgsl", $file])
                .entry($entry)
                .params::<$params>(),
        };
    };
}

pub(crate) use octs;
