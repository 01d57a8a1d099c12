//! An activation of one's own: its WGSL, its f64 reference, and the check of forward and backward against that
//! reference.

use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::prelude::*;

/// GELU; `gelu.wgsl` has the value and the derivative.
static GELU: Elementwise = elementwise!("gelu", include_str!("gelu.wgsl"), |x| {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
});

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        for n in [1, 63, 64, 65, 1000] {
            let x = Input::Tracked(Array::random(&[n], n as u64));
            check(&gpu, &GELU, &[x], Tolerance::default(), n as u64).await?;
            println!("gelu of {n} numbers: forward and backward agree with the reference");
        }
        Ok(())
    })
}
