//! The leading singular values of a matrix, by randomized SVD on the GPU.

use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::linalg::svd::{SvdOptions, randomized_svd};
use sdmoe::tensor::Tensor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let gpu = Gpu::open(&GpuOptions::default()).await?;
        let (m, n, k) = (512, 384, 8);
        // Rank 8 with singular values near 100, 50, 25 ..., and noise.
        let (left, right) = (Array::random(&[m, k], 1), Array::random(&[k, n], 2));
        let scaled = Array::from_fn(&[m, k], |i| left.data[i] * 0.5f64.powi((i % k) as i32));
        let signal = scaled.matmul(&right);
        let a = signal.zip(&Array::random(&[m, n], 3), |s, noise| s + 0.01 * noise);
        let a = Tensor::from_f32(&gpu, [m, n], &a.to_f32())?;
        let svd = randomized_svd(&a, k, SvdOptions::default(), None)?;
        println!("singular values of a {m} x {n} matrix: {:.2?}", &svd.s_all.to_f32().await?[..k]);
        Ok(())
    })
}
