//! [`Array`]: the row-major f64 array of the CPU references. Plain and slow on purpose.

/// A row-major f64 array on the host. Indices and tokens are held as whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of `shape` whose elements are `data`.
    ///
    /// # Panics
    /// When `data` does not fill `shape`: references are called with literal shapes.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "array of {shape:?}");
        Self { shape: shape.to_vec(), data }
    }

    /// Zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::new(shape, vec![0.0; shape.iter().product()])
    }

    /// `f(flat index)` for each element.
    pub fn from_fn(shape: &[usize], f: impl FnMut(usize) -> f64) -> Self {
        Self::new(shape, (0..shape.iter().product()).map(f).collect())
    }

    /// Standard normal numbers, rounded to f32 so that the device sees the same values.
    pub fn random(shape: &[usize], seed: u64) -> Self {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
        Self::from_fn(shape, |_| {
            let (u, v): (f64, f64) = (rng.random(), rng.random());
            let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            f64::from(normal as f32)
        })
    }

    /// Elements of the device, widened.
    pub fn from_f32(shape: &[usize], data: &[f32]) -> Self {
        Self::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// The elements, rounded.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|&x| x as f32).collect()
    }

    /// The elements as indices.
    pub fn to_u32(&self) -> Vec<u32> {
        self.data.iter().map(|&x| x as u32).collect()
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Row `i` of the array seen as `rows x cols`.
    pub fn row(&self, i: usize) -> &[f64] {
        let cols = self.cols();
        &self.data[i * cols..(i + 1) * cols]
    }

    /// Row `i`, mutable.
    pub fn row_mut(&mut self, i: usize) -> &mut [f64] {
        let cols = self.cols();
        &mut self.data[i * cols..(i + 1) * cols]
    }

    /// Matrix `i` of a stack `[.., m, n]`, as an array `[m, n]`.
    pub fn matrix(&self, i: usize) -> Array {
        let [m, n] = self.shape[self.shape.len() - 2..] else { panic!("a stack of matrices, got {:?}", self.shape) };
        Array::new(&[m, n], self.data[i * m * n..(i + 1) * m * n].to_vec())
    }

    /// The transpose of a matrix.
    pub fn transpose(&self) -> Array {
        let (m, n) = (self.rows(), self.cols());
        Array::from_fn(&[n, m], |i| self.data[(i % m) * n + i / m])
    }

    /// The product of two matrices.
    ///
    /// # Panics
    /// When the inner sizes differ.
    pub fn matmul(&self, other: &Array) -> Array {
        let (m, k, n) = (self.rows(), self.cols(), other.cols());
        assert_eq!(k, other.rows(), "matmul of {:?} and {:?}", self.shape, other.shape);
        let mut out = Array::zeros(&[m, n]);
        for i in 0..m {
            for (j, &a) in self.row(i).iter().enumerate() {
                for (o, b) in out.row_mut(i).iter_mut().zip(other.row(j)) {
                    *o += a * b;
                }
            }
        }
        out
    }

    /// `f` of each element.
    pub fn map(&self, f: impl FnMut(&f64) -> f64) -> Array {
        Array::new(&self.shape, self.data.iter().map(f).collect())
    }

    /// `f` of each pair of elements.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn zip(&self, other: &Array, mut f: impl FnMut(f64, f64) -> f64) -> Array {
        assert_eq!(self.shape, other.shape);
        Array::new(&self.shape, self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect())
    }

    /// Euclidean norm of all elements.
    pub fn norm(&self) -> f64 {
        self.data.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Inner product of all elements.
    pub fn dot(&self, other: &Array) -> f64 {
        self.data.iter().zip(&other.data).map(|(a, b)| a * b).sum()
    }

    /// Largest absolute element; 0 for an empty array.
    pub fn max_abs(&self) -> f64 {
        self.data.iter().fold(0.0, |m, x| m.max(x.abs()))
    }
}
