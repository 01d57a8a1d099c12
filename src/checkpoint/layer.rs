//! The layers of a checkpoint as they are known before a matrix is read: their sizes, and where in which file everything lies.

use super::names::shown;
use crate::nn::config::ExpertMatrix;

/// Where one matrix lies: `rows * columns` elements of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: usize,
    pub tensor: String,
    pub first: usize,
}

/// The decoupled parts of one matrix kind in one layer.
#[derive(Clone, Debug)]
pub(super) struct SpectralPlaces {
    pub rank: usize,
    pub common: Place,
    pub u: Place,
    pub v: Place,
}

/// One layer's experts.
#[derive(Clone, Debug)]
pub struct ExpertLayer {
    /// Its number in the model, as in the tensors' names.
    pub number: usize,
    /// Experts *E*.
    pub experts: usize,
    /// Model width *d*.
    pub d_model: usize,
    /// Hidden width *f*.
    pub d_expert: usize,
    /// Whether matrices lie as `out x in` (Hugging Face), the transposes of METHOD §1's.
    pub transposed: bool,
    /// Where each kind's matrices lie, in the order of [`ExpertMatrix::ALL`], by expert.
    pub(super) places: [Vec<Place>; 3],
    /// The router's place and whether it lies as `[d, E]`.
    pub(super) router: Option<(Place, bool)>,
    /// Where the decoupled parts lie, for each kind that is decoupled.
    pub(super) spectral: [Option<SpectralPlaces>; 3],
    /// Bytes on the disk of each kind's experts.
    pub(super) bytes: [u64; 3],
}

/// A matrix as it lies on the disk, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredShape {
    /// Rows as stored.
    pub rows: usize,
    /// Columns as stored.
    pub columns: usize,
    /// Whether it is the transpose of METHOD's `W: in x out`: its left singular vectors are then those of W's right side.
    pub transposed: bool,
}

impl ExpertLayer {
    /// The shape in which matrices of a kind are read. METHOD's is `d x f` for gate and up, `f x d` for down.
    pub fn shape(&self, matrix: ExpertMatrix) -> StoredShape {
        let rows_are_model = self.rows_are_model(matrix);
        let (rows, columns) =
            if rows_are_model { (self.d_model, self.d_expert) } else { (self.d_expert, self.d_model) };
        StoredShape { rows, columns, transposed: self.transposed }
    }

    /// Whether the rows of the stored matrix (its left singular vectors) belong to the model side (METHOD §6), and the
    /// columns to the hidden side; or the other way round.
    pub fn rows_are_model(&self, matrix: ExpertMatrix) -> bool {
        (matrix != ExpertMatrix::Down) != self.transposed
    }

    /// Numbers in one matrix, `d * f`.
    pub fn numel(&self) -> usize {
        self.d_model * self.d_expert
    }

    /// Whether there is a router.
    pub fn has_router(&self) -> bool {
        self.router.is_some()
    }

    /// The common rank *k* of a kind whose experts are decoupled (`W_i = W_c + W_u,i`).
    pub fn rank(&self, matrix: ExpertMatrix) -> Option<usize> {
        self.spectral[matrix as usize].as_ref().map(|s| s.rank)
    }

    /// Bytes on the disk of all matrices of this layer.
    pub fn bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Layers that are numbered together: a model's own, those of an encoder, a copy of averaged weights.
#[derive(Clone, Debug)]
pub struct ExpertStack {
    /// The part before `layers.` in the tensors' names, without the full stop: `model`, `mtp`, or nothing. Layers that a
    /// `config.json` numbers after the model's own are called so behind it.
    pub name: String,
    /// The layers that have experts, by number.
    pub layers: Vec<ExpertLayer>,
}

impl ExpertStack {
    /// Its name to show, of bounded length; one without a name is called by what its tensors' names begin with.
    pub fn label(&self) -> String {
        if self.name.is_empty() { "layers".into() } else { shown(&self.name) }
    }
}
