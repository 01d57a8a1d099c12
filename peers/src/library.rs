//! What a library has to do to be measured.

use std::error::Error;

/// Any library's error.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A library with a device that it has opened.
pub trait Library {
    /// Its name as a crate.
    fn name(&self) -> &'static str;

    /// The adapter and the driver, as the library names them.
    fn adapter(&self) -> String;

    /// The product of `a: [m, k]` and `b: [k, n]`, row-major.
    fn product(&self, size: [usize; 3], a: &[f32], b: &[f32]) -> Result<Box<dyn Work>>;

    /// Training steps of `model`, all on `text`.
    fn training(&self, model: &Dense, text: &Text) -> Result<Box<dyn Work>>;
}

/// Work on a device, which runs as often as it is asked for.
pub trait Work {
    /// Queues one run.
    fn run(&mut self) -> Result<()>;

    /// Waits until all runs have ended.
    fn wait(&mut self) -> Result<()>;

    /// The elements of the product, or the loss of the last step before its update.
    fn result(&mut self) -> Result<Vec<f32>>;
}

/// The shape of a decoder: RMSNorm, grouped-query attention with RoPE, SwiGLU, no biases, and the embedding as the head.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    pub vocab: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub hidden: usize,
    pub norm_eps: f32,
    pub rope_theta: f32,
}

impl Dense {
    /// SmolLM-135M with `layers` in place of its 30.
    pub fn smol(layers: usize) -> Self {
        let (norm_eps, rope_theta) = (1e-6, 1e4);
        Self { vocab: 49_152, width: 576, layers, heads: 9, kv_heads: 3, hidden: 1536, norm_eps, rope_theta }
    }

    pub fn head_dim(&self) -> usize {
        self.width / self.heads
    }
}

/// One sequence, and the token that follows each of its tokens.
pub struct Text {
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
}

/// AdamW, the same for all: no clipping, and a rate with which a few steps on one text lower its loss.
pub mod adamw {
    pub const RATE: f32 = 1e-4;
    pub const BETA1: f32 = 0.9;
    pub const BETA2: f32 = 0.95;
    pub const EPS: f32 = 1e-8;
    pub const DECAY: f32 = 0.1;
}

/// The standard deviation that embeddings begin with, and those matrices that the library does not draw by itself.
pub const DEVIATION: f32 = 0.02;

/// Pseudo-random numbers.
pub struct Random(pub u64);

impl Random {
    /// Between 0 and 1 (splitmix64).
    pub fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 24) as f32
    }

    /// `count` numbers of mean 0, with this standard deviation.
    pub fn fill(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        let width = 12f32.sqrt() * deviation;
        (0..count).map(|_| (self.uniform() - 0.5) * width).collect()
    }

    /// A text of tokens drawn evenly.
    pub fn text(&mut self, length: usize, vocab: usize) -> Text {
        let all: Vec<u32> = (0..=length).map(|_| (self.uniform() * vocab as f32) as u32).collect();
        Text { tokens: all[..length].to_vec(), targets: all[1..].to_vec() }
    }
}
