//! Products on matrix units. No software adapter has them, so here each lane computes the 16 x 16 blocks that a
//! subgroup would hold together, and everything around them is the kernel's own: what is loaded, edges, strides, transposes, sums
//! over k, factors, what is stored. `tests/it/matrix_units.rs` compares the kernels themselves where an adapter runs them.

use crate::common::{gpu, tiers};
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, Kernel, Launch, compose_half};
use sdmoe::low_level::kernels::gemm::Trans;
use sdmoe::low_level::kernels::gemm_table::DENSE;
use sdmoe::low_level::kernels::matrix_shapes::{MATRIX_SHAPES, MatrixShape};
use sdmoe::tensor::{DType, Tensor};

use Trans::{N, T};

static EMULATED: Kernel = Kernel::new(
    "gemm_cooperative_emulated",
    &[
        include_str!("common/emulated_block.wgsl"),
        include_str!("../../shaders/gemm/cooperative_2x2.wgsl"),
        include_str!("../../shaders/gemm/dense.wgsl"),
    ],
)
.entry("gemm")
.params::<GemmParams>();

sdmoe::params! {
    struct GemmParams {
        m: u32,
        n: u32,
        k: u32,
        a_first: u32,
        b_first: u32,
        c_first: u32,
        a_stride: u32,
        b_stride: u32,
        c_stride: u32,
        batch: u32,
        batch_first: u32,
        a_repeat: u32,
        b_repeat: u32,
        a_matrix: u32,
        b_matrix: u32,
        c_matrix: u32,
        splits: u32,
        split_steps: u32,
        alpha: f32,
        beta: f32,
    }
}

/// Elements before and after each operand, all NaN: they must be neither used nor written.
const AROUND: usize = 8;

fn surrounded(gpu: &Gpu, x: &Array, dtype: DType) -> Tensor {
    let around = [f32::NAN; AROUND];
    let data = [&around[..], &x.to_f32(), &around].concat();
    let tensor = Tensor::empty(gpu, [data.len()], dtype).unwrap();
    tensor.write_f32(&data).unwrap();
    tensor
}

fn round(x: &Array, dtype: DType) -> Array {
    if dtype == DType::F32 { x.map(|&v| f64::from(v as f32)) } else { x.map(|&v| half::f16::from_f64(v).to_f64()) }
}

struct Case {
    forms: (Trans, Trans),
    sizes: [usize; 3],
    factors: (f32, f32),
    c_type: DType,
    lanes: u32,
    shape: MatrixShape,
}

const BATCH: usize = 2;

fn verify(gpu: &Gpu, case: &Case) {
    let &Case { forms: (ta, tb), sizes: [m, k, n], factors: (alpha, beta), c_type, lanes, shape } = case;
    let what = format!("{ta:?}{tb:?} {m}x{k}x{n} alpha {alpha} beta {beta} {c_type:?} lanes {lanes} {shape}");
    let stored = |t, count, r, c| if t == N { [count, r, c] } else { [count, c, r] };
    let a = round(&Array::random(&stored(ta, BATCH, m, k), 1), DType::F16);
    let b = round(&Array::random(&stored(tb, BATCH, k, n), 2), DType::F16);
    let before = round(&Array::random(&[BATCH, m, n], 3), c_type);
    let ta_a = surrounded(gpu, &a, DType::F16);
    let tb_b = surrounded(gpu, &b, DType::F16);
    let c = surrounded(gpu, &if beta == 0.0 { before.map(|_| f64::NAN) } else { before.clone() }, c_type);
    let first = AROUND as u32;
    let params = GemmParams {
        m: m as u32,
        n: n as u32,
        k: k as u32,
        a_first: first,
        b_first: first,
        c_first: first,
        a_stride: if ta == N { k } else { m } as u32,
        b_stride: if tb == N { n } else { k } as u32,
        c_stride: n as u32,
        batch: BATCH as u32,
        batch_first: 0,
        a_repeat: 1,
        b_repeat: 1,
        a_matrix: (m * k) as u32,
        b_matrix: (k * n) as u32,
        c_matrix: (m * n) as u32,
        splits: 1,
        split_steps: k as u32,
        alpha,
        beta,
    };
    Launch::new(&EMULATED)
        .constant("A_TRANSPOSED", u8::from(ta == T))
        .constant("B_TRANSPOSED", u8::from(tb == T))
        .constants(shape.constants((lanes, lanes)))
        .params(&params)
        .read("a", &ta_a)
        .read("b", &tb_b)
        .write("c", &c)
        .workgroups(BATCH * shape.tiles(m, n))
        .run(gpu)
        .unwrap();
    let got = crate::common::download(&c);
    let end = AROUND + BATCH * m * n;
    assert!(got[..AROUND].iter().chain(&got[end..]).all(|v| v.is_nan()), "{what}: written outside C");
    let (alpha, beta) = (f64::from(alpha), f64::from(beta));
    let op = |t, x: Array| if t == N { x } else { x.transpose() };
    for z in 0..BATCH {
        let (x, y) = (op(ta, a.matrix(z)), op(tb, b.matrix(z)));
        let want = x.matmul(&y).zip(&before.matrix(z), |p, c| alpha * p + beta * c);
        let bound = x.map(|v| v.abs()).matmul(&y.map(|v| v.abs()));
        let bound = bound.zip(&before.matrix(z), |p, c| (alpha * p).abs() + (beta * c).abs());
        for (i, (want, bound)) in want.data.iter().zip(&bound.data).enumerate() {
            // A sum of k products in f32, and where C is f16 its rounding.
            let rounding = if c_type == DType::F16 { f64::exp2(-11.0) * want.abs() + f64::exp2(-25.0) } else { 0.0 };
            let allowed = 2.0 * (k + 2) as f64 * 6e-8 * bound + rounding;
            let got = f64::from(got[AROUND + z * m * n + i]);
            let error = (got - want).abs();
            assert!(error <= allowed, "{what}: matrix {z}, element {i} is {got}, expected {want}, allowed {allowed:e}");
        }
    }
}

#[test]
fn a_product_of_emulated_blocks_equals_the_reference() {
    let gpu = gpu();
    gpu.require_f16().unwrap();
    // llvmpipe takes half a minute to compile a variant. In this one, whose operands are loaded by rows and by columns, the next steps are
    // in registers, as on no software driver; the others run on one with matrix units (docs/performance.md).
    for ([m, k, n], factors) in [([1, 4, 4], (1.0, 0.0)), ([68, 36, 20], (-0.5, 1.0)), ([17, 40, 72], (2.0, 0.25))] {
        let (sizes, c_type) = ([m, k, n], if m == 68 { DType::F16 } else { DType::F32 });
        verify(&gpu, &Case { forms: (N, T), sizes, factors, c_type, lanes: 32, shape: MATRIX_SHAPES[3] });
    }
}

#[test]
fn what_is_emulated_is_the_kernel_but_for_its_blocks() {
    let rest = |kernel: &Kernel| {
        let kept = kernel.sources.iter().filter(|s| !s.contains("fn multiply_add("));
        kept.copied().collect::<Vec<_>>().join("\n")
    };
    let kernel = &DENSE.cooperative.blocks_16[0];
    assert_eq!(rest(kernel), rest(&EMULATED));
    assert!(kernel.needs_cooperative_matrix() && !EMULATED.needs_cooperative_matrix());
    let composed = compose_half(kernel, &["a", "b"]).unwrap();
    assert!(composed.starts_with("enable f16;\nenable wgpu_cooperative_matrix;\n"));
}

#[test]
fn a_device_that_was_opened_without_the_feature_does_not_use_it() {
    for gpu in tiers() {
        assert!(!gpu.cooperative_matrix(), "{gpu:?}");
    }
}
