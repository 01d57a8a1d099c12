//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the rotate-half pairing of Llama and Qwen.

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// Turns the pair `(x_i, x_{i + head_dim / 2})` of each head by the angle `position * theta^(-2 i / head_dim)`.
///
/// Input: `x: [batch * seq, heads * head_dim]`, where row r has the position `r % seq`. Output: as x.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Heads in a row.
    pub heads: usize,
    /// Width of a head: even, at most 128.
    pub head_dim: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// Base of the frequencies, at least 1.
    pub theta: f32,
}

/// Forward and, with the other direction, backward.
pub static ROPE: PackKernels = forms!("rope", "rope.wgsl", RopeParams, packs);

crate::params! {
    struct RopeParams {
        rows: u32,
        /// Position of the first row.
        first: u32,
        seq: u32,
        heads: u32,
        /// Half of head_dim, in packs.
        half: u32,
        /// +1 forward, -1 backward.
        direction: f32,
        beta: f32,
        /// Theta^(-2 2^b / head_dim) as a 64-bit fraction.
        high_0: u32,
        low_0: u32,
        high_1: u32,
        low_1: u32,
        high_2: u32,
        low_2: u32,
        high_3: u32,
        low_3: u32,
        high_4: u32,
        low_4: u32,
        high_5: u32,
        low_5: u32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    variants(&ROPE)
}

impl Rope {
    fn check(&self, x: &Tensor) -> Result<()> {
        let Rope { heads, head_dim, seq, theta } = *self;
        if head_dim == 0 || head_dim > 128 || !head_dim.is_multiple_of(2) || theta < 1.0 || seq == 0 {
            let got = format!("head_dim {head_dim}, theta {theta}, seq {seq}");
            return Err(Error::shape("rope", "an even head_dim up to 128, theta >= 1, seq >= 1", got));
        }
        if x.cols() != heads * head_dim || !x.rows().is_multiple_of(seq) {
            let expected = format!("[batch * {seq}, {heads} * {head_dim}]");
            return Err(Error::shape("rope", expected, format!("{x:?}")));
        }
        Ok(())
    }

    /// Records `y = R x + beta y`, R the rotation.
    fn turn(&self, x: &Tensor, direction: f32, beta: f32, y: &Tensor) -> Result<()> {
        let (gpu, rows, width) = (x.gpu(), x.rows(), x.cols());
        if x.numel() == 0 {
            return Ok(());
        }
        let (x, y) = (x.reshape([rows, width])?, y.reshape([rows, width])?);
        let pack = pack(self.head_dim / 2);
        let half = self.head_dim / 2 / pack;
        // theta^(-2 2^b / head_dim) as a 64-bit fraction; 1 saturates to just below.
        let power = |b: i32| {
            let value = f64::from(self.theta).powf(-2.0 * 2f64.powi(b) / self.head_dim as f64);
            let fraction = (value * 2f64.powi(64)) as u64;
            ((fraction >> 32) as u32, fraction as u32)
        };
        let [p0, p1, p2, p3, p4, p5] = std::array::from_fn(|b| power(b as i32));
        for range in Parts::new("rope", rows).sliced(gpu, &[width]).ranges()? {
            let params = RopeParams {
                rows: range.len() as u32,
                first: (range.start % self.seq) as u32,
                seq: self.seq as u32,
                heads: self.heads as u32,
                half: half as u32,
                direction,
                beta,
                high_0: p0.0,
                low_0: p0.1,
                high_1: p1.0,
                low_1: p1.1,
                high_2: p2.0,
                low_2: p2.1,
                high_3: p3.0,
                low_3: p3.1,
                high_4: p4.0,
                low_4: p4.1,
                high_5: p5.0,
                low_5: p5.1,
            };
            pack_launch(&ROPE, pack)
                .params(&params)
                .read("x", &x.slice(range.clone())?)
                .write("y", &y.slice(range.clone())?)
                .threads(range.len() * half, THREADS)
                .run(gpu)?;
        }
        Ok(())
    }
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        let [x] = inputs else { return Err(Error::shape("rope", "1 input", format!("{}", inputs.len()))) };
        self.check(x)?;
        let y = Tensor::empty(x.gpu(), x.shape(), x.dtype())?;
        self.turn(x, 1.0, 0.0, &y)?;
        Ok(y.into())
    }

    // A rotation's transpose is the rotation by the negative angle.
    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let dy = pass.dy();
        let (dx, beta) = pass.target(0)?;
        self.turn(&dy, -1.0, beta, &dx)
    }

    fn reads(&self) -> Reads {
        Reads::NONE
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        let mut y = inputs[0].clone();
        let half = self.head_dim / 2;
        for r in 0..y.rows() {
            let position = (r % self.seq) as f64;
            for head in y.row_mut(r).chunks_mut(self.head_dim) {
                for i in 0..half {
                    let angle = position * f64::from(self.theta).powf(-2.0 * i as f64 / self.head_dim as f64);
                    let (s, c) = angle.sin_cos();
                    let (a, b) = (head[i], head[i + half]);
                    head[i] = a * c - b * s;
                    head[i + half] = b * c + a * s;
                }
            }
        }
        y
    }
}
