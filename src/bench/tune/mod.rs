//! Which shape is the fastest for products of which size on this adapter, and which family of kernels.

mod clock;
mod family;
mod product;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use clock::Timing;
pub use family::{Family, families};
pub use product::Product;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions, Measured, Tier, keep_shapes};
use crate::kernels::cuts::name;

/// When [`open`] measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tune {
    /// Never: what was measured before is used, and else a table.
    #[default]
    Off,
    /// Where nothing was measured yet with this adapter, driver and version.
    WhenMissing,
    /// Each time.
    Always,
}

/// Runs of a product of which one way is timed: to compile it, to choose the clock, and to time it.
const LEAST_RUNS: f64 = 3.0;

/// How long to measure.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Opens a device, as [`Gpu::open`] does, after timing the shapes of its products if `tune` asks for that: for about `limit`
/// ([`LIMIT`] suits most), after calling `begins`. The choices are kept in the folder [`GpuOptions::tuned`] if there is one.
/// Nothing is measured where there is nothing to choose: the kernels of other families than [`Tier::Gpu`] come in one shape.
/// Blocks while it measures.
///
/// A failure to measure or to write is logged, and leaves the choice to the table.
///
/// # Errors
/// As [`Gpu::open`].
pub fn open(options: &GpuOptions, tune: Tune, limit: Duration, begins: impl FnOnce(&Gpu)) -> Result<Gpu> {
    let gpu = pollster::block_on(Gpu::open(options))?;
    let wanted = match tune {
        Tune::Off => false,
        Tune::WhenMissing => !gpu.has_measured_shapes(),
        Tune::Always => true,
    };
    if !wanted || gpu.tier() != Tier::Gpu {
        return Ok(gpu);
    }
    begins(&gpu);
    let kept = choose(&gpu, limit, |_| Ok(())).and_then(|kept| gpu.trim().map(|()| kept));
    match kept {
        Ok(kept) if kept.is_empty() => Ok(gpu),
        Ok(kept) => {
            gpu.use_measured_shapes(kept.clone());
            let written = options.tuned.as_deref().map(|folder| keep_shapes(folder, gpu.adapter(), kept));
            if let Some(Err(error)) = written {
                log::warn!("the shapes that were measured are not kept: {error}");
            }
            Ok(gpu)
        }
        // The device may be what failed.
        Err(error) => {
            log::warn!("{}: products could not be timed: {error}", gpu.adapter().name);
            drop(gpu);
            pollster::block_on(Gpu::open(options))
        }
    }
}

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
/// that file, whose path is returned; where there was no time for any product it stays as it is. Times are the device's, by
/// timestamps; where there are none, the host's.
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
    let folder = folder.filter(|_| !kept.is_empty());
    folder.map(|folder| keep_shapes(folder, gpu.adapter(), kept)).transpose()
}

/// Times products, and returns the fastest way of each that is right.
fn choose(gpu: &Gpu, limit: Duration, mut tell: impl FnMut(&Tuned) -> Result<()>) -> Result<Vec<Measured>> {
    let began = Instant::now();
    let all = product::products(gpu.cooperative_matrix());
    let mut kept = Vec::new();
    // Operations a second, of the fastest product in f32 and in f16 so far.
    let mut rates = [f64::INFINITY; 2];
    for (i, &product) in all.iter().enumerate() {
        let rate = &mut rates[usize::from(product.f16)];
        let left = limit.saturating_sub(began.elapsed());
        // Not one that would overrun the limit by itself: it runs three times at least.
        if left.as_secs_f64() <= LEAST_RUNS * product.flop() / *rate {
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
            let shape = name(timing.shape);
            log::warn!(
                "{product}: {shape}, {} parts, is wrong on this adapter: {error:.1} times what f32 allows",
                timing.splits
            );
        }
        let fastest = timings.iter().map(Timing::flops).fold(0.0, f64::max);
        *rate = if rate.is_finite() { rate.max(fastest) } else { fastest };
        kept.extend(chosen.map(|place| timings[place].measured()));
        tell(&Tuned { timings, chosen })?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::shapes::Form;

    #[test]
    fn a_product_finds_what_was_measured_for_it() {
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default().tier(Tier::Gpu))).unwrap();
        // 64 x 64 with 8 x 8 a thread, which the table has for none of these.
        let shape = 6;
        for (form, m, k, batch) in
            [(Form::Nn, 64, 64, 1), (Form::Tn, 32, 256, 4), (Form::Grouped, 512, 64, 8), (Form::Gradient, 64, 512, 8)]
        {
            let product = Product { form, m, n: 32, k, batch, f16: false };
            let mut record = product.operands(&gpu).unwrap().record;
            let mut kernel = || {
                gpu.start_profile().unwrap();
                record().unwrap();
                pollster::block_on(gpu.finish_trace()).unwrap()[0].kernel
            };
            let by_table = kernel();
            let timing = Timing { product, shape, splits: 1, seconds: 1e-6 };
            gpu.use_measured_shapes(vec![timing.measured()]);
            let measured = kernel();
            assert!(
                measured.contains("_8x8") && by_table != measured,
                "{product}: {measured}, {by_table} by the table"
            );
            gpu.use_measured_shapes(Vec::new());
        }
    }
}
