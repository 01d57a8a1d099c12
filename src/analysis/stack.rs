//! Matrices of one size, wherever they are: in memory, on the device, or in a file that is larger than the memory.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::config::ExpertMatrix;
use crate::tensor::Tensor;
use crate::train::metrics::Side;

/// Bytes of matrices that are on the device at once: enough to keep a large GPU busy.
const AT_ONCE: u64 = 256 << 20;

/// Reads the matrices of a range into a buffer that they fill.
pub type ReadMatrices<'a> = &'a (dyn Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync);

/// Where matrices come from, row-major, one after the other.
#[derive(Clone, Copy)]
pub enum Elements<'a> {
    /// All in memory.
    Host(&'a [f32]),
    /// All on the device.
    Device(&'a Tensor),
    /// Read when they are needed: a checkpoint of 30 GB needs no 30 GB of memory.
    Read(ReadMatrices<'a>),
}

impl std::fmt::Debug for Elements<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Elements::Host(_) => "Host",
            Elements::Device(_) => "Device",
            Elements::Read(_) => "Read",
        })
    }
}

/// Matrices of one size: those of a layer's experts.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// How many.
    pub count: usize,
    /// Rows, as stored.
    pub rows: usize,
    /// Columns, as stored.
    pub columns: usize,
    /// Whether they are stored outputs by inputs, as Hugging Face does; METHOD's layout is inputs by outputs.
    pub transposed: bool,
    /// The elements.
    pub elements: Elements<'a>,
}

/// Matrices of `size` elements on the host.
struct Matrices<'a> {
    size: usize,
    source: Source<'a>,
}

enum Source<'a> {
    AtHand(&'a [f32]),
    Read(ReadMatrices<'a>),
}

impl Matrices<'_> {
    /// The matrices of `range`, read into `buffer` unless they are at hand.
    fn part<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<f32>) -> Result<&'b [f32]> {
        match self.source {
            Source::AtHand(matrices) => Ok(&matrices[range.start * self.size..range.end * self.size]),
            Source::Read(read) => {
                buffer.resize(range.len() * self.size, 0.0);
                read(range, buffer)?;
                Ok(buffer)
            }
        }
    }
}

impl Stack<'_> {
    /// The side that the rows are on.
    pub fn row_side(&self, matrix: ExpertMatrix) -> Side {
        if matches!(matrix, ExpertMatrix::Down) == self.transposed { Side::Model } else { Side::Hidden }
    }

    /// The elements, where they are not read when they are needed.
    async fn at_hand(&self) -> Result<Option<Cow<'_, [f32]>>> {
        let x = match self.elements {
            Elements::Device(x) => Cow::Owned(x.to_f32().await?),
            Elements::Host(x) => Cow::Borrowed(x),
            Elements::Read(_) => return Ok(None),
        };
        if x.len() != self.count * self.rows * self.columns {
            let expected = format!("{} matrices {} x {}", self.count, self.rows, self.columns);
            return Err(Error::shape("spectra", expected, format!("{} elements", x.len())));
        }
        Ok(Some(x))
    }

    /// The matrices on the host: those that are at hand, or else the way to read them.
    fn matrices<'a>(&'a self, at_hand: Option<&'a [f32]>) -> Matrices<'a> {
        let source = match self.elements {
            Elements::Read(read) => Source::Read(read),
            _ => Source::AtHand(at_hand.unwrap_or_default()),
        };
        Matrices { size: self.rows * self.columns, source }
    }

    /// Calls `f` with the matrices of each part that fits a binding, and the number of its first.
    pub(super) async fn for_parts(&self, gpu: &Gpu, mut f: impl AsyncFnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let size = self.rows * self.columns;
        let at_once = (gpu.max_binding_bytes().min(AT_ONCE) / (size as u64 * 4).max(1)).max(1) as usize;
        let at_hand = self.at_hand().await?;
        let matrices = self.matrices(at_hand.as_deref());
        let mut buffer = Vec::new();
        for first in (0..self.count).step_by(at_once) {
            let range = first..self.count.min(first + at_once);
            f(first, matrices.part(range, &mut buffer)?).await?;
        }
        Ok(())
    }

    /// Returns what `f` makes of each matrix and its number, on all threads of the host. A thread reads what it works
    /// on, so that the others work meanwhile, and no more than one matrix a thread is in memory.
    pub(super) async fn on_host<T: Send>(&self, f: impl Fn(usize, &[f32]) -> Result<T> + Sync) -> Result<Vec<T>> {
        let at_hand = self.at_hand().await?;
        // Threads get no handle of the device: in a browser none may leave its own.
        let matrices = self.matrices(at_hand.as_deref());
        let one = |buffer: &mut Vec<f32>, i| f(i, matrices.part(i..i + 1, buffer)?);
        (0..self.count).into_par_iter().with_max_len(1).map_init(Vec::new, one).collect()
    }
}
