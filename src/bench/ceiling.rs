//! The ceilings that the figures are set against, measured in the same rounds: the adapter's best product rate, its
//! copy bandwidth, and the CPU's product rate.

use std::time::Instant;

use nalgebra::DMatrix;

use super::case::Record;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::kernels::elementwise::axpby;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::random::fill_normal;
use crate::tensor::{DType, Tensor};

/// Rows and columns of the products.
const SIDE: usize = 1024;
/// Elements of the copy: 64 MiB, beyond the caches of most machines.
const COPIED: usize = 16 << 20;

/// Operations of the products and bytes of the copies that the ceilings are measured with.
pub(super) const PRODUCT_FLOP: f64 = 2.0 * (SIDE * SIDE * SIDE) as f64;
pub(super) const COPY_BYTES: f64 = 8.0 * COPIED as f64;

/// The rates of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Best f32 product of 1024 x 1024 x 1024, floating-point operations a second.
    pub(super) product: f64,
    /// Best copy of 64 MiB, bytes read and written a second.
    pub(super) copy: f64,
    /// nalgebra's f32 product of 1024 x 1024 x 1024 on one thread of the CPU.
    pub(super) cpu: f64,
}

/// Measures the [`Rates`].
pub(super) struct Ceiling {
    products: Vec<Record>,
    copies: Vec<Record>,
    a: DMatrix<f32>,
    c: DMatrix<f32>,
}

/// A tensor of its own with normal numbers.
pub(super) fn random(gpu: &Gpu, shape: &[usize]) -> Result<Tensor> {
    let x = Tensor::persistent(gpu, shape, DType::F32)?;
    fill_normal(&x, 1, 0, 1.0)?;
    Ok(x)
}

/// The same numbers rounded to f16.
pub(super) fn random_half(gpu: &Gpu, shape: &[usize]) -> Result<Tensor> {
    let half = Tensor::persistent(gpu, shape, DType::F16)?;
    half.write_f32(&pollster::block_on(random(gpu, shape)?.to_f32())?)?;
    Ok(half)
}

/// Operations of a product.
pub(super) fn product_flop(m: usize, k: usize, n: usize) -> f64 {
    2.0 * m as f64 * k as f64 * n as f64
}

/// Runs `record` `repeats` times and waits: seconds of one run.
pub(super) fn seconds(gpu: &Gpu, record: &mut Record, repeats: usize) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..repeats {
        record()?;
    }
    pollster::block_on(gpu.finish())?;
    Ok(began.elapsed().as_secs_f64() / repeats as f64)
}

impl Ceiling {
    pub(super) fn new(gpu: &Gpu) -> Result<Self> {
        let [a, b, c] = [random(gpu, &[SIDE, SIDE])?, random(gpu, &[SIDE, SIDE])?, random(gpu, &[SIDE, SIDE])?];
        let product = |(ta, tb)| -> Record {
            let (a, b, c) = (a.clone(), b.clone(), c.clone());
            Box::new(move || gemm(ta, tb, 1.0, &a, &b, 0.0, &c))
        };
        let products = [(Trans::N, Trans::N), (Trans::N, Trans::T), (Trans::T, Trans::N)].map(product).into();
        let (x, y) = (random(gpu, &[COPIED])?, random(gpu, &[COPIED])?);
        // The driver's copy, and a kernel's: the better one is the adapter's bandwidth.
        let (x2, y2) = (x.clone(), y.clone());
        let copies: Vec<Record> = vec![Box::new(move || y.copy_from(&x)), Box::new(move || axpby(1.0, &x2, 0.0, &y2))];
        let a = DMatrix::from_fn(SIDE, SIDE, |i, j| (i * 7 + j * 3) as f32 % 11.0 - 5.0);
        let mut ceiling = Self { products, copies, c: a.clone(), a };
        // Kernels compile and memory is touched at the first use.
        ceiling.measure(gpu)?;
        Ok(ceiling)
    }

    /// The rates of this moment.
    pub(super) fn measure(&mut self, gpu: &Gpu) -> Result<Rates> {
        let began = Instant::now();
        self.a.mul_to(&self.a, &mut self.c);
        let cpu = PRODUCT_FLOP / began.elapsed().as_secs_f64();
        let best = |records: &mut [Record]| {
            records
                .iter_mut()
                .map(|r| seconds(gpu, r, 1))
                .try_fold(f64::MAX, |best, s| Ok::<_, crate::Error>(best.min(s?)))
        };
        let product = PRODUCT_FLOP / best(&mut self.products)?;
        let copy = COPY_BYTES / best(&mut self.copies)?;
        Ok(Rates { product, copy, cpu })
    }
}

/// Seconds of nalgebra's full SVD of a matrix of `rows x columns`.
pub(super) fn cpu_svd(rows: usize, columns: usize) -> f64 {
    let mut state = 1u32;
    let a = DMatrix::from_fn(rows, columns, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    });
    let began = Instant::now();
    let svd = std::hint::black_box(a.svd(true, true));
    drop(svd);
    began.elapsed().as_secs_f64()
}
