//! The randomized SVD of the basis refresh, and its products with the matrix alone.

use super::case::{Case, Group, Record};
use super::ceiling::{cpu_svd, product_flop, random};
use crate::gpu::Gpu;
use crate::kernels::gemm::{Trans, gemm};
use crate::linalg::svd::{SvdOptions, randomized_svd};

const RANK: usize = 8;
/// The paper's expert matrices.
const ROWS: usize = 2048;
const COLUMNS: usize = 1408;
const BATCH: usize = 64;

/// Operations of the products with W: the sketch, two for each power iteration, and the last.
fn flop(batch: usize) -> f64 {
    let options = SvdOptions::default();
    let products = 2 + 2 * options.power_iterations;
    (batch * products) as f64 * product_flop(ROWS, COLUMNS, RANK + options.oversampling)
}

fn case(name: &str, batch: usize) -> Case {
    let make = move |gpu: &Gpu| {
        let w = random(gpu, &[batch, ROWS, COLUMNS])?;
        Ok(Box::new(move || randomized_svd(&w, RANK, SvdOptions::default(), None).map(drop)) as Record)
    };
    Case::new(name, make).flop(flop(batch))
}

/// The products of one SVD of each of `BATCH` matrices: `W Omega`, `W Q`, and as many `W^T Q`.
fn products() -> Case {
    let options = SvdOptions::default();
    let columns = RANK + options.oversampling;
    let make = move |gpu: &Gpu| {
        let w = random(gpu, &[BATCH, ROWS, COLUMNS])?;
        let [q, y] = [random(gpu, &[BATCH, ROWS, columns])?, random(gpu, &[BATCH, ROWS, columns])?];
        let [omega, z] = [random(gpu, &[BATCH, COLUMNS, columns])?, random(gpu, &[BATCH, COLUMNS, columns])?];
        let run = move || {
            for _ in 0..=options.power_iterations {
                gemm(Trans::N, Trans::N, 1.0, &w, &omega, 0.0, &y)?;
                gemm(Trans::T, Trans::N, 1.0, &w, &q, 0.0, &z)?;
            }
            Ok(())
        };
        Ok(Box::new(run) as Record)
    };
    Case::new(format!("svd.products.{BATCH}x{ROWS}x{COLUMNS}"), make).flop(flop(BATCH)).long(true)
}

/// `svd.*`: rank 8, from a cold start. Operations are those of the products with the matrix; `ratio_to_cpu` of the
/// single matrix is nalgebra's time for its full SVD over ours.
pub(super) fn svds() -> Group {
    let one = format!("svd.k{RANK}.{ROWS}x{COLUMNS}");
    let many = case(&format!("{one}.batch{BATCH}"), BATCH).long(true);
    vec![case(&one, 1).on_cpu(|| cpu_svd(ROWS, COLUMNS)), many, products()]
}
