//! The products that are timed, and the ways to compute each.

use crate::bench::case::Record;
use crate::bench::ceiling::{product_flop, random, random_half};
use crate::bench::products::{groups, shapes};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::kernels::grouped::{grouped_gemm, grouped_weight_gradient};
use crate::kernels::matrix_shapes::MATRIX_SHAPES;
use crate::kernels::shapes::{Form, SHAPES};
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
    /// Whether A and B are f16, for matrix units.
    pub f16: bool,
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Product { form, m, n, k, batch, f16 } = self;
        write!(f, "{} {m} x {n} x {k}", form.name())?;
        if *batch > 1 {
            write!(f, " of {batch}")?;
        }
        if *f16 { write!(f, " in f16") } else { Ok(()) }
    }
}

/// The products that are measured, those of training steps first; with `matrix_units` each that they can take in f16, too.
pub(super) fn products(matrix_units: bool) -> Vec<Product> {
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
    let product = |(form, m, n, k, batch)| Product { form, m, n, k, batch, f16: false };
    let both = |product: Product| {
        let takes = matrix_units && product.m.min(product.n) > 16 && product.k >= 64;
        [Some(product), takes.then_some(Product { f16: true, ..product })].into_iter().flatten()
    };
    list.into_iter().map(product).flat_map(both).collect()
}

/// The shapes in registers, by number, that are timed beside those on matrix units.
const USUAL: [usize; 4] = [1, 5, 9, 13];

/// Host data beside the device's, to check with.
pub(super) struct Operands {
    a: Tensor,
    b: Tensor,
    c: Tensor,
    pub(super) record: Record,
}

impl Product {
    fn grouped(&self) -> bool {
        matches!(self.form, Form::Grouped | Form::Gradient)
    }

    pub(super) fn flop(&self) -> f64 {
        product_flop(self.m, self.k, self.n) * if self.grouped() { 1.0 } else { self.batch as f64 }
    }

    pub(super) fn operands(&self, gpu: &Gpu) -> Result<Operands> {
        let Product { form, m, n, k, batch, f16 } = *self;
        let operand = |shape: &[usize]| if f16 { random_half(gpu, shape) } else { random(gpu, shape) };
        let dense = |ta: Trans, tb: Trans| {
            let [a, b, c] = shapes(ta, tb, batch, [m, k, n]);
            let (a, b, c) = (operand(&a)?, operand(&b)?, random(gpu, &c)?);
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
                let (a, c) = (operand(&[groups.capacity, k])?, random(gpu, &[groups.capacity, n])?);
                let b = operand(&[batch, k, n])?;
                let (x, w, y) = (a.clone(), b.clone(), c.clone());
                let record = Box::new(move || grouped_gemm(&x, &w, Trans::N, &groups, &y));
                Ok(Operands { a, b, c, record })
            }
            Form::Gradient => {
                let groups = experts(k)?;
                let (a, b) = (operand(&[groups.capacity, m])?, operand(&[groups.capacity, n])?);
                let c = random(gpu, &[batch, m, n])?;
                let (x, y, w) = (a.clone(), b.clone(), c.clone());
                let record = Box::new(move || grouped_weight_gradient(&x, &y, &groups, 0.0, &w));
                Ok(Operands { a, b, c, record })
            }
        }
    }

    /// Every way to compute it that is not hopeless: each shape, the sums cut where C has few tiles. In f16 those shapes on matrix
    /// units that the adapter runs, and the ones that suit most products without them.
    pub(super) fn ways(&self, gpu: &Gpu) -> Vec<(usize, usize)> {
        let Product { form, m, n, k, batch, f16 } = *self;
        let ways = |(index, tiles): (usize, usize)| {
            let tiles = tiles * batch;
            let worth = |&splits: &usize| splits == 1 || !self.grouped() && tiles * splits <= 1024 && k / splits >= 32;
            [1, 2, 4, 8, 16].into_iter().filter(worth).map(move |splits| (index, splits)).collect::<Vec<_>>()
        };
        let suits = |rows: usize| form != Form::Grouped || 64 % rows == 0;
        let of_registers =
            SHAPES.iter().enumerate().filter(|(i, shape)| suits(shape.rows) && (!f16 || USUAL.contains(i)));
        let on_units =
            MATRIX_SHAPES.iter().enumerate().filter(|(_, shape)| f16 && suits(shape.rows) && shape.runs(gpu.adapter()));
        let on_units = on_units.map(|(i, shape)| (SHAPES.len() + i, shape.tiles(m, n)));
        on_units.chain(of_registers.map(|(i, shape)| (i, shape.tiles(m, n)))).flat_map(ways).collect()
    }

    /// The largest error of a way on a small product of this form, as a share of what f32 allows: at most 1 where it is
    /// right.
    pub(super) fn check(&self, gpu: &Gpu, (shape, splits): (usize, usize)) -> Result<f64> {
        // Beyond a tile in each dimension; the groups have whole tiles, which the reference counts on.
        let (m, n, k) = match self.form {
            Form::Grouped => (256, 132, 84),
            Form::Gradient => (132, 68, 256),
            _ => (132, 136, 140),
        };
        let batch = 2;
        let small = Product { m, n, k, batch, ..*self };
        let mut operands = small.operands(gpu)?;
        let forced = gpu.forced(shape, splits);
        (operands.record)()?;
        drop(forced);
        let host = |x: &Tensor| pollster::block_on(x.to_f32());
        let (a, b, c) = (host(&operands.a)?, host(&operands.b)?, host(&operands.c)?);
        // Matrix units may truncate their f32 sums instead of rounding them.
        let truncated = if self.f16 { 2.0 } else { 1.0 };
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
            let allowed = 2.0 * (count + 2) as f64 * 6e-8 * size * truncated;
            let error = (f64::from(c[at]) - sum).abs() / allowed;
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
        Ok(worst)
    }
}
