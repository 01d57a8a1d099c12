//! Kernels over the rows of a matrix, in forms: by what a thread loads at once (one element, or four where the rows'
//! length allows), and by who takes a row (a thread on software adapters, a workgroup on GPUs).
//!
//! The forms share one WGSL file; `lib/pack_*.wgsl` and `lib/row_*.wgsl` are what differs.

use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;

/// Threads of a workgroup.
pub const THREADS: u32 = 64;

/// A kernel for scalars and one for vec4.
pub type PackKernels = [Kernel; 2];

/// [`PackKernels`] with a row a thread, then with a row a workgroup.
pub type RowKernels = [Kernel; 4];

/// Declares the forms of a kernel: `forms!("name", "file.wgsl", packs)` or `(.., rows)`.
macro_rules! forms {
    ($name:literal, $file:literal, packs) => {
        [
            crate::kernels::rows::forms!(@kernel $name, "_scalar", $name, $file, "pack_scalar"),
            crate::kernels::rows::forms!(@kernel $name, "_vec4", $name, $file, "pack_vec4"),
        ]
    };
    ($name:literal, $file:literal, rows) => {
        [
            crate::kernels::rows::forms!(@kernel $name, "_thread_scalar", $name, $file, "pack_scalar", "row_thread"),
            crate::kernels::rows::forms!(@kernel $name, "_thread_vec4", $name, $file, "pack_vec4", "row_thread"),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_scalar", $name, $file, "pack_scalar", "row_workgroup"),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_vec4", $name, $file, "pack_vec4", "row_workgroup"),
        ]
    };
    (@kernel $name:literal, $suffix:literal, $entry:literal, $file:literal, $($fragment:literal),*) => {
        crate::gpu::Kernel {
            name: concat!($name, $suffix),
            sources: &[
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/grid.wgsl")),
                $(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/lib/", $fragment, ".wgsl")),)*
                include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file)),
            ],
            entry: $entry,
            constants: &[],
        }
    };
}
pub(crate) use forms;

/// Elements of a pack for rows of `width` elements: 4 or 1.
pub fn pack(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// The form for `pack` elements a load.
pub fn pack_launch<'a>(kernels: &'static PackKernels, pack: usize) -> Launch<'a> {
    Launch::new(&kernels[usize::from(pack == 4)]).constant("WG", THREADS)
}

/// The form for `rows` rows and `pack` elements a load in the device's tier, with its workgroups.
pub fn row_launch<'a>(kernels: &'static RowKernels, gpu: &Gpu, rows: usize, pack: usize) -> Launch<'a> {
    let form = usize::from(pack == 4);
    if gpu.tier() == Tier::Workgroup {
        Launch::new(&kernels[2 + form]).constant("WG", THREADS).workgroups(rows)
    } else {
        Launch::new(&kernels[form]).constant("WG", THREADS).threads(rows, THREADS)
    }
}

/// The forms as entries of the kernel list.
pub fn variants(kernels: &'static [Kernel]) -> Vec<Variant> {
    let constants = vec![("WG", f64::from(THREADS))];
    kernels.iter().map(|kernel| Variant { kernel, constants: constants.clone() }).collect()
}
