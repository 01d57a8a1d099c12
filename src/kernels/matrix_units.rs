//! Opening a device, with products tried on its matrix units where they are wanted.
//!
//! Drivers get such products wrong: blocks at an offset were read as those at the start (Intel Xe3, cubecl #1444), and transposed ones
//! differed between wgpu's backends (wgpu #9451). So none counts before some have been found right.

use super::cuts;
use super::gemm::{Trans, gemm};
use super::matrix_shapes::MATRIX_SHAPES;
use super::shapes::SHAPES;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions, caught};
use crate::tensor::{DType, Tensor};

/// Matrices, rows of C, terms of a sum, columns of C: beyond a tile in each dimension, and no multiple of a block's side.
const BATCH: usize = 2;
const SIZES: [usize; 3] = [132, 68, 140];

impl Gpu {
    /// Opens the adapter that `options` names, and with [`GpuOptions::matrix_units`] tries products on them, see
    /// [`Gpu::check_matrix_units`].
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::UnknownAdapter`], or [`Error::Device`] when the driver refuses the device or
    /// panics, or the adapter lacks what the kernels, those of the tier asked for or those for matrix units need. Products on
    /// matrix units that are wrong, or that the driver does not take, are no error: a warning is logged, and other kernels compute them.
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        let gpu = Gpu::open_unchecked(options).await?;
        let Err(error) = gpu.check_matrix_units().await else { return Ok(gpu) };
        // The device may be of no use any more.
        log::warn!("{}: products on matrix units fail, other kernels compute them: {error}", gpu.adapter().name);
        drop(gpu);
        Gpu::open_unchecked(&GpuOptions { matrix_units: false, ..options.clone() }).await
    }

    /// Tries products on the device's matrix units, where it has such and none were tried before, and has them used from then on
    /// if all are right; if not, logs one warning. Returns whether they are used: [`Gpu::cooperative_matrix`].
    ///
    /// [`Gpu::open`] does so; on a device given to [`Gpu::from_device`] it is to be done before anything else is recorded. The operands are
    /// small whole numbers of no symmetry, whose sums are exact in f32, in all four forms and in each shape of tile that is chosen
    /// where nothing was measured, at offsets within a batch.
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::Device`], [`Error::DeviceLost`] or [`Error::OutOfMemory`] where the driver fails; it then may take no
    /// more work on this device.
    pub async fn check_matrix_units(&self) -> Result<bool> {
        let Some(trial) = self.matrix_units().trial() else { return Ok(self.cooperative_matrix()) };
        for index in cuts::ON_UNITS.into_iter().filter(|&i| MATRIX_SHAPES[i].runs(self.adapter())) {
            let forced = self.forced(SHAPES.len() + index, 1);
            let tried = first_wrong(self, |ta, tb, a, b, c| gemm(ta, tb, 1.0, a, b, 0.0, c));
            let wrong = caught("trying products on matrix units", tried).await??;
            drop(forced);
            if let Some(what) = wrong {
                let (adapter, shape) = (&self.adapter().name, MATRIX_SHAPES[index]);
                log::warn!(
                    "{adapter}: products on matrix units are wrong, other kernels compute them ({shape}: {what})"
                );
                trial.end(false);
                return Ok(false);
            }
        }
        trial.end(true);
        Ok(true)
    }
}

/// The element `i` of an operand: whole numbers from -4 to 4, mixed.
fn element(i: usize, seed: u32) -> f32 {
    let mut x = (i as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 15).wrapping_mul(0x2C1B_3C6D);
    x = (x ^ x >> 12).wrapping_mul(0x297A_2D39);
    ((x ^ x >> 15) % 9) as f32 - 4.0
}

/// The first element of products of f16 matrices by `product` that is not what it should be, in words; none where all are.
async fn first_wrong(
    gpu: &Gpu,
    product: impl Fn(Trans, Trans, &Tensor, &Tensor, &Tensor) -> Result<()>,
) -> Result<Option<String>> {
    let [m, k, n] = SIZES;
    let operand = |rows: usize, columns: usize, seed: u32| {
        let data: Vec<f32> = (0..BATCH * rows * columns).map(|i| element(i, seed)).collect();
        let tensor = Tensor::empty(gpu, [BATCH, rows, columns], DType::F16)?;
        tensor.write_f32(&data)?;
        Ok::<_, Error>((tensor, data))
    };
    for ta in [Trans::N, Trans::T] {
        for tb in [Trans::N, Trans::T] {
            let stored = |t: Trans, rows, columns| if t == Trans::N { (rows, columns) } else { (columns, rows) };
            let (a_shape, b_shape) = (stored(ta, m, k), stored(tb, k, n));
            let (a, left) = operand(a_shape.0, a_shape.1, 1)?;
            let (b, right) = operand(b_shape.0, b_shape.1, 2)?;
            let c = Tensor::empty(gpu, [BATCH, m, n], DType::F32)?;
            c.write_f32(&vec![f32::NAN; BATCH * m * n])?;
            product(ta, tb, &a, &b, &c)?;
            let got = c.to_f32().await?;
            for (i, &got) in got.iter().enumerate() {
                let (z, row, column) = (i / (m * n), i / n % m, i % n);
                // The first term of the sum, and how far the next is.
                let (of_a, a_next) = if ta == Trans::N { (row * k, 1) } else { (row, m) };
                let (of_b, b_next) = if tb == Trans::N { (column, n) } else { (column * k, 1) };
                let (of_a, of_b) = (z * m * k + of_a, z * k * n + of_b);
                let want: f32 = (0..k).map(|t| left[of_a + t * a_next] * right[of_b + t * b_next]).sum();
                if got != want {
                    let form = format!("{ta:?}{tb:?} {m} x {k} x {n}, matrix {z}");
                    return Ok(Some(format!("{form}: row {row}, column {column} is {got}, expected {want}")));
                }
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;

    #[test]
    fn right_products_are_found_right_and_a_matrix_that_is_read_elsewhere_wrong() {
        let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
        if gpu.require_f16().is_err() {
            return;
        }
        let right = first_wrong(&gpu, |ta, tb, a, b, c| gemm(ta, tb, 1.0, a, b, 0.0, c));
        assert_eq!(block_on(right).unwrap(), None);
        let read_at_the_start = first_wrong(&gpu, |ta, tb, a, b, c| gemm(ta, tb, 1.0, a, &b.slice(0..1)?, 0.0, c));
        let told = block_on(read_at_the_start).unwrap().unwrap();
        assert!(told.starts_with("NN 132 x 68 x 140, matrix 1: row 0, column "), "{told}");
        let not_written = first_wrong(&gpu, |_, _, _, _, _| Ok(()));
        assert!(block_on(not_written).unwrap().unwrap().contains("row 0, column 0 is NaN, expected "));
    }
}
