//! Matrices of known singular values and subspaces, and how to analyse them.

use pollster::block_on;
use sdmoe::analysis::Controls;
use sdmoe::analysis::record::{Part, Similarity};
use sdmoe::analysis::spectra::{Elements, Products, SpectrumOptions, Stack};
use sdmoe::analysis::weights::{KindWeights, LayerFindings, LayerWeights, analyze_layer};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::train::metrics::Side;

/// Rows and columns beyond the whole decomposition: the Krylov space has 192 dimensions.
pub const LARGE: [usize; 2] = [320, 300];
/// Values of a Krylov space from f32 products over 320 elements, relative to the largest.
pub const ROUNDING: f64 = 1e-6;

/// The ways to decompose a matrix: in a Krylov space, with products on the device or on the host, and whole.
pub fn ways() -> [SpectrumOptions; 3] {
    let krylov = |products| SpectrumOptions::default().whole_up_to(0).products(products);
    let whole = SpectrumOptions::default().whole_up_to(1000);
    [krylov(Products::Device), krylov(Products::Host), whole]
}

/// An orthogonal matrix: a product of reflections, `size x size`.
pub fn orthogonal(size: usize, seed: u64) -> Array {
    let mut q = Array::from_fn(&[size, size], |i| f64::from(u8::from(i / size == i % size)));
    for reflection in 0..4 {
        let v = Array::random(&[1, size], seed * 16 + reflection);
        let scale = 2.0 / v.data.iter().map(|x| x * x).sum::<f64>();
        for i in 0..size {
            let row = q.row_mut(i);
            let along: f64 = row.iter().zip(&v.data).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(&v.data).for_each(|(a, b)| *a -= scale * along * b);
        }
    }
    q
}

/// `sum_j s_j u_p(j) v_q(j)^T` for columns p(j), q(j) of U and V.
pub fn matrix(s: &[f64], u: &Array, v: &Array, p: impl Fn(usize) -> usize, q: impl Fn(usize) -> usize) -> Array {
    let left = Array::from_fn(&[u.rows(), s.len()], |i| s[i % s.len()] * u.row(i / s.len())[p(i % s.len())]);
    let right = Array::from_fn(&[s.len(), v.rows()], |i| v.row(i % v.rows())[q(i / v.rows())]);
    left.matmul(&right)
}

pub fn stacked(matrices: &[Array]) -> Vec<f32> {
    matrices.iter().flat_map(Array::to_f32).collect()
}

pub fn stack(elements: &[f32], count: usize, [rows, columns]: [usize; 2]) -> Stack<'_> {
    Stack { count, rows, columns, transposed: false, elements: Elements::Host(elements) }
}

pub fn analyze(gpu: &Gpu, stack: Stack<'_>, options: &SpectrumOptions) -> sdmoe::Result<LayerFindings> {
    analyze_with(gpu, stack, options, &mut Controls::default())
}

pub fn analyze_with(
    gpu: &Gpu,
    stack: Stack<'_>,
    options: &SpectrumOptions,
    controls: &mut Controls,
) -> sdmoe::Result<LayerFindings> {
    let kinds = [KindWeights { matrix: ExpertMatrix::Gate, merged: stack, decoupled: None }];
    let weights = LayerWeights { layer: 3, kinds: &kinds, router: None };
    block_on(analyze_layer(gpu, &weights, options, controls))
}

pub fn row(found: &LayerFindings, side: Side, part: Part) -> &Similarity {
    found.similarity.iter().find(|s| s.side == side && s.part == part).expect("a row of similarity")
}

pub fn near(what: &str, got: Option<f64>, want: f64, allowed: f64) {
    let error = got.map_or(f64::INFINITY, |got| (got - want).abs());
    assert!(error <= allowed, "{what}: {got:?}, expected {want}, allowed {allowed:e}");
}

/// Experts with `shared` of `r` left singular vectors in common and none of the right ones, in a known energy share.
pub fn planted(experts: usize, r: usize, shared: usize, [rows, columns]: [usize; 2]) -> (Vec<Array>, f64) {
    let s: Vec<f64> = (0..40).map(|j| if j < r { 8.0 - 0.5 * j as f64 } else { 1.0 / (1.0 + j as f64) }).collect();
    let (u, v) = (orthogonal(rows, 5), orthogonal(columns, 6));
    let matrices = (0..experts).map(|e| {
        let left = move |j| {
            if j < shared {
                j
            } else if j < r {
                shared + e * r + j
            } else {
                100 + j
            }
        };
        matrix(&s, &u, &v, left, move |j| if j < r { e * r + j } else { 100 + j })
    });
    let energy = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>();
    (matrices.collect(), energy(&s[..r]) / energy(&s))
}
