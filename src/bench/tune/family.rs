//! Which family of kernels computes products fastest on an adapter.

use std::time::{Duration, Instant};

use super::clock::Clock;
use super::product::Product;
use crate::error::Result;
use crate::gpu::{AdapterChoice, Gpu, GpuOptions, Tier};
use crate::kernels::shapes::Form;

/// How fast a family of kernels computes products.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Family {
    /// The family.
    pub tier: Tier,
    /// Its time over that of the family which the adapter gets, geometric mean over the products.
    pub ratio: f64,
}

/// The products of small training steps.
const PRODUCTS: [Product; 5] = [
    Product { form: Form::Nn, m: 1024, n: 256, k: 256, batch: 1, f16: false },
    Product { form: Form::Grouped, m: 1024, n: 256, k: 256, batch: 8, f16: false },
    Product { form: Form::Gradient, m: 256, n: 256, k: 1024, batch: 8, f16: false },
    Product { form: Form::Nt, m: 1024, n: 256, k: 256, batch: 1, f16: false },
    Product { form: Form::Tn, m: 256, n: 256, k: 1024, batch: 1, f16: false },
];
/// Runs of each product, of which the fastest counts.
const ROUNDS: usize = 5;

/// Times the products of small training steps in every family of kernels that the adapter of `own` can run, whose
/// `options` are those of the others' devices; the fastest family first. Each is timed in the shapes that it would choose. After
/// `limit` no further product is timed.
///
/// # Errors
/// As [`Gpu::open`].
pub fn families(own: &Gpu, options: &GpuOptions, limit: Duration) -> Result<Vec<Family>> {
    let until = Instant::now() + limit;
    let adapter = own.adapter();
    let mut gpus = vec![own.clone()];
    for tier in Tier::ALL.into_iter().filter(|&tier| tier != own.tier() && adapter.runs(tier)) {
        // Matrix units are of one family; the others cannot be opened with them.
        let adapter = AdapterChoice::Index(adapter.index);
        let options = GpuOptions { adapter, tier: Some(tier), matrix_units: false, ..options.clone() };
        gpus.push(pollster::block_on(Gpu::open(&options))?);
    }
    let (mut sums, mut count) = (vec![0.0; gpus.len()], 0.0);
    for product in PRODUCTS {
        let times = times(&gpus, product)?;
        sums.iter_mut().zip(&times).for_each(|(sum, time)| *sum += (time / times[0]).ln());
        count += 1.0;
        if Instant::now() >= until {
            break;
        }
    }
    let family = |(gpu, sum): (&Gpu, f64)| Family { tier: gpu.tier(), ratio: (sum / count).exp() };
    let mut families: Vec<Family> = gpus.iter().zip(sums).map(family).collect();
    families.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    Ok(families)
}

/// Seconds of a product on each device, the fastest of some runs in turn.
fn times(gpus: &[Gpu], product: Product) -> Result<Vec<f64>> {
    let mut best = vec![f64::INFINITY; gpus.len()];
    let mut works = Vec::new();
    for gpu in gpus {
        let mut record = product.operands(gpu)?.record;
        // Compiles.
        record()?;
        pollster::block_on(gpu.finish())?;
        let clock = Clock::of(gpu, &mut |_| record())?;
        works.push((gpu, clock, record));
    }
    for _ in 0..ROUNDS {
        for (best, (gpu, clock, record)) in best.iter_mut().zip(&mut works) {
            *best = best.min(clock.times(gpu, 1, &mut |_| record())?[0].max(1e-9));
        }
    }
    Ok(best)
}
