//! The randomized SVD of the basis refresh.

use super::case::{Case, Group, Record};
use super::ceiling::{cpu_svd, product_flop, random};
use crate::gpu::Gpu;
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

/// `svd.*`: rank 8, from a cold start. Operations are those of the products with the matrix; `ratio_to_cpu` of the single
/// matrix is nalgebra's time for its full SVD over ours.
pub(super) fn svds() -> Group {
    let one = format!("svd.k{RANK}.{ROWS}x{COLUMNS}");
    vec![case(&one, 1).on_cpu(|| cpu_svd(ROWS, COLUMNS)), case(&format!("{one}.batch{BATCH}"), BATCH).long(true)]
}
