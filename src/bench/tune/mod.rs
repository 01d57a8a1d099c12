//! Which shape is the fastest for products of which size on this adapter.

mod clock;
mod product;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use clock::Timing;
pub use product::Product;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Measured, Tier, keep_shapes};
use crate::kernels::shapes::SHAPES;

/// Runs of a product of which one way is timed: to compile it, to choose the clock, and to time it.
const LEAST_RUNS: f64 = 3.0;

/// A product that was measured in every shape.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// Every way that was measured, the fastest first.
    pub timings: Vec<Timing>,
    /// Which of them is used: the fastest whose results are right.
    pub chosen: Option<usize>,
}

/// Times products in every shape for at most about `limit`, reports each as it is done, and keeps the fastest whose
/// results agree with f64 in the adapter's file in `folder`, where one is named. [`crate::gpu::GpuOptions::tuned`] uses
/// that file. Times are the device's, by timestamps; where there are none, the host's.
///
/// # Errors
/// [`Error::Device`], also where there are no shapes to choose from (see [`Tier`]); [`Error::Io`].
pub fn tune(
    gpu: &Gpu,
    limit: Duration,
    folder: Option<&Path>,
    tell: impl FnMut(&Tuned) -> Result<()>,
) -> Result<Option<PathBuf>> {
    if gpu.tier() != Tier::Gpu {
        let name = &gpu.adapter().name;
        let message =
            format!("{name}: its {} kernels come in one shape, there is nothing to choose", gpu.tier().name());
        return Err(Error::Device(message));
    }
    let kept = choose(gpu, limit, tell)?;
    folder.map(|folder| keep_shapes(folder, gpu.adapter(), kept)).transpose()
}

/// Times products, and returns the fastest way of each that is right.
fn choose(gpu: &Gpu, limit: Duration, mut tell: impl FnMut(&Tuned) -> Result<()>) -> Result<Vec<Measured>> {
    let began = Instant::now();
    let all = product::products();
    let mut kept = Vec::new();
    // Operations a second, of the fastest product so far.
    let mut rate = f64::INFINITY;
    for (i, &product) in all.iter().enumerate() {
        let left = limit.saturating_sub(began.elapsed());
        // Not one that would overrun the limit by itself: it runs three times at least.
        if left.as_secs_f64() <= LEAST_RUNS * product.flop() / rate {
            continue;
        }
        // The rest of the time in equal parts; what one does not use goes to the others.
        let timings = clock::measure(gpu, product, Instant::now() + left / (all.len() - i) as u32)?;
        let mut chosen = None;
        for (place, timing) in timings.iter().enumerate() {
            let error = product.check(gpu, (timing.shape, timing.splits))?;
            if error <= 1.0 {
                chosen = Some(place);
                break;
            }
            let shape = SHAPES[timing.shape];
            log::warn!(
                "{product}: {shape}, {} parts, is wrong on this adapter: {error:.1} times what f32 allows",
                timing.splits
            );
        }
        let fastest = timings.iter().map(Timing::flops).fold(0.0, f64::max);
        rate = if rate.is_finite() { rate.max(fastest) } else { fastest };
        kept.extend(chosen.map(|place| timings[place].measured()));
        tell(&Tuned { timings, chosen })?;
    }
    Ok(kept)
}
