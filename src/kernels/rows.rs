//! Kernels over the rows of a matrix, in forms: by what a thread loads at once (a pack: one element, or four where the
//! rows' length allows), and by who takes a row (a thread, a subgroup or a workgroup).
//!
//! The forms share one WGSL file; `lib/pack_*.wgsl` and `lib/row_*.wgsl` are what differs. Software adapters load four
//! elements twice as fast as one, and barriers cost them most: there a thread takes a whole row (`rows`), or a subgroup
//! where threads share what they load (`groups`). On GPUs a workgroup takes a row.

use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;

/// Threads of a workgroup.
pub const THREADS: u32 = 64;

/// A kernel for scalars and one for vec4.
pub type PackKernels = [Kernel; 2];

/// [`PackKernels`] with a row a thread, then with a row a workgroup.
pub type RowKernels = [Kernel; 4];

/// [`PackKernels`] with a row a subgroup, then with a row a workgroup.
pub type GroupKernels = [Kernel; 4];

/// Declares the forms of a kernel: `forms!("name", "file.wgsl", packs)`, `(.., rows)` or `(.., groups)`; with the names of further
/// fragments of shaders/lib after it.
macro_rules! forms {
    ($name:literal, $file:literal, packs $(, $more:literal)*) => {
        [
            crate::kernels::rows::forms!(@kernel $name, "_scalar", $name, $file, "pack_scalar" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_vec4", $name, $file, "pack_vec4" $(, $more)*),
        ]
    };
    ($name:literal, $file:literal, rows $(, $more:literal)*) => {
        [
            crate::kernels::rows::forms!(@kernel $name, "_thread_scalar", $name, $file, "pack_scalar", "row_thread" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_thread_vec4", $name, $file, "pack_vec4", "row_thread" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_scalar", $name, $file, "pack_scalar", "row_workgroup" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_vec4", $name, $file, "pack_vec4", "row_workgroup" $(, $more)*),
        ]
    };
    ($name:literal, $file:literal, groups $(, $more:literal)*) => {
        [
            crate::kernels::rows::forms!(@kernel $name, "_subgroup_scalar", $name, $file, "pack_scalar", "row_subgroup" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_subgroup_vec4", $name, $file, "pack_vec4", "row_subgroup" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_scalar", $name, $file, "pack_scalar", "row_workgroup" $(, $more)*),
            crate::kernels::rows::forms!(@kernel $name, "_workgroup_vec4", $name, $file, "pack_vec4", "row_workgroup" $(, $more)*),
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

/// The form for `rows` rows and `pack` elements a load in the device's tier, with its workgroups: a row by a thread or a
/// workgroup. `iterations` are those of a thread's loops that has a row to itself; beyond the adapter's limit a workgroup
/// takes it.
pub fn row_launch<'a>(
    kernels: &'static RowKernels,
    gpu: &Gpu,
    rows: usize,
    pack: usize,
    iterations: usize,
) -> Launch<'a> {
    let form = usize::from(pack == 4);
    if gpu.tier() == Tier::Workgroup || iterations > gpu.adapter().loop_limit() {
        Launch::new(&kernels[2 + form]).constant("WG", THREADS).workgroups(rows)
    } else {
        Launch::new(&kernels[form]).constant("WG", THREADS).threads(rows, THREADS)
    }
}

/// As [`row_launch`], a row by a subgroup or a workgroup.
pub fn group_launch<'a>(
    kernels: &'static GroupKernels,
    gpu: &Gpu,
    rows: usize,
    pack: usize,
    iterations: usize,
) -> Launch<'a> {
    let (form, threads) = (usize::from(pack == 4), group_threads(gpu));
    if gpu.tier() == Tier::Subgroup && iterations / threads as usize <= gpu.adapter().loop_limit() {
        Launch::new(&kernels[form]).constant("WG", threads).workgroups(rows)
    } else {
        Launch::new(&kernels[2 + form]).constant("WG", THREADS).workgroups(rows)
    }
}

/// Threads of a workgroup that shares what it loads: a single subgroup on software adapters, where that is then loaded
/// once; [`THREADS`] elsewhere.
pub fn group_threads(gpu: &Gpu) -> u32 {
    if gpu.tier() == Tier::Subgroup { gpu.adapter().subgroup_size.0 } else { THREADS }
}

/// The forms as entries of the kernel list.
pub fn variants(kernels: &'static [Kernel]) -> Vec<Variant> {
    let constants = vec![("WG", f64::from(THREADS))];
    kernels.iter().map(|kernel| Variant { kernel, constants: constants.clone() }).collect()
}
