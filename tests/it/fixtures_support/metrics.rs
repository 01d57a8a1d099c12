//! Group `metrics/`: what an analysis measures, against numpy in f64. A case has tensors of several parts of the analysis;
//! each part checks those it knows.

use super::{Case, metrics_data, metrics_weights};
use sdmoe::gpu::Gpu;

pub fn run(gpu: &Gpu, case: &Case) -> Result<(), String> {
    metrics_weights::run(gpu, case)?;
    metrics_data::run(gpu, case)
}
