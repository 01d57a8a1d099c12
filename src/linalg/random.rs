//! Counter-based random numbers, the same bits on every device and on the CPU.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): number `index`
//! of a `stream` is a function of `(seed, stream, index)`, so it depends neither on the number of threads nor on what
//! was drawn before. Uniform numbers are the words' upper 24 bits. Normal numbers are a sum of 96 coin flips and two
//! 16-bit uniforms, scaled: whole numbers below 2^23 and one correctly rounded product, hence exact on every device,
//! where logarithm and cosine (Box-Muller) are not. Mean 0 and variance 1 to rounding, excess kurtosis -0.021, range
//! +-9.97.
//!
//! Not for cryptography.

use crate::error::Result;
use crate::gpu::{Kernel, Launch, Parts, wgsl};
use crate::tensor::Tensor;

const THREADS: u32 = 64;
/// The mean of [`normal`]'s sum: 48 flips and two halves of 65535.
const NORMAL_MEAN: i32 = 48 * 65536 + 65535;
/// `1 / (65536 sqrt(24 + 1/6))`, as in `lib/random.wgsl`.
const NORMAL_SCALE: f32 = 3.103_928_3e-6;
/// Keeps the normal numbers' counters apart from those of [`words`].
const NORMAL_KIND: u32 = 1;

/// `y[i] = scale * normal(seed, stream, i)`.
pub static FILL_NORMAL: Kernel = Kernel::new("fill_normal", wgsl!["random_fill.wgsl"]).params::<FillParams>();
/// `y[i] = uniform(seed, stream, i)`.
pub static FILL_UNIFORM: Kernel = Kernel::new("fill_uniform", wgsl!["random_fill.wgsl"]).params::<FillParams>();

crate::params! {
    struct FillParams { count: u32, first: u32, seed_low: u32, seed_high: u32, stream: u32, scale: f32 }
}

/// Philox4x32-10 of a counter under a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = wide(0xD251_1F53, counter[0]);
        let (high1, low1) = wide(0xCD9E_8D57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The four random words of block `index` of a stream.
pub fn words(seed: u64, stream: u32, index: u32) -> [u32; 4] {
    philox([index, stream, 0, 0], key(seed))
}

/// Number `index` of a stream of uniform numbers: a multiple of 2^-24 in [0, 1).
pub fn uniform(seed: u64, stream: u32, index: u32) -> f32 {
    (words(seed, stream, index / 4)[index as usize % 4] >> 8) as f32 * 2f32.powi(-24)
}

/// Number `index` of a stream of standard normal numbers.
pub fn normal(seed: u64, stream: u32, index: u32) -> f32 {
    let [a, b, c, d] = philox([index, stream, NORMAL_KIND, 0], key(seed));
    let flips = a.count_ones() + b.count_ones() + c.count_ones();
    let sum = ((flips << 16) + (d & 0xffff) + (d >> 16)) as i32 - NORMAL_MEAN;
    sum as f32 * NORMAL_SCALE
}

/// Records `y[i] = scale * normal(seed, stream, i)` over the flat index.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn fill_normal(y: &Tensor, seed: u64, stream: u32, scale: f32) -> Result<()> {
    fill(&FILL_NORMAL, 1, y, seed, stream, scale)
}

/// Records `y[i] = uniform(seed, stream, i)` over the flat index.
///
/// # Errors
/// [`crate::Error::Device`].
pub fn fill_uniform(y: &Tensor, seed: u64, stream: u32) -> Result<()> {
    fill(&FILL_UNIFORM, 4, y, seed, stream, 1.0)
}

fn fill(kernel: &'static Kernel, per_thread: usize, y: &Tensor, seed: u64, stream: u32, scale: f32) -> Result<()> {
    let y = y.reshape([y.numel()])?;
    let [seed_low, seed_high] = key(seed);
    for range in Parts::new(kernel.name, y.numel()).sliced(y.gpu(), &[1]).ranges()? {
        let (count, first) = (range.len() as u32, range.start as u32);
        Launch::new(kernel)
            .params(&FillParams { count, first, seed_low, seed_high, stream, scale })
            .write("y", &y.slice(range.clone())?)
            .threads(range.len().div_ceil(per_thread), THREADS)
            .run(y.gpu())?;
    }
    Ok(())
}
