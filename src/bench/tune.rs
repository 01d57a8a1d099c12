//! Which shape of tile is the fastest for products of which size on this adapter, by timestamps around each dispatch.

use serde::Serialize;

use super::case::Record;
use super::ceiling::{product_flop, random};
use super::products::groups;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::grouped::{grouped_gemm, grouped_weight_gradient};
use crate::kernels::shapes::{SHAPES, Shape};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `A B`.
    Nn,
    /// `A B^T`.
    Nt,
    /// `A^T B`.
    Tn,
    /// Rows of `batch` experts with the expert's matrix each.
    Grouped,
    /// The experts' weight gradients.
    Gradient,
}

/// A product: C is m x n, the sums have k terms, `batch` times.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Product {
    /// The form.
    pub form: Form,
    /// Rows of C; of all experts together where grouped.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Terms of a sum; of all experts together in a gradient.
    pub k: usize,
    /// Matrices, or experts.
    pub batch: usize,
}

/// What one way took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// Of which product.
    pub product: Product,
    /// Index in [`SHAPES`].
    pub shape: usize,
    /// Parts of the sums.
    pub splits: usize,
    /// Of one run, the fastest.
    pub seconds: f64,
}

impl Timing {
    /// Operations a second.
    pub fn flops(&self) -> f64 {
        let Product { form, m, n, k, batch } = self.product;
        let times = if matches!(form, Form::Grouped | Form::Gradient) { 1 } else { batch };
        product_flop(m, k, n) * times as f64 / self.seconds
    }
}

/// The products that are measured.
pub fn products() -> Vec<Product> {
    use Form::{Gradient, Grouped, Nn, Nt, Tn};
    let list = [
        (Nn, 4096, 4096, 4096, 1),
        (Nt, 4096, 4096, 4096, 1),
        (Tn, 4096, 4096, 4096, 1),
        (Nn, 2048, 2048, 2048, 1),
        (Nn, 1024, 1024, 1024, 1),
        (Nt, 1024, 1024, 1024, 1),
        (Nn, 512, 512, 512, 1),
        (Nn, 4096, 512, 512, 1),
        (Tn, 512, 512, 4096, 1),
        (Nn, 2048, 256, 256, 1),
        (Nt, 2048, 256, 256, 1),
        (Tn, 256, 256, 2048, 1),
        (Nn, 2048, 1024, 256, 1),
        (Tn, 1024, 1024, 2048, 1),
        (Nn, 2048, 8, 256, 1),
        (Tn, 256, 8, 2048, 1),
        (Nn, 256, 4, 512, 8),
        (Tn, 4, 512, 256, 8),
        (Nn, 512, 512, 8, 8),
        (Nn, 1, 1024, 1024, 1),
        (Nt, 16, 4096, 1024, 1),
        (Grouped, 4096, 512, 512, 8),
        (Grouped, 4096, 256, 704, 64),
        (Gradient, 512, 512, 4096, 8),
        (Gradient, 256, 512, 4096, 64),
    ];
    list.into_iter().map(|(form, m, n, k, batch)| Product { form, m, n, k, batch }).collect()
}

impl Product {
    fn make(&self, gpu: &Gpu) -> Result<Record> {
        let Product { form, m, n, k, batch } = *self;
        let dense = |ta: Trans, tb: Trans| {
            let shape = |t, r, c| if t == Trans::N { [batch, r, c] } else { [batch, c, r] };
            let (a, b) = (random(gpu, &shape(ta, m, k))?, random(gpu, &shape(tb, k, n))?);
            let c = random(gpu, &[batch, m, n])?;
            Ok(Box::new(move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c)) as Record)
        };
        match form {
            Form::Nn => dense(Trans::N, Trans::N),
            Form::Nt => dense(Trans::N, Trans::T),
            Form::Tn => dense(Trans::T, Trans::N),
            Form::Grouped => {
                let groups = groups(gpu, &vec![m / batch; batch])?;
                let (x, y) = (random(gpu, &[groups.capacity, k])?, random(gpu, &[groups.capacity, n])?);
                let w = random(gpu, &[batch, k, n])?;
                Ok(Box::new(move || grouped_gemm(&x, &w, Trans::N, &groups, &y)))
            }
            Form::Gradient => {
                let groups = groups(gpu, &vec![k / batch; batch])?;
                let (x, y) = (random(gpu, &[groups.capacity, m])?, random(gpu, &[groups.capacity, n])?);
                let w = random(gpu, &[batch, m, n])?;
                Ok(Box::new(move || grouped_weight_gradient(&x, &y, &groups, 0.0, &w)))
            }
        }
    }

    /// Every way to compute it that is not hopeless: each shape, the sums cut where C has few tiles.
    fn ways(&self) -> Vec<(usize, usize)> {
        let Product { form, m, n, k, batch } = *self;
        let grouped = matches!(form, Form::Grouped | Form::Gradient);
        let ways = |(index, shape): (usize, &Shape)| {
            let tiles = shape.tiles(m, n) * if form == Form::Grouped { 1 } else { batch };
            let worth = |&splits: &usize| splits == 1 || !grouped && tiles * splits <= 2048 && k / splits >= 32;
            [1, 2, 4, 8, 16].into_iter().filter(worth).map(|splits| (index, splits)).collect::<Vec<_>>()
        };
        SHAPES.iter().enumerate().filter(|(_, s)| form != Form::Grouped || 64 % s.rows == 0).flat_map(ways).collect()
    }
}

/// Times a product in every shape.
///
/// # Errors
/// [`crate::Error::Device`], where there are no timestamps, too.
pub fn measure(gpu: &Gpu, product: Product, rounds: usize) -> Result<Vec<Timing>> {
    let mut record = product.make(gpu)?;
    let ways = product.ways();
    // Compiled, and once run, before anything is timed.
    for &(shape, splits) in &ways {
        gpu.force_shape(Some((shape as u32, splits as u32)));
        record()?;
    }
    pollster::block_on(gpu.finish())?;
    gpu.start_profile()?;
    let mut counts = Vec::new();
    for _ in 0..rounds {
        for &(shape, splits) in &ways {
            gpu.force_shape(Some((shape as u32, splits as u32)));
            let before = gpu.counters().dispatches;
            record()?;
            counts.push((gpu.counters().dispatches - before) as usize);
        }
    }
    gpu.force_shape(None);
    let mut trace = pollster::block_on(gpu.finish_trace())?.into_iter();
    let mut best = vec![f64::INFINITY; ways.len()];
    for (i, count) in counts.into_iter().enumerate() {
        let run: Vec<_> = trace.by_ref().take(count).collect();
        let seconds = run.last().map_or(0.0, |d| d.end) - run.first().map_or(0.0, |d| d.begin);
        let best = &mut best[i % ways.len()];
        *best = best.min(seconds);
    }
    let timing = |((shape, splits), seconds)| Timing { product, shape, splits, seconds };
    Ok(ways.into_iter().zip(best).map(timing).collect())
}
