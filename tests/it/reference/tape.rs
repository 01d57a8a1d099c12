//! Reverse-mode differentiation over f64 matrices: a list of nodes, each with the rule that pulls its gradient back.
//!
//! Few primitive operations and everything else composed from them, so that no line of the model's backward is written by
//! hand and each rule is small enough to be held against central differences.

use nalgebra::DMatrix;

/// A matrix in double precision.
pub type Mat = DMatrix<f64>;

/// A node of a [`Tape`].
#[derive(Clone, Copy, Debug)]
pub struct Var(usize);

/// From the gradient of a node to what its operands receive.
type Pullback = Box<dyn Fn(&Mat) -> Vec<(Var, Mat)>>;

/// The computation so far; operands always precede the nodes that use them.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<(Mat, Option<Pullback>)>,
}

impl Tape {
    fn push(&mut self, value: Mat, pullback: impl Fn(&Mat) -> Vec<(Var, Mat)> + 'static) -> Var {
        self.nodes.push((value, Some(Box::new(pullback))));
        Var(self.nodes.len() - 1)
    }

    /// An input: a parameter or a constant.
    pub fn leaf(&mut self, value: Mat) -> Var {
        self.nodes.push((value, None));
        Var(self.nodes.len() - 1)
    }

    /// What a node holds.
    pub fn value(&self, v: Var) -> &Mat {
        &self.nodes[v.0].0
    }

    /// What a `1 x 1` node holds.
    pub fn scalar(&self, v: Var) -> f64 {
        assert_eq!(self.value(v).shape(), (1, 1), "scalar: expected a 1 x 1 node");
        self.value(v)[(0, 0)]
    }

    /// The gradient of the scalar `output` with respect to every node, by node.
    pub fn backward(&self, output: Var) -> Gradients {
        self.scalar(output);
        let mut grads: Vec<Mat> = self.nodes.iter().map(|(v, _)| Mat::zeros(v.nrows(), v.ncols())).collect();
        grads[output.0][(0, 0)] = 1.0;
        for (i, (_, pullback)) in self.nodes.iter().enumerate().take(output.0 + 1).rev() {
            if let Some(pullback) = pullback {
                for (operand, grad) in pullback(&grads[i]) {
                    grads[operand.0] += grad;
                }
            }
        }
        Gradients(grads)
    }

    /// `a b`.
    pub fn matmul(&mut self, a: Var, b: Var) -> Var {
        let (x, y) = (self.value(a).clone(), self.value(b).clone());
        self.push(&x * &y, move |d| vec![(a, d * y.transpose()), (b, x.transpose() * d)])
    }

    /// The transpose.
    pub fn transpose(&mut self, a: Var) -> Var {
        self.push(self.value(a).transpose(), move |d| vec![(a, d.transpose())])
    }

    /// `a + b`.
    pub fn add(&mut self, a: Var, b: Var) -> Var {
        self.push(self.value(a) + self.value(b), move |d| vec![(a, d.clone()), (b, d.clone())])
    }

    /// `a * b`, entry by entry.
    pub fn mul(&mut self, a: Var, b: Var) -> Var {
        let (x, y) = (self.value(a).clone(), self.value(b).clone());
        self.push(x.component_mul(&y), move |d| vec![(a, d.component_mul(&y)), (b, d.component_mul(&x))])
    }

    /// `f(a)`, entry by entry; `f` returns the value and the derivative.
    pub fn map(&mut self, a: Var, f: impl Fn(f64) -> (f64, f64)) -> Var {
        let slope = self.value(a).map(|x| f(x).1);
        self.push(self.value(a).map(|x| f(x).0), move |d| vec![(a, d.component_mul(&slope))])
    }

    /// `c a`.
    pub fn scale(&mut self, a: Var, c: f64) -> Var {
        self.map(a, |x| (c * x, c))
    }

    /// `1 / (1 + e^-a)`.
    pub fn sigmoid(&mut self, a: Var) -> Var {
        self.map(a, |x| {
            let s = 1.0 / (1.0 + (-x).exp());
            (s, s * (1.0 - s))
        })
    }

    /// `a sigmoid(a)`.
    pub fn silu(&mut self, a: Var) -> Var {
        let s = self.sigmoid(a);
        self.mul(a, s)
    }

    /// Each row of `a: [r, c]` times its entry of `column: [r, 1]`.
    pub fn times_column(&mut self, a: Var, column: Var) -> Var {
        let width = self.value(a).ncols();
        let ones = self.leaf(Mat::from_element(1, width, 1.0));
        let spread = self.matmul(column, ones);
        self.mul(a, spread)
    }

    /// Each column of `a: [r, c]` times its entry of `row: [1, c]`.
    pub fn times_row(&mut self, a: Var, row: Var) -> Var {
        let height = self.value(a).nrows();
        let ones = self.leaf(Mat::from_element(height, 1, 1.0));
        let spread = self.matmul(ones, row);
        self.mul(a, spread)
    }

    /// Sums of the rows: `[r, c] -> [r, 1]`.
    pub fn row_sums(&mut self, a: Var) -> Var {
        let ones = self.leaf(Mat::from_element(self.value(a).ncols(), 1, 1.0));
        self.matmul(a, ones)
    }

    /// Means of the columns: `[r, c] -> [1, c]`.
    pub fn column_means(&mut self, a: Var) -> Var {
        let height = self.value(a).nrows();
        let share = self.leaf(Mat::from_element(1, height, 1.0 / height as f64));
        self.matmul(share, a)
    }

    /// Softmax of each row; an entry of minus infinity gets weight 0 and no gradient.
    pub fn softmax(&mut self, a: Var) -> Var {
        let mut y = self.value(a).clone();
        for mut row in y.row_iter_mut() {
            let top = row.max();
            row.apply(|x| *x = (*x - top).exp());
            let sum = row.sum();
            row /= sum;
        }
        let out = y.clone();
        self.push(out, move |d| {
            let mut grad = y.component_mul(d);
            for (mut g, p) in grad.row_iter_mut().zip(y.row_iter()) {
                let mean = g.sum();
                g -= p * mean;
            }
            vec![(a, grad)]
        })
    }

    /// `ln sum_j e^a_ij` of each row: `[r, c] -> [r, 1]`.
    pub fn logsumexp(&mut self, a: Var) -> Var {
        let x = self.value(a);
        let value = Mat::from_fn(x.nrows(), 1, |i, _| {
            let top = x.row(i).max();
            top + x.row(i).iter().map(|v| (v - top).exp()).sum::<f64>().ln()
        });
        let weights = Mat::from_fn(x.nrows(), x.ncols(), |i, j| (x[(i, j)] - value[i]).exp());
        self.push(value, move |d| {
            vec![(a, Mat::from_fn(weights.nrows(), weights.ncols(), |i, j| weights[(i, j)] * d[i]))]
        })
    }

    /// The block of `shape` whose first entry is `at`.
    pub fn block(&mut self, a: Var, at: (usize, usize), shape: (usize, usize)) -> Var {
        let (rows, cols) = self.value(a).shape();
        let value = self.value(a).view(at, shape).into_owned();
        self.push(value, move |d| {
            let mut grad = Mat::zeros(rows, cols);
            grad.view_mut(at, shape).copy_from(d);
            vec![(a, grad)]
        })
    }

    /// A matrix of `shape` that holds each block at its place and zero elsewhere; the blocks must not overlap.
    pub fn assemble(&mut self, shape: (usize, usize), blocks: &[(Var, (usize, usize))]) -> Var {
        let mut value = Mat::zeros(shape.0, shape.1);
        let mut places = Vec::new();
        for &(v, at) in blocks {
            let block = self.value(v);
            value.view_mut(at, block.shape()).copy_from(block);
            places.push((v, at, block.shape()));
        }
        self.push(value, move |d| places.iter().map(|&(v, at, shape)| (v, d.view(at, shape).into_owned())).collect())
    }

    /// The rows of `a` that `rows` names, in that order, repeats allowed.
    pub fn gather_rows(&mut self, a: Var, rows: &[usize]) -> Var {
        let (height, width) = self.value(a).shape();
        let value = self.value(a).select_rows(rows);
        let rows = rows.to_vec();
        self.push(value, move |d| {
            let mut grad = Mat::zeros(height, width);
            for (from, &to) in rows.iter().enumerate() {
                let mut target = grad.row_mut(to);
                target += d.row(from);
            }
            vec![(a, grad)]
        })
    }
}

/// What [`Tape::backward`] returns.
pub struct Gradients(Vec<Mat>);

impl Gradients {
    /// The gradient of one node; zero where the output does not depend on it.
    pub fn of(&self, v: Var) -> &Mat {
        &self.0[v.0]
    }
}
