//! Kernels that load eight neighbours at once, in both forms in which they lie in a buffer's type.

use super::Variant;
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
        Launch::new(&self.vec4).or_u64(&self.u64)
    }

    /// Both forms with these constants, for a module's list of kernels.
    pub(crate) fn variants(&'static self, constants: &[(&'static str, f64)]) -> [Variant; 2] {
        [&self.vec4, &self.u64].map(|kernel| Variant { kernel, constants: constants.to_vec() })
    }
}

/// Declares both forms of a kernel: its documentation, its static, its name, its entry point, and its sources but that for
/// octs, from the folder of shaders.
macro_rules! octs {
    ($doc:literal, $static:ident, $name:literal, $entry:literal, [$($source:literal),* $(,)?]) => {
        #[doc = $doc]
        pub static $static: $crate::kernels::octs::Octs = $crate::kernels::octs::Octs {
            vec4: $crate::gpu::Kernel {
                name: $name,
                sources: &[
                    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/oct_vec4.wgsl")),
                    $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $source)),)*
                ],
                entry: $entry,
                constants: &[],
            },
            u64: $crate::gpu::Kernel {
                name: concat!($name, "_u64"),
                sources: &[
                    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/software/pairs_u64.wgsl")),
                    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/software/oct_u64.wgsl")),
                    $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $source)),)*
                ],
                entry: $entry,
                constants: &[],
            },
        };
    };
}

pub(crate) use octs;
