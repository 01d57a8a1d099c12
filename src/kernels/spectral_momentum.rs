//! Muon's momentum for decoupled matrices, with the gradient's common part added or removed on the way, in the geometry of
//! [`super::spectral_update`].

use super::spectral_update::{over_rows, packs};
use crate::error::Result;
use crate::gpu::{Kernel, wgsl};
use crate::kernels::Variant;
use crate::kernels::decoupled::{Basis, Mix, sizes};
use crate::kernels::stack_parts::stack_parts;
use crate::tensor::Tensor;

/// The momentum, four columns at a time.
pub static SPECTRAL_MOMENTUM: Kernel =
    Kernel::new("spectral_momentum", wgsl!["lib/pack_four.wgsl", "spectral_momentum.wgsl"]).params::<MomentumParams>();
/// The momentum, for a number of columns that 4 does not divide.
pub static SPECTRAL_MOMENTUM_SCALAR: Kernel =
    Kernel::new("spectral_momentum_scalar", wgsl!["lib/pack_scalar.wgsl", "spectral_momentum.wgsl"])
        .entry("spectral_momentum")
        .params::<MomentumParams>();

/// This module's kernels.
pub fn kernels() -> Vec<Variant> {
    let mut all = Vec::new();
    for (common, full) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        for kernel in [&SPECTRAL_MOMENTUM, &SPECTRAL_MOMENTUM_SCALAR] {
            let constants = vec![("WG", 64.0), ("RANK", 8.0), ("COMMON", common), ("FULL", full)];
            all.push(Variant { kernel, constants });
        }
    }
    all
}

crate::params! {
    struct MomentumParams {
        matrices: u32,
        rows: u32,
        packs: u32,
        experts: u32,
        on_full: f32,
        on_common: f32,
        momentum: f32,
    }
}

/// Records `M = momentum M + G` for the stack `mean` = M and the gradient `mix` of X = `gradient`, multiplied by the scale in
/// `clip`; `momentum M + G` (Nesterov) replaces `gradient`. Nothing changes where `clip` says that the norm is not finite.
///
/// # Errors
/// `Error::Shape` when the sizes do not fit; `Error::Device`.
pub fn nesterov(
    gradient: &Tensor,
    mean: &Tensor,
    mix: Mix<'_>,
    basis: &Basis,
    momentum: f32,
    clip: &Tensor,
) -> Result<()> {
    let shape = sizes("spectral momentum", gradient)?;
    let [_, experts, _, n] = shape;
    let k = basis.rank();
    for part in stack_parts(clip.gpu(), "spectral momentum", shape, &[2 * k], &[k * n], &[k * n])? {
        let params = MomentumParams {
            matrices: part.count() as u32,
            rows: part.rows.len() as u32,
            packs: packs(n) as u32,
            experts: experts as u32,
            on_full: mix.full,
            on_common: mix.factor(),
            momentum,
        };
        let (g, m) = (part.rows(gradient)?, part.rows(mean)?);
        over_rows([&SPECTRAL_MOMENTUM, &SPECTRAL_MOMENTUM_SCALAR], &part, n, (mix, mix.full != 0.0), basis, clip)?
            .params(&params)
            .write("gradient", &g)
            .write("mean", &m)
            .run(clip.gpu())?;
        part.store(gradient, &g)?;
        part.store(mean, &m)?;
    }
    Ok(())
}
