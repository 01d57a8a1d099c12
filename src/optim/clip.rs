//! The global gradient norm and the factor that clips it, on the device from end to end.
//!
//! `norm = sqrt(sum_t weight_t |x_t|^2)` over the terms `t`, `scale = min(1, limit / (norm + 1e-6))`. Two stages in fixed
//! order: each thread sums the squares of up to 1024 elements (on GPUs of 64, and a workgroup those of its threads), one
//! workgroup sums what these gave. No readback, no atomics.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Launch, Parts, Tier, wgsl};
use crate::kernels::{Variant, stretch};
use crate::tensor::{DType, Tensor};

/// Packs that a thread of the first stage sums, and on GPUs: there a thread with many makes the others wait, as the workgroups are
/// fewer than the units.
const ITEMS: u32 = 256;
const GPU_ITEMS: u32 = 16;

/// Sums of squares, four elements at a time.
pub static SUM_SQUARES: Kernel =
    Kernel::new("sum_squares", wgsl!["lib/pack_four.wgsl", "norm.wgsl"]).params::<SumParams>();
/// Sums of squares, one element at a time.
pub static SUM_SQUARES_SCALAR: Kernel = Kernel::new("sum_squares_scalar", wgsl!["lib/pack_scalar.wgsl", "norm.wgsl"])
    .entry("sum_squares")
    .params::<SumParams>();
/// Sums of squares over workgroups, four elements at a time.
pub static SUM_SQUARES_WORKGROUP: Kernel =
    Kernel::new("sum_squares_workgroup", wgsl!["lib/pack_four.wgsl", "norm.wgsl"]).params::<SumParams>();
/// Sums of squares over workgroups, one element at a time.
pub static SUM_SQUARES_WORKGROUP_SCALAR: Kernel =
    Kernel::new("sum_squares_workgroup_scalar", wgsl!["lib/pack_scalar.wgsl", "norm.wgsl"])
        .entry("sum_squares_workgroup")
        .params::<SumParams>();
/// The norm and the factor from the partial sums.
pub static CLIP_SCALE: Kernel = Kernel::new("clip_scale", wgsl!["clip.wgsl"]).params::<ClipParams>();

/// The norm and the factor for gradients of a scaled loss, and the loss scale's next value.
pub static CLIP_LOSS_SCALE: Kernel = Kernel::new("clip_loss_scale", wgsl!["clip.wgsl"]).params::<ClipParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all: Vec<Variant> = vec![(&CLIP_SCALE).into(), (&CLIP_LOSS_SCALE).into()];
    for kernel in [&SUM_SQUARES, &SUM_SQUARES_SCALAR] {
        all.push(kernel.into());
        all.push(Variant { kernel, constants: vec![("WG", 8.0), ("STRETCHES", 1.0), ("COLUMNS", 1.0)] });
    }
    for kernel in [&SUM_SQUARES_WORKGROUP, &SUM_SQUARES_WORKGROUP_SCALAR] {
        all.push(kernel.into());
        all.push(Variant { kernel, constants: vec![("COLUMNS", 1.0)] });
    }
    all
}

crate::params! {
    struct SumParams { packs: u32, first_slot: u32, columns: u32, first_column: u32, weight: f32 }
}

crate::params! {
    struct ClipParams {
        slots: u32,
        /// Good steps after which the loss scale doubles.
        every: u32,
        clip: f32,
    }
}

/// The factor on the loss that keeps f16 gradients above f16's smallest numbers, on the device (Micikevicius et al. 2018,
/// arXiv 1710.03740, in PyTorch's `GradScaler` form): halved where the gradients overflow, which skips the step; doubled
/// after a number of good steps.
#[derive(Clone, Debug)]
pub struct LossScale {
    /// `[scale, good steps since it changed, skipped steps, 0]`: what a checkpoint keeps.
    pub state: Tensor,
    /// Good steps after which the scale doubles.
    pub every: u32,
}

impl LossScale {
    /// A scale that begins at `first`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(gpu: &Gpu, first: f32, every: u32) -> Result<Self> {
        let state = Tensor::persistent(gpu, [4], DType::F32)?;
        state.write_f32(&[first, 0.0, 0.0, 0.0])?;
        Ok(Self { state, every })
    }
}

/// The terms of the norm: signed sums of squares of tensors.
#[derive(Debug, Default)]
pub struct GradientNorm {
    terms: Vec<Term>,
    /// Terms that are added as they are.
    sums: Vec<Tensor>,
}

#[derive(Debug)]
struct Term {
    x: Tensor,
    weight: f32,
    /// Length of a row and its first column that counts.
    columns: (usize, usize),
}

impl GradientNorm {
    /// Nothing yet: a norm of zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `weight |x|^2`.
    pub fn add(&mut self, weight: f32, x: &Tensor) {
        self.add_columns(weight, x, 0);
    }

    /// Adds `weight |x[.., first..]|^2`: of the last dimension only the columns from `first` on.
    pub fn add_columns(&mut self, weight: f32, x: &Tensor, first: usize) {
        if x.numel() > 0 {
            self.terms.push(Term { x: x.clone(), weight, columns: (x.cols(), first) });
        }
    }

    /// Adds the sum of `x`, for squares that another pass has summed up in part.
    pub(crate) fn add_sums(&mut self, x: &Tensor) {
        self.sums.push(x.clone());
    }

    /// Records the reduction into `clip: [4]` = `[norm, scale, failed, 0]`. `limit` is the largest norm that is let
    /// through, 0 for no limit (`scale` is 1). Where the norm is NaN or infinite, `failed` is 1, `scale` 0 and `norm` its
    /// square.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Shape`] when the partial sums exceed a binding.
    pub fn finish(self, limit: f32, clip: &Tensor) -> Result<()> {
        self.finish_scaled(limit, None, clip)
    }

    /// As [`GradientNorm::finish`] for gradients that are too large by the loss scale, which `norm` leaves out and `scale`
    /// takes out. The last number of `clip` is then the loss scale of this step, and `scaling` gets that of the next.
    ///
    /// # Errors
    /// As [`GradientNorm::finish`].
    pub fn finish_scaled(self, limit: f32, scaling: Option<&LossScale>, clip: &Tensor) -> Result<()> {
        let gpu = clip.gpu();
        let mut launches = Vec::new();
        let mut slots = 0;
        let threads = stretch::geometry(gpu).0;
        // Of each launch: the kernels for packs of four and of one, packs of a thread, and slots of a workgroup.
        let (kernels, items, slots_of_group): ([&'static Kernel; 2], _, _) = match gpu.tier() {
            Tier::Gpu => ([&SUM_SQUARES_WORKGROUP, &SUM_SQUARES_WORKGROUP_SCALAR], GPU_ITEMS, 1),
            Tier::Software | Tier::Plain => ([&SUM_SQUARES, &SUM_SQUARES_SCALAR], ITEMS, threads),
        };
        for Term { x, weight, columns } in &self.terms {
            let (x, columns) = if columns.1 == 0 {
                (x.reshape([x.numel()])?, (1, 0))
            } else {
                (x.reshape([x.rows(), x.cols()])?, *columns)
            };
            let whole = columns.1 == 0;
            let packed = if whole { x.numel().is_multiple_of(4) } else { (columns.0 | columns.1).is_multiple_of(4) };
            let (kernel, width) = if packed { (kernels[0], 4) } else { (kernels[1], 1) };
            for range in Parts::new("gradient norm", x.dims()[0]).sliced(gpu, &[columns.0]).ranges()? {
                let x = x.slice(range)?;
                let packs = x.numel() / width;
                let groups = packs.div_ceil((threads * items) as usize);
                let params = SumParams {
                    packs: packs as u32,
                    first_slot: slots as u32,
                    columns: columns.0.div_ceil(width) as u32,
                    first_column: (columns.1 / width) as u32,
                    weight: *weight,
                };
                slots += groups * slots_of_group as usize;
                launches.push((kernel, x, params, packs, whole));
            }
        }
        let first_sum = slots;
        slots += self.sums.iter().map(Tensor::numel).sum::<usize>();
        let partials = Tensor::zeros(gpu, [slots.max(1)])?;
        if partials.bytes() > gpu.max_binding_bytes() {
            let expected = format!("partial sums within {} bytes", gpu.max_binding_bytes());
            return Err(Error::shape("gradient norm", expected, format!("{} bytes", partials.bytes())));
        }
        for (kernel, x, params, packs, whole) in &launches {
            let launch =
                stretch::launch_of(gpu, kernel, items, *packs).constant("COLUMNS", u32::from(!whole)).params(params);
            launch.read("x", x).write("partials", &partials).run(gpu)?;
        }
        let mut slot = first_sum;
        for sums in &self.sums {
            partials.slice(slot..slot + sums.numel())?.copy_from(sums)?;
            slot += sums.numel();
        }
        let params = ClipParams { slots: partials.numel() as u32, every: scaling.map_or(0, |s| s.every), clip: limit };
        let launch = match scaling {
            Some(scaling) => Launch::new(&CLIP_LOSS_SCALE).write("scaling", &scaling.state),
            None => Launch::new(&CLIP_SCALE),
        };
        launch.params(&params).read("partials", &partials).write("clip", clip).run(gpu)
    }
}
