//! The time of each way to compute a product.

use std::time::{Duration, Instant};

use super::product::Product;
use crate::error::Result;
use crate::gpu::{Gpu, Measured};
use crate::kernels::cuts::name;

/// The time of one way to compute a product.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The product.
    pub product: Product,
    /// Its number, see [`name`].
    pub shape: usize,
    /// Parts of the sums.
    pub splits: usize,
    /// The fastest run.
    pub seconds: f64,
}

impl Timing {
    /// Operations a second.
    pub fn flops(&self) -> f64 {
        self.product.flop() / self.seconds
    }

    pub(super) fn measured(&self) -> Measured {
        let Product { form, m, n, k, batch, f16 } = self.product;
        let (shape, microseconds) = (name(self.shape), self.seconds * 1e6);
        Measured { form: form.name().into(), m, n, k, batch, f16, shape, splits: self.splits, microseconds }
    }
}

/// The clock by which runs are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The device's, by timestamps around the dispatches: recording and submission are left out.
    Device,
    /// The host's, around as many runs as take [`LEAST`], with a wait at the end.
    Host,
}

/// Seconds for which the host's clock runs, so that a submission and a wait are a small part of it.
const LEAST: f64 = 2e-3;
/// Runs that the host's clock times together, at most.
const MOST_REPEATS: f64 = 64.0;

impl Clock {
    /// The device's clock where it has timestamps that can tell the time of this work, which runs once; else the host's.
    pub(super) fn of(gpu: &Gpu, run: &mut dyn FnMut(usize) -> Result<()>) -> Result<Self> {
        let tells = gpu.adapter().timestamps && Clock::Device.times(gpu, 1, run)?[0] > 0.0;
        Ok(if tells { Clock::Device } else { Clock::Host })
    }

    /// Seconds of each of `count` works, of which `run` records one.
    pub(super) fn times(self, gpu: &Gpu, count: usize, run: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<f64>> {
        if self == Clock::Host {
            let mut together = |work: usize, repeats: usize| {
                let began = Instant::now();
                (0..repeats).try_for_each(|_| run(work))?;
                pollster::block_on(gpu.finish())?;
                Ok(began.elapsed().as_secs_f64() / repeats as f64)
            };
            let time = |work: usize| {
                let once = together(work, 1)?;
                let repeats = (LEAST / once.max(1e-9)).min(MOST_REPEATS).ceil() as usize;
                if repeats < 2 { Ok(once) } else { together(work, repeats) }
            };
            return (0..count).map(time).collect();
        }
        gpu.start_profile()?;
        let mut dispatches = Vec::new();
        for work in 0..count {
            let before = gpu.counters().dispatches;
            run(work)?;
            dispatches.push((gpu.counters().dispatches - before) as usize);
        }
        let mut trace = pollster::block_on(gpu.finish_trace())?.into_iter();
        let seconds = |count: usize| {
            let run: Vec<_> = trace.by_ref().take(count).collect();
            run.last().map_or(0.0, |d| d.end) - run.first().map_or(0.0, |d| d.begin)
        };
        Ok(dispatches.into_iter().map(seconds).collect())
    }
}

/// Runs of each way, at most.
const MOST_ROUNDS: usize = 20;
/// Ways that are compiled between two looks at the clock, at most.
const AT_ONCE: usize = 8;
/// How long a GPU is kept busy before a product is timed.
const WARM_UP: Duration = Duration::from_millis(80);

/// Times a product in every shape, those that `until` leaves time for; the fastest first.
///
/// # Errors
/// [`crate::Error::Device`].
pub(super) fn measure(gpu: &Gpu, product: Product, until: Instant) -> Result<Vec<Timing>> {
    let mut record = product.operands(gpu)?.record;
    let mut run = |(shape, splits): (usize, usize)| {
        let _forced = gpu.forced(shape, splits);
        record()
    };
    // Compiled, and once run, before anything is timed; a few at a time, as they compile side by side.
    let (mut ways, all) = (Vec::new(), product.ways(gpu));
    while ways.len() < all.len() && (ways.is_empty() || Instant::now() < until) {
        // One, to see how long it takes, then as many as there are already.
        let some = &all[ways.len()..(2 * ways.len()).clamp(1, ways.len() + AT_ONCE).min(all.len())];
        some.iter().try_for_each(|&way| run(way))?;
        pollster::block_on(gpu.finish())?;
        ways.extend_from_slice(some);
    }
    let clock = Clock::of(gpu, &mut |i| run(ways[i]))?;
    let mut best = vec![f64::INFINITY; ways.len()];
    for round in 0..MOST_ROUNDS {
        if round > 0 && Instant::now() >= until {
            break;
        }
        // A GPU that had nothing to do, as while kernels compiled, runs several times slower at first.
        let began = Instant::now();
        let busy = if round == 0 { WARM_UP } else { WARM_UP / 8 };
        while !gpu.adapter().is_software() && began.elapsed() < busy {
            (0..32).try_for_each(|_| run(ways[0]))?;
            pollster::block_on(gpu.finish())?;
        }
        let times = clock.times(gpu, ways.len(), &mut |i| run(ways[i]))?;
        best.iter_mut().zip(times).for_each(|(best, seconds)| *best = best.min(seconds.max(1e-9)));
    }
    let timing = |((shape, splits), seconds)| Timing { product, shape, splits, seconds };
    let mut timings: Vec<_> = ways.into_iter().zip(best).map(timing).collect();
    timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(timings)
}
