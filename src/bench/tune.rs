//! Which shape is the fastest for products of which size on this adapter, by timestamps around each dispatch.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::case::Record;
use super::ceiling::{product_flop, random};
use super::products::{groups, operands};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Measured, Tier, keep_shapes};
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::grouped::{grouped_gemm, grouped_weight_gradient};
use crate::kernels::shapes::{Form, SHAPES, Shape};
use crate::tensor::Tensor;

/// A product: C is m x n, the sums have k terms, `batch` times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// The form.
    pub form: Form,
    /// Rows of C; of all experts together where they are grouped.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of a sum; of all experts together in a gradient.
    pub k: usize,
    /// Matrices, or experts.
    pub batch: usize,
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Product { form, m, n, k, batch } = self;
        write!(f, "{} {m} x {n} x {k}", form.name())?;
        if *batch == 1 { Ok(()) } else { write!(f, " of {batch}") }
    }
}

/// The time of one way to compute a product.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The product.
    pub product: Product,
    /// Index in [`SHAPES`].
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

    fn measured(&self) -> Measured {
        let Product { form, m, n, k, batch } = self.product;
        let (shape, microseconds) = (SHAPES[self.shape].to_string(), self.seconds * 1e6);
        Measured { form: form.name().into(), m, n, k, batch, shape, splits: self.splits, microseconds }
    }
}

/// The products that are measured, those of training steps first.
pub(crate) fn products() -> Vec<Product> {
    use Form::{Gradient, Grouped, Nn, Nt, Tn};
    let list = [
        (Nn, 2048, 256, 256, 1),
        (Nt, 2048, 256, 256, 1),
        (Tn, 256, 256, 2048, 1),
        (Grouped, 4096, 512, 512, 8),
        (Gradient, 512, 512, 4096, 8),
        (Nn, 1024, 1024, 1024, 1),
        (Nt, 1024, 1024, 1024, 1),
        (Tn, 1024, 1024, 2048, 1),
        (Nn, 2048, 8, 256, 1),
        (Nt, 2048, 256, 8, 1),
        (Tn, 256, 8, 2048, 1),
        (Nn, 256, 4, 512, 8),
        (Tn, 4, 512, 256, 8),
        (Nn, 512, 512, 8, 8),
        (Nn, 512, 512, 512, 1),
        (Nn, 4096, 512, 512, 1),
        (Tn, 512, 512, 4096, 1),
        (Nn, 2048, 1024, 256, 1),
        (Nn, 1, 1024, 1024, 1),
        (Nt, 16, 4096, 1024, 1),
        (Grouped, 4096, 256, 704, 64),
        (Gradient, 256, 512, 4096, 64),
        (Nn, 2048, 2048, 2048, 1),
        (Nn, 4096, 4096, 4096, 1),
        (Nt, 4096, 4096, 4096, 1),
        (Tn, 4096, 4096, 4096, 1),
    ];
    list.into_iter().map(|(form, m, n, k, batch)| Product { form, m, n, k, batch }).collect()
}

/// Host data beside the device's, to check with.
struct Operands {
    a: Tensor,
    b: Tensor,
    c: Tensor,
    record: Record,
}

impl Product {
    fn grouped(&self) -> bool {
        matches!(self.form, Form::Grouped | Form::Gradient)
    }

    fn flop(&self) -> f64 {
        product_flop(self.m, self.k, self.n) * if self.grouped() { 1.0 } else { self.batch as f64 }
    }

    fn operands(&self, gpu: &Gpu) -> Result<Operands> {
        let Product { form, m, n, k, batch } = *self;
        let dense = |ta: Trans, tb: Trans| {
            let [a, b, c] = operands(gpu, ta, tb, batch, [m, k, n])?;
            let record = {
                let (a, b, c) = (a.clone(), b.clone(), c.clone());
                Box::new(move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c)) as Record
            };
            Ok(Operands { a, b, c, record })
        };
        let experts = |rows: usize| groups(gpu, &vec![rows / batch; batch]);
        match form {
            Form::Nn => dense(Trans::N, Trans::N),
            Form::Nt => dense(Trans::N, Trans::T),
            Form::Tn => dense(Trans::T, Trans::N),
            Form::Grouped => {
                let groups = experts(m)?;
                let (a, c) = (random(gpu, &[groups.capacity, k])?, random(gpu, &[groups.capacity, n])?);
                let b = random(gpu, &[batch, k, n])?;
                let (x, w, y) = (a.clone(), b.clone(), c.clone());
                let record = Box::new(move || grouped_gemm(&x, &w, Trans::N, &groups, &y));
                Ok(Operands { a, b, c, record })
            }
            Form::Gradient => {
                let groups = experts(k)?;
                let (a, b) = (random(gpu, &[groups.capacity, m])?, random(gpu, &[groups.capacity, n])?);
                let c = random(gpu, &[batch, m, n])?;
                let (x, y, w) = (a.clone(), b.clone(), c.clone());
                let record = Box::new(move || grouped_weight_gradient(&x, &y, &groups, 0.0, &w));
                Ok(Operands { a, b, c, record })
            }
        }
    }

    /// Every way to compute it that is not hopeless: each shape, the sums cut where C has few tiles.
    fn ways(&self) -> Vec<(usize, usize)> {
        let Product { form, m, n, k, batch } = *self;
        let ways = |(index, shape): (usize, &Shape)| {
            let tiles = shape.tiles(m, n) * batch;
            let worth = |&splits: &usize| splits == 1 || !self.grouped() && tiles * splits <= 1024 && k / splits >= 32;
            [1, 2, 4, 8, 16].into_iter().filter(worth).map(|splits| (index, splits)).collect::<Vec<_>>()
        };
        let suits = |shape: &Shape| form != Form::Grouped || 64 % shape.rows == 0;
        SHAPES.iter().enumerate().filter(|(_, shape)| suits(shape)).flat_map(ways).collect()
    }

    /// The largest error of a way on a small product of this form, as a share of what f32 allows: at most 1 where it is
    /// right.
    fn check(&self, gpu: &Gpu, (shape, splits): (usize, usize)) -> Result<f64> {
        // Beyond a tile in each dimension; the groups have whole tiles, which the reference counts on.
        let (m, n, k) = match self.form {
            Form::Grouped => (256, 132, 84),
            Form::Gradient => (132, 68, 256),
            _ => (132, 136, 140),
        };
        let batch = 2;
        let small = Product { m, n, k, batch, ..*self };
        let mut operands = small.operands(gpu)?;
        gpu.force_shape(Some((shape as u32, splits as u32)));
        let recorded = (operands.record)();
        gpu.force_shape(None);
        recorded?;
        let host = |x: &Tensor| pollster::block_on(x.to_f32());
        let (a, b, c) = (host(&operands.a)?, host(&operands.b)?, host(&operands.c)?);
        let mut worst: f64 = 0.0;
        for (matrix, i, j) in (0..batch).flat_map(|z| (0..m).flat_map(move |i| (0..n).map(move |j| (z, i, j)))) {
            let rows = |whole: usize| matrix * whole / batch;
            // The element of C, the terms of its sum, and where those are in A and B.
            let (at, terms) = match self.form {
                // C's rows are those of all experts.
                Form::Grouped if i * batch / m != matrix => continue,
                Form::Grouped => (i * n + j, 0..k),
                Form::Gradient => ((matrix * m + i) * n + j, rows(k)..rows(k) + k / batch),
                _ => ((matrix * m + i) * n + j, 0..k),
            };
            let (mut sum, mut size) = (0.0, 0.0);
            let count = terms.len();
            for t in terms {
                let (p, q) = match self.form {
                    Form::Nn => ((matrix * m + i) * k + t, (matrix * k + t) * n + j),
                    Form::Nt => ((matrix * m + i) * k + t, (matrix * n + j) * k + t),
                    Form::Tn => ((matrix * k + t) * m + i, (matrix * k + t) * n + j),
                    Form::Grouped => (i * k + t, (matrix * k + t) * n + j),
                    Form::Gradient => (t * m + i, t * n + j),
                };
                let term = f64::from(a[p]) * f64::from(b[q]);
                sum += term;
                size += term.abs();
            }
            // The error of a sum of so many f32 terms.
            let allowed = 2.0 * (count + 2) as f64 * 6e-8 * size;
            let error = (f64::from(c[at]) - sum).abs() / allowed;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
        Ok(worst)
    }
}

/// Runs of each way, at most.
const MOST_ROUNDS: usize = 20;
/// How long a GPU is kept busy before a product is timed.
const WARM_UP: Duration = Duration::from_millis(80);

/// Times a product in every shape, those that `until` leaves time for; the fastest first.
///
/// # Errors
/// [`Error::Device`], where there are no timestamps, too.
pub(crate) fn measure(gpu: &Gpu, product: Product, until: Instant) -> Result<Vec<Timing>> {
    let mut record = product.operands(gpu)?.record;
    let mut run = |(shape, splits): (usize, usize)| {
        gpu.force_shape(Some((shape as u32, splits as u32)));
        let recorded = record();
        gpu.force_shape(None);
        recorded
    };
    // Compiled, and once run, before anything is timed; a few at a time, as they compile side by side.
    let mut ways = Vec::new();
    for some in product.ways().chunks(8) {
        if !ways.is_empty() && Instant::now() >= until {
            break;
        }
        some.iter().try_for_each(|&way| run(way))?;
        pollster::block_on(gpu.finish())?;
        ways.extend_from_slice(some);
    }
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
        gpu.start_profile()?;
        let mut counts = Vec::new();
        for &way in &ways {
            let before = gpu.counters().dispatches;
            run(way)?;
            counts.push((gpu.counters().dispatches - before) as usize);
        }
        let mut trace = pollster::block_on(gpu.finish_trace())?.into_iter();
        for (best, count) in best.iter_mut().zip(counts) {
            let run: Vec<_> = trace.by_ref().take(count).collect();
            let seconds = run.last().map_or(0.0, |d| d.end) - run.first().map_or(0.0, |d| d.begin);
            *best = best.min(seconds.max(1e-9));
        }
    }
    let timing = |((shape, splits), seconds)| Timing { product, shape, splits, seconds };
    let mut timings: Vec<_> = ways.into_iter().zip(best).map(timing).collect();
    timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(timings)
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
/// that file.
///
/// # Errors
/// [`Error::Device`] where there are no timestamps, or no shapes to choose from (see [`Tier`]); [`Error::Io`].
pub fn tune(
    gpu: &Gpu,
    limit: Duration,
    folder: Option<&Path>,
    mut tell: impl FnMut(&Tuned) -> Result<()>,
) -> Result<Option<PathBuf>> {
    if gpu.tier() != Tier::Gpu {
        let name = &gpu.adapter().name;
        let message =
            format!("{name}: its {} kernels come in one shape, there is nothing to choose", gpu.tier().name());
        return Err(Error::Device(message));
    }
    let began = Instant::now();
    let all = products();
    let mut kept = Vec::new();
    for (i, &product) in all.iter().enumerate() {
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        // The rest of the time in equal parts; what one does not use goes to the others.
        let timings = measure(gpu, product, Instant::now() + left / (all.len() - i) as u32)?;
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
        kept.extend(chosen.map(|place| timings[place].measured()));
        tell(&Tuned { timings, chosen })?;
    }
    folder.map(|folder| keep_shapes(folder, gpu.adapter(), kept)).transpose()
}
