//! Every op on activations and weights in f16: forward against f64, backward against central differences, in every tier.
//!
//! Inputs are rounded to f16 before both sides see them, sums are in f32, so what is left is the rounding of each result
//! to f16, 2^-11 of it. A tolerance counts such roundings: one for the output; for a gradient one for itself and one for
//! each f16 result that its equation uses.

use crate::common::groups::groups;
use crate::common::{download, gpu, small_bindings, tiers};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::elementwise::{add_into, axpby, fill, round_into};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::low_level::kernels::routing::{Routing, route};
use sdmoe::nn::config::Score;
use sdmoe::ops::{
    Add, Attention, Combine, CrossEntropy, Embedding, ExpertMatMul, MatMul, Permute, RmsNorm, Rope, RotaryTable,
    RouterScores, SigmoidGate, SwiGlu,
};
use sdmoe::tensor::{DType, Tensor};

fn passes(gpu: &Gpu, op: impl Op + std::fmt::Debug + 'static, inputs: &[Input], roundings: (f64, f64), seed: u64) {
    let what = format!("{op:?} on {gpu:?}");
    let tolerance = Tolerance::half(roundings.0, roundings.1);
    block_on(check(gpu, op, inputs, tolerance, seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
}

fn half(shape: &[usize], seed: u64) -> Input {
    Input::Half(Array::random(shape, seed))
}

fn indices(count: usize, bound: usize) -> Input {
    Input::Index(Array::from_fn(&[count], |i| ((i * 2_654_435_761) % 4_294_967_296 / 7 % bound) as f64))
}

fn f16(gpu: &Gpu, x: &Array) -> Tensor {
    let tensor = Tensor::empty(gpu, &x.shape, DType::F16).unwrap();
    tensor.write_f32(&x.to_f32()).unwrap();
    tensor
}

fn rounded(x: &Array) -> Vec<f32> {
    x.data.iter().map(|&v| half::f16::from_f64(v).to_f32()).collect()
}

#[test]
fn f16_tensors_hold_what_f16_can_hold() {
    let gpu = gpu();
    for shape in [&[1][..], &[7, 33], &[64, 5]] {
        let x = Array::random(shape, 3).map(|v| v * 100.0);
        let t = f16(&gpu, &x);
        assert_eq!(t.bytes(), 2 * x.data.len() as u64);
        assert_eq!(download(&t), rounded(&x));
        assert_eq!(download(&t.duplicate().unwrap()), rounded(&x));
        // A row can begin within a word.
        let last = t.slice(shape[0] - 1..shape[0]).unwrap();
        assert_eq!(download(&last), rounded(&x)[x.data.len() / shape[0] * (shape[0] - 1)..]);
        let wide = Tensor::from_f32(&gpu, shape, &x.to_f32()).unwrap();
        let copy = Tensor::empty(&gpu, shape, DType::F16).unwrap();
        round_into(&wide, &copy).unwrap();
        assert_eq!(download(&copy), rounded(&x));
        assert!(copy.copy_from(&wide).unwrap_err().to_string().contains("F16"));
        axpby(2.0, &t, 0.0, &copy).unwrap();
        add_into(&copy, &t).unwrap();
        let sum = Array::from_f32(shape, &rounded(&x)).map(|v| 3.0 * v);
        assert_eq!(download(&copy), rounded(&sum));
        fill(&copy, 0.1).unwrap();
        assert!(download(&copy).iter().all(|&v| v == half::f16::from_f32(0.1).to_f32()));
    }
}

#[test]
fn what_a_kernel_stores_otherwise_is_refused() {
    let gpu = gpu();
    let (x, y) = (Tensor::zeros(&gpu, [8]).unwrap(), Tensor::empty(&gpu, [8], DType::F16).unwrap());
    assert!(axpby(1.0, &x, 0.0, &y).unwrap_err().to_string().contains("`x`: expected elements of F16, got F32"));
    let weight = f16(&gpu, &Array::random(&[8], 1));
    let error = RmsNorm { eps: 1e-5 }.forward(&[&x.reshape([1, 8]).unwrap(), &weight]).err().unwrap().to_string();
    assert!(error.contains("rms_norm") && error.contains("expected elements of"), "{error}");
}

#[test]
fn dense_ops_match() {
    for gpu in tiers() {
        for (i, shape) in [&[1, 1][..], &[7, 33], &[64, 128], &[131, 6]].into_iter().enumerate() {
            let seed = i as u64;
            passes(&gpu, Add, &[half(shape, 1), half(shape, 2)], (1.0, 1.0), seed);
            // A row of one element is normed to its sign: but for eps its gradient is the difference of equal numbers.
            let eps = if shape[1] == 1 { 0.5 } else { 1e-5 };
            let weight = Input::Tracked(Array::random(&[shape[1]], 77));
            passes(&gpu, RmsNorm { eps }, &[half(shape, seed), weight], (1.0, 1.0), seed);
            passes(&gpu, SwiGlu, &[half(shape, 5), half(shape, 6)], (1.0, 1.0), seed);
            let logit = Input::Tracked(Array::random(&[shape[0], 1], 7));
            passes(&gpu, SigmoidGate, &[half(shape, 8), logit], (1.0, 1.0), seed);
        }
        for (batch, seq, heads, head_dim) in [(1, 1, 1, 2), (3, 2, 1, 6), (2, 31, 3, 8), (1, 5, 3, 128)] {
            let op = Rope::new(&RotaryTable::new(&gpu, head_dim, 1e4).unwrap(), heads, seq);
            passes(&gpu, op, &[half(&[batch * seq, heads * head_dim], 1)], (1.0, 1.0), 2);
        }
    }
}

fn attention_inputs(op: &Attention, batch: usize, seed: u64) -> [Input; 3] {
    let rows = batch * op.seq;
    let kv = [rows, op.kv_heads * op.head_dim];
    [half(&[rows, op.heads * op.head_dim], seed), half(&kv, seed + 1), half(&kv, seed + 2)]
}

#[test]
fn attention_matches_over_awkward_shapes() {
    let shapes = [
        (1, 1, 1, 1, 2),
        (1, 31, 3, 1, 8),
        (2, 33, 6, 3, 32),
        (2, 17, 3, 3, 48),
        (1, 37, 1, 1, 128),
        (2, 5, 6, 1, 30),
        (1, 65, 2, 1, 64),
        (1, 33, 2, 1, 192),
        (1, 65, 2, 2, 5),
    ];
    for gpu in tiers() {
        for (i, (batch, seq, heads, kv_heads, head_dim)) in shapes.into_iter().enumerate() {
            let op = Attention::new(heads, kv_heads, head_dim, seq);
            // The gradients use delta = <dy, y> with y as stored, in sums that cancel: dp - delta.
            passes(&gpu, op, &attention_inputs(&op, batch, i as u64), (1.0, 4.0), i as u64);
        }
    }
}

#[test]
fn embedding_and_cross_entropy_match() {
    for gpu in tiers() {
        for (v, d, t) in [(1, 1, 1), (5, 3, 7), (256, 32, 101), (17, 64, 1)] {
            let table = Input::HalfWeight(Array::random(&[v, d], 1));
            // A copy: exact; the gradient is an f32 sum of exact numbers.
            passes(&gpu, Embedding, &[table, indices(t, v)], (0.0, 0.0), 1);
        }
        for (t, v) in [(1, 5), (7, 256), (131, 5), (13, 1001)] {
            // The loss is f32; the gradient is rounded as softmax - onehot and again with its factor.
            passes(&gpu, CrossEntropy, &[half(&[t, v], 2), indices(t, v)], (0.0, 2.0), 2);
        }
    }
}

fn routed(gpu: &Gpu, [tokens, _, experts, top_k, tile_rows]: [usize; 5]) -> Routing {
    let scores = RouterScores { score: Score::Softmax }.reference(&[Array::random(&[tokens, experts], 3)]);
    let scores = Tensor::from_f32(gpu, [tokens, experts], &scores.to_f32()).unwrap();
    route(&scores, None, top_k, tile_rows).unwrap()
}

#[test]
fn expert_ops_match() {
    for gpu in tiers() {
        for (seed, shape) in (1..).zip([[1, 1, 1, 1, 1], [7, 33, 5, 2, 4], [37, 24, 8, 2, 16], [130, 260, 9, 3, 32]]) {
            let [tokens, d, _, top_k, _] = shape;
            let routing = routed(&gpu, shape);
            let host = |t: &Tensor| {
                let data = block_on(t.to_u32()).unwrap();
                Input::Index(Array::new(t.dims(), data.into_iter().map(f64::from).collect()))
            };
            let (source, slot) = (host(&routing.source), host(&routing.slot));
            passes(&gpu, Permute, &[half(&[tokens, d], seed), source.clone(), slot.clone()], (0.0, 1.0), seed);
            let z = half(&[routing.groups.capacity, d], seed + 1);
            let weights = Input::Tracked(Array::random(&[tokens, top_k], seed + 2));
            passes(&gpu, Combine, &[z, weights, slot, source], (1.0, 1.0), seed);
        }
    }
}

#[test]
fn products_match_with_weights_in_f16_and_in_f32() {
    for gpu in tiers() {
        for (rows, k, n) in [(1, 1, 1), (7, 33, 5), (6, 8, 4), (20, 12, 37), (65, 64, 36)] {
            for trans_b in [false, true] {
                let w = Array::random(&if trans_b { [n, k] } else { [k, n] }, 2);
                let inputs = [half(&[rows, k], 1), Input::HalfWeight(w.clone())];
                passes(&gpu, MatMul { trans_b }, &inputs, (1.0, 1.0), 3);
                // The router: logits in f32, exact but for the sum.
                passes(&gpu, MatMul { trans_b }, &[half(&[rows, k], 1), Input::Tracked(w)], (0.0, 1.0), 3);
            }
        }
        // More than few rows, whose padding is taken to be zero and is random here.
        for counts in [&[1, 34][..], &[0, 5, 0, 33], &[70, 0]] {
            for (m, n) in [(8, 4), (5, 7), (1, 1)] {
                let host = groups(&gpu, counts, 0);
                let x = half(&[host.groups.capacity, m], 1);
                let w = Input::HalfWeight(Array::random(&[counts.len(), m, n], 2));
                let op = ExpertMatMul { groups: host.groups, host_tile_expert: host.tile_expert };
                passes(&gpu, op, &[x, w], (1.0, 1.0), 3);
            }
        }
    }
}

#[test]
fn products_take_operands_of_both_types_in_every_place() {
    let forms = [(Trans::N, Trans::N), (Trans::N, Trans::T), (Trans::T, Trans::N)];
    for gpu in tiers() {
        // Every combination of types, aligned or not, in one form each: a kernel takes long to compile.
        for (types, (ta, tb)) in (0..8).zip(forms.into_iter().cycle()) {
            let [m, n, k] = if types % 2 == 0 { [65, 36, 24] } else { [7, 5, 9] };
            let stored = |bit: u32, x: &Array| {
                let dtype = if types >> bit & 1 == 1 { DType::F16 } else { DType::F32 };
                let tensor = Tensor::empty(&gpu, &x.shape, dtype).unwrap();
                tensor.write_f32(&x.to_f32()).unwrap();
                tensor
            };
            let exact = |shape: [usize; 2], seed| Array::from_f32(&shape, &rounded(&Array::random(&shape, seed)));
            let (a, b, c) = (exact([m, k], 1), exact([k, n], 2), exact([m, n], 3));
            let want = a.matmul(&b).zip(&c, |ab, c| 0.5 * ab - c);
            let a = if ta == Trans::T { a.transpose() } else { a };
            let b = if tb == Trans::T { b.transpose() } else { b };
            let y = stored(2, &c);
            gemm(ta, tb, 0.5, &stored(0, &a), &stored(1, &b), -1.0, &y).unwrap();
            // k products of a few units, summed in f32; then one rounding.
            let eps = if types >> 2 == 1 { f64::exp2(-11.0) } else { 0.0 };
            for (got, want) in download(&y).into_iter().zip(&want.data) {
                let allowed = k as f64 * 6e-8 * 8.0 + eps * want.abs();
                assert!((f64::from(got) - want).abs() <= allowed, "{ta:?}{tb:?}, types {types:03b}: {got}, {want}");
            }
        }
    }
}

#[test]
fn large_products_of_odd_sizes_match() {
    let gpu = gpu();
    // Through padded copies on software adapters.
    let (rows, k, n) = (203, 211, 207);
    let w = Input::HalfWeight(Array::random(&[k, n], 2));
    passes(&gpu, MatMul { trans_b: false }, &[half(&[rows, k], 1), w], (1.0, 1.0), 3);
}

#[test]
fn tensors_beyond_one_binding_are_split() {
    for gpu in small_bindings(1 << 16) {
        // 135 KB in f32, by which splits are made.
        passes(&gpu, Add, &[half(&[1023, 33], 1), half(&[1023, 33], 2)], (1.0, 1.0), 1);
        let weight = Input::Tracked(Array::random(&[33], 2));
        passes(&gpu, RmsNorm { eps: 1e-5 }, &[half(&[1023, 33], 1), weight], (1.0, 1.0), 1);
        let rope = Rope::new(&RotaryTable::new(&gpu, 12, 1e4).unwrap(), 3, 101);
        passes(&gpu, rope, &[half(&[1010, 36], 1)], (1.0, 1.0), 1);
        let op = Attention::new(6, 2, 8, 11);
        passes(&gpu, op, &attention_inputs(&op, 43, 1), (1.0, 4.0), 1);
        let table = Input::HalfWeight(Array::random(&[1000, 33], 1));
        passes(&gpu, Embedding, &[table, indices(997, 1000)], (0.0, 0.0), 1);
        passes(&gpu, CrossEntropy, &[half(&[997, 37], 1), indices(997, 37)], (0.0, 2.0), 1);
    }
}

#[test]
fn a_value_used_twice_sums_its_gradients_in_f16() {
    for gpu in tiers() {
        let x = Array::random(&[9, 16], 1);
        let mut tape = Tape::new(&gpu);
        let a = tape.variable(&f16(&gpu, &x));
        let doubled = tape.apply(Add, &[a, a]).unwrap();
        let y = tape.apply(SwiGlu, &[doubled, doubled]).unwrap();
        let dy = f16(&gpu, &Array::from_fn(&[9, 16], |_| 1.0));
        let gradients = tape.backward(&[(y, dy)]).unwrap();
        let gradient = gradients.of(a).unwrap();
        assert_eq!(gradient.dtype(), DType::F16);
        // d/dx of silu(2 x) 2 x
        for (got, x) in download(gradient).into_iter().zip(rounded(&x)) {
            let z = 2.0 * f64::from(x);
            let s = 1.0 / (1.0 + (-z).exp());
            let (gate, up) = (z * s * (1.0 + z * (1.0 - s)), z * s);
            let want = 2.0 * (gate + up);
            // Both parts, their sum, and the sum of the two copies are rounded.
            let allowed = 4.0 * f64::exp2(-11.0) * 2.0 * (gate.abs() + up.abs()) + 1e-6;
            assert!((f64::from(got) - want).abs() <= allowed, "{got}, expected {want} at {x}");
        }
    }
}
