//! Kernels over the rows of a matrix, in forms: by what a thread loads at once (a pack: one element, or four where the
//! rows' length allows), and by who takes a row (a thread, a subgroup or a workgroup).
//!
//! The forms share one WGSL file; `lib/pack_*.wgsl` and `lib/row_*.wgsl` are what differs. Software adapters load four
//! elements twice as fast as one, faster still as two u64, and barriers cost them most: there a thread takes a whole row (`rows`), or a subgroup
//! where threads share what they load (`groups`). On GPUs a workgroup takes a row.

use crate::gpu::{Gpu, Kernel, Launch, Tier};
use crate::kernels::Variant;
use crate::kernels::software::{limits, loads, subgroup};

/// Threads of a workgroup.
pub const THREADS: u32 = 64;

/// Iterations beyond which a thread no longer takes a row of its own. It adds the row up in one f32 (or four), and the longer the
/// row, the more of its terms are next to nothing beside the sum: that of the exponentials of 50,257 logits, 3 passes of as many
/// iterations, is off by 5e-5 of itself, added by 64 threads by 1e-7. The number is llvmpipe's limit on loops.
const LONGEST_ROW: usize = 60_000;

/// A kernel for scalars, one for vec4, and one for these stored as u64 (software/pack_u64.wgsl).
pub type PackKernels = [Kernel; PACKS];

/// [`PackKernels`] with a row a thread, then with a row a workgroup.
pub type RowKernels = [Kernel; 2 * PACKS];

/// [`PackKernels`] with a row a subgroup, then with a row a workgroup.
pub type GroupKernels = [Kernel; 2 * PACKS];

const PACKS: usize = 3;

/// A kernel for vec4 alone, and for these stored as u64.
pub type FourKernels = [Kernel; 2];

/// Declares the forms of a kernel: `forms!("name", "file.wgsl", Params, packs)`, `(.., rows)`, `(.., groups)` or `(.., fours)`.
macro_rules! forms {
    ($name:literal, $file:literal, $params:ty, fours) => {
        [
            $crate::kernels::rows::forms!(@kernel $name, [""], $file, $params, "lib/pack_vec4.wgsl"),
            $crate::kernels::rows::forms!(@kernel $name, ["_u64"], $file, $params, "software/pack_u64.wgsl"),
        ]
    };
    ($name:literal, $file:literal, $params:ty, packs) => {
        $crate::kernels::rows::forms!(@packs $name, $file, $params, [""])
    };
    ($name:literal, $file:literal, $params:ty, rows) => {
        $crate::kernels::rows::forms!(
            @packs $name, $file, $params, ["_thread", "lib/row_thread.wgsl"], ["_workgroup", "lib/row_workgroup.wgsl"]
        )
    };
    ($name:literal, $file:literal, $params:ty, groups) => {
        $crate::kernels::rows::forms!(
            @packs $name, $file, $params, ["_subgroup", "software/row_subgroup.wgsl"], ["_workgroup", "lib/row_workgroup.wgsl"]
        )
    };
    (@packs $name:literal, $file:literal, $params:ty, $([$suffix:literal $(, $row:literal)?]),*) => {
        [
            $(
                $crate::kernels::rows::forms!(
                    @kernel $name, [$suffix, "_scalar"], $file, $params, "lib/pack_scalar.wgsl" $(, $row)?
                ),
                $crate::kernels::rows::forms!(
                    @kernel $name, [$suffix, "_vec4"], $file, $params, "lib/pack_vec4.wgsl" $(, $row)?
                ),
                $crate::kernels::rows::forms!(
                    @kernel $name, [$suffix, "_u64"], $file, $params, "software/pack_u64.wgsl" $(, $row)?
                ),
            )*
        ]
    };
    (@kernel $name:literal, [$($suffix:literal),*], $file:literal, $params:ty, $($fragment:literal),*) => {
        $crate::gpu::Kernel::new(concat!($name $(, $suffix)*), $crate::gpu::wgsl![$($fragment,)* $file])
            .entry($name)
            .params::<$params>()
    };
}
pub(crate) use forms;

/// Elements of a pack for rows of `width` elements: 4 or 1.
pub fn pack(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// A launch of the form of `kernels` for `pack` elements a load.
fn of_pack<'a>(kernels: &'static [Kernel], pack: usize) -> Launch<'a> {
    if pack == 4 {
        Launch::new(&kernels[1]).instead_where(loads::as_u64, &kernels[2])
    } else {
        Launch::new(&kernels[0])
    }
}

/// The form that is faster on the device.
pub fn four_launch<'a>(kernels: &'static FourKernels) -> Launch<'a> {
    Launch::new(&kernels[0]).instead_where(loads::as_u64, &kernels[1])
}

/// The form for `pack` elements a load.
pub fn pack_launch<'a>(kernels: &'static PackKernels, pack: usize) -> Launch<'a> {
    of_pack(kernels, pack).constant("WG", THREADS)
}

/// The form for `rows` rows and `pack` elements a load in the device's tier, with its workgroups: a row by a thread or a
/// workgroup. `iterations` are those of a thread's loops that has a row to itself; beyond `LONGEST_ROW`
/// or the adapter's limit a workgroup takes it.
pub fn row_launch<'a>(
    kernels: &'static RowKernels,
    gpu: &Gpu,
    rows: usize,
    pack: usize,
    iterations: usize,
) -> Launch<'a> {
    if gpu.tier() == Tier::Gpu || iterations > LONGEST_ROW.min(limits::iterations(gpu)) {
        of_pack(&kernels[PACKS..], pack).constant("WG", THREADS).workgroups(rows)
    } else {
        of_pack(kernels, pack).constant("WG", THREADS).threads(rows, THREADS)
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
    match subgroup::threads(gpu).filter(|&threads| iterations / threads as usize <= limits::iterations(gpu)) {
        Some(threads) => of_pack(kernels, pack).constant("WG", threads),
        None => of_pack(&kernels[PACKS..], pack).constant("WG", THREADS),
    }
    .workgroups(rows)
}

/// Threads of a workgroup that shares what it loads.
pub fn group_threads(gpu: &Gpu) -> u32 {
    subgroup::threads(gpu).unwrap_or(THREADS)
}

/// The forms as entries of the kernel list.
pub fn variants(kernels: &'static [Kernel]) -> Vec<Variant> {
    let constants = vec![("WG", f64::from(THREADS))];
    kernels.iter().map(|kernel| Variant { kernel, constants: constants.clone() }).collect()
}
