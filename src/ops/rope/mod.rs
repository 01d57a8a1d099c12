//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), for all pairings and frequencies.

mod table;
mod yarn;

pub use table::RotaryTable;
pub use yarn::Yarn;

use serde::{Deserialize, Serialize};

use crate::autograd::{Array, Backward, Forward, Op, Reads};
use crate::error::{Error, Result};
use crate::gpu::Parts;
use crate::kernels::Variant;
use crate::kernels::rows::{PackKernels, THREADS, forms, pack, pack_launch, variants};
use crate::tensor::Tensor;

/// The elements of a head that are turned together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// `(x_i, x_{i + head_dim / 2})`, the rotate-half pairing of Llama, Qwen, Mixtral and OLMoE.
    #[default]
    Halves,
    /// `(x_{2i}, x_{2i + 1})`, as DeepSeek has it.
    Neighbours,
}

/// Turns pair i of each head by the angle `position * frequency_i`, and multiplies it by `scaling`.
///
/// Input: `x: [batch * seq, heads * head_dim]`, where row r has the position `first + r % seq`. Output: as x.
#[derive(Clone, Debug)]
pub struct Rope {
    /// The frequencies, and with them head_dim.
    pub table: RotaryTable,
    /// Heads in a row.
    pub heads: usize,
    /// Rows of a sequence.
    pub seq: usize,
    /// Position of a sequence's first row: 0 but for a sequence that goes on.
    pub first: usize,
    /// The elements that are turned together.
    pub pairing: Pairing,
    /// The factor on cosines and sines: 1 but for YaRN.
    pub scaling: f32,
}

/// Forward and, with the other direction, backward.
pub static ROPE: PackKernels = forms!("rope", "rope.wgsl", RopeParams, packs);

crate::params! {
    struct RopeParams {
        rows: u32,
        /// Position of the first row in its sequence.
        first: u32,
        seq: u32,
        /// Position of a sequence's first row.
        offset: u32,
        heads: u32,
        /// Half of head_dim, in packs.
        half: u32,
        /// Factor on cosines.
        cosine: f32,
        /// Factor on sines: negative in backward.
        sine: f32,
        beta: f32,
    }
}

/// Every kernel of this module.
pub fn kernels() -> Vec<Variant> {
    let both = |variant: Variant| {
        [0.0, 1.0].map(|neighbours| Variant {
            constants: [variant.constants.as_slice(), &[("NEIGHBOURS", neighbours)]].concat(),
            ..variant
        })
    };
    variants(&ROPE).into_iter().flat_map(both).collect()
}

impl Rope {
    /// As it is in training: positions from 0 on, pairs of halves, no factor.
    pub fn new(table: &RotaryTable, heads: usize, seq: usize) -> Self {
        Rope { table: table.clone(), heads, seq, first: 0, pairing: Pairing::Halves, scaling: 1.0 }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let (heads, head_dim, seq) = (self.heads, self.table.head_dim(), self.seq);
        if seq == 0 || self.first.checked_add(seq).is_none_or(|end| end > u32::MAX as usize) {
            let got = format!("first {}, seq {seq}", self.first);
            return Err(Error::shape("rope", "seq >= 1, positions below 2^32", got));
        }
        if x.cols() != heads * head_dim || !x.rows().is_multiple_of(seq) {
            let expected = format!("[batch * {seq}, {heads} * {head_dim}]");
            return Err(Error::shape("rope", expected, format!("{x:?}")));
        }
        Ok(())
    }

    /// Records `y = scaling R x + beta y`, R the rotation, or its inverse where `direction` is -1.
    fn turn(&self, x: &Tensor, direction: f32, beta: f32, y: &Tensor) -> Result<()> {
        let (gpu, rows, width) = (x.gpu(), x.rows(), x.cols());
        if x.numel() == 0 {
            return Ok(());
        }
        let (x, y) = (x.reshape([rows, width])?, y.reshape([rows, width])?);
        let pairs = self.table.head_dim() / 2;
        let pack = pack(pairs);
        for range in Parts::new("rope", rows).sliced(gpu, &[width]).ranges()? {
            let params = RopeParams {
                rows: range.len() as u32,
                first: (range.start % self.seq) as u32,
                seq: self.seq as u32,
                offset: self.first as u32,
                heads: self.heads as u32,
                half: (pairs / pack) as u32,
                cosine: self.scaling,
                sine: self.scaling * direction,
                beta,
            };
            pack_launch(&ROPE, pack)
                .constant("NEIGHBOURS", u32::from(self.pairing == Pairing::Neighbours))
                .params(&params)
                .read("frequencies", self.table.fractions())
                .read("x", &x.slice(range.clone())?)
                .write("y", &y.slice(range.clone())?)
                .threads(range.len() * pairs / pack, THREADS)
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
        let half = self.table.head_dim() / 2;
        for r in 0..y.rows() {
            let position = (self.first + r % self.seq) as f64;
            for head in y.row_mut(r).chunks_mut(2 * half) {
                for (i, frequency) in self.table.inverse_frequencies().iter().enumerate() {
                    let (s, c) = (position * frequency).sin_cos();
                    let (s, c) = (f64::from(self.scaling) * s, f64::from(self.scaling) * c);
                    let (first, second) = match self.pairing {
                        Pairing::Halves => (i, i + half),
                        Pairing::Neighbours => (2 * i, 2 * i + 1),
                    };
                    let (a, b) = (head[first], head[second]);
                    head[first] = a * c - b * s;
                    head[second] = b * c + a * s;
                }
            }
        }
        y
    }
}
