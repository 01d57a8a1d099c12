//! The differentiable ops between router logits and expert products: forward and backward against the f64 references,
//! and the same bits however launches are split.

use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Op, Tape, Var};
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::NONE;
use sdmoe::low_level::kernels::routing::{Routing, route};
use sdmoe::nn::config::Score;
use sdmoe::ops::{Combine, CombineWeights, LoadBalance, Permute, RouterScores, SigmoidGate, SwiGlu, ZLoss};
use sdmoe::tensor::{DType, Tensor};

/// Tokens, width, experts, choices, rows of a tile.
const SHAPES: [[usize; 5]; 8] = [
    [1, 1, 1, 1, 1],
    [1, 4, 8, 2, 8],
    [7, 33, 5, 2, 4],
    [37, 24, 8, 2, 16],
    [13, 64, 6, 6, 8],
    [130, 260, 9, 3, 32],
    [67, 7, 129, 5, 8],
    [257, 3, 2, 1, 32],
];

fn ok(op: impl Op + 'static, gpu: &Gpu, inputs: &[Input], seed: u64) {
    let tolerance = Tolerance::default();
    block_on(check(gpu, op, inputs, tolerance, seed)).unwrap_or_else(|e| panic!("{e} on {gpu:?}"));
}

fn random_scores(tokens: usize, experts: usize, seed: u64) -> Array {
    RouterScores { score: Score::Softmax }.reference(&[Array::random(&[tokens, experts], seed)])
}

fn routed(gpu: &Gpu, [tokens, _, experts, top_k, tile_rows]: [usize; 5]) -> Routing {
    let scores = random_scores(tokens, experts, 3).to_f32();
    route(&Tensor::from_f32(gpu, [tokens, experts], &scores).unwrap(), None, top_k, tile_rows).unwrap()
}

fn host(t: &Tensor) -> Array {
    let data = block_on(t.to_u32()).unwrap();
    Array::new(t.dims(), data.into_iter().map(f64::from).collect())
}

#[test]
fn router_ops_agree_with_their_references_in_every_tier() {
    for gpu in crate::common::tiers() {
        for (seed, shape) in (1..).zip(SHAPES) {
            let [tokens, _, experts, top_k, _] = shape;
            let logits = Array::random(&[tokens, experts], seed).map(|x| x * 3.0);
            let tracked = [Input::Tracked(logits.clone())];
            ok(RouterScores { score: Score::Softmax }, &gpu, &tracked, seed);
            ok(RouterScores { score: Score::Sigmoid }, &gpu, &tracked, seed);
            ok(ZLoss { coefficient: 0.1 }, &gpu, &tracked, seed);
            let routing = routed(&gpu, shape);
            let index = Input::Index(host(&routing.index));
            let scores = Input::Tracked(random_scores(tokens, experts, seed));
            for renormalize in [false, true] {
                let op = CombineWeights { renormalize, scaling: 2.5 };
                ok(op, &gpu, &[scores.clone(), index.clone()], seed);
            }
            let counts = Input::Index(host(&routing.groups.counts));
            ok(LoadBalance { coefficient: 0.7, top_k }, &gpu, &[scores, counts], seed);
        }
    }
}

#[test]
fn expert_ops_agree_with_their_references_in_every_tier() {
    for gpu in crate::common::tiers() {
        for (seed, shape) in (1..).zip(SHAPES) {
            let [tokens, d, _, top_k, _] = shape;
            let routing = routed(&gpu, shape);
            let (source, slot) = (Input::Index(host(&routing.source)), Input::Index(host(&routing.slot)));
            let x = Input::Tracked(Array::random(&[tokens, d], seed));
            ok(Permute, &gpu, &[x.clone(), source.clone(), slot.clone()], seed);
            let z = Input::Tracked(Array::random(&[routing.groups.capacity, d], seed + 1));
            let weights = Input::Tracked(Array::random(&[tokens, top_k], seed + 2));
            ok(Combine, &gpu, &[z, weights, slot, source], seed);
            let up = Input::Tracked(Array::random(&[tokens, d], seed + 3));
            ok(SwiGlu, &gpu, &[x.clone(), up], seed);
            ok(SigmoidGate, &gpu, &[x, Input::Tracked(Array::random(&[tokens, 1], seed + 4))], seed);
        }
    }
}

#[test]
fn large_logits_stay_finite() {
    let gpu = crate::common::gpu();
    let logits = Array::from_fn(&[40, 5], |i| [-3e4, 200.0, 0.0, 2e4, -95.0][(i * 7 + i / 5) % 5]);
    for score in [Score::Softmax, Score::Sigmoid] {
        ok(RouterScores { score }, &gpu, &[Input::Frozen(logits.clone())], 1);
    }
    ok(ZLoss { coefficient: 1.0 }, &gpu, &[Input::Frozen(logits.clone())], 1);
    ok(SwiGlu, &gpu, &[Input::Frozen(logits.clone()), Input::Frozen(logits.clone())], 1);
    let gate = Input::Frozen(Array::new(&[40, 1], logits.data[..40].to_vec()));
    ok(SigmoidGate, &gpu, &[Input::Frozen(logits), gate], 1);
    // Scores that vanish altogether: weights are 0, and nothing divides by zero.
    let index = Input::Index(Array::from_fn(&[3, 2], |i| (i % 2) as f64));
    let scores = Input::Frozen(Array::zeros(&[3, 4]));
    ok(CombineWeights { renormalize: true, scaling: 1.0 }, &gpu, &[scores, index], 1);
}

/// Bits of all outputs and gradients of a layer's ops. Inputs that one value feeds twice check that gradients add up.
fn layer(gpu: &Gpu, shape: [usize; 5]) -> Vec<Vec<u32>> {
    let [tokens, d, experts, top_k, tile_rows] = shape;
    let tensor = |dims: &[usize], seed: u64| Tensor::from_f32(gpu, dims, &Array::random(dims, seed).to_f32()).unwrap();
    let mut tape = Tape::new(gpu);
    let logits = tape.variable(&tensor(&[tokens, experts], 1));
    let x = tape.variable(&tensor(&[tokens, d], 2));
    let gate = tape.variable(&tensor(&[tokens, 1], 3));
    let scores = tape.apply(RouterScores { score: Score::Softmax }, &[logits]).unwrap();
    let routing = route(tape.value(scores), None, top_k, tile_rows).unwrap();
    let mut constant = |t: &Tensor| tape.constant(t);
    let (index, slot, source, counts) = (
        constant(&routing.index),
        constant(&routing.slot),
        constant(&routing.source),
        constant(&routing.groups.counts),
    );
    let weights = tape.apply(CombineWeights { renormalize: true, scaling: 1.5 }, &[scores, index]).unwrap();
    let rows = tape.apply(Permute, &[x, source, slot]).unwrap();
    let hidden = tape.apply(SwiGlu, &[rows, rows]).unwrap();
    let routed = tape.apply(Combine, &[hidden, weights, slot, source]).unwrap();
    let gated = tape.apply(SigmoidGate, &[x, gate]).unwrap();
    let balance = tape.apply(LoadBalance { coefficient: 0.5, top_k }, &[scores, counts]).unwrap();
    let z = tape.apply(ZLoss { coefficient: 0.5 }, &[logits]).unwrap();
    let outputs: Vec<(Var, Tensor)> =
        [routed, gated, balance, z].into_iter().map(|v| (v, tensor(tape.value(v).dims(), 9))).collect();
    let mut results: Vec<Tensor> = outputs.iter().map(|(v, _)| tape.value(*v).clone()).collect();
    results.push(tape.value(rows).clone());
    results.push(tape.value(weights).clone());
    let gradients = tape.backward(&outputs).unwrap();
    results.extend([logits, x, gate].map(|v| gradients.of(v).unwrap().clone()));
    let bits = |t: &Tensor| -> Vec<u32> {
        assert_eq!(t.dtype(), DType::F32);
        block_on(t.to_f32()).unwrap().into_iter().inspect(|v| assert!(v.is_finite())).map(f32::to_bits).collect()
    };
    results.iter().map(bits).collect()
}

#[test]
fn splitting_launches_and_running_twice_change_no_bit() {
    let whole = crate::common::gpu();
    let split = crate::common::small_binding(1 << 16);
    for shape in [[700, 64, 8, 2, 32], [900, 33, 5, 3, 8], [3000, 8, 300, 2, 16]] {
        let want = layer(&whole, shape);
        assert!(layer(&whole, shape) == want, "{shape:?} twice");
        for (i, (got, want)) in layer(&split, shape).iter().zip(&want).enumerate() {
            let worst = got.iter().zip(want).position(|(a, b)| a != b);
            assert!(got == want, "{shape:?}: result {i} differs at {worst:?}");
        }
    }
}

#[test]
fn more_than_65535_rows_are_permuted_and_combined() {
    let gpu = crate::common::gpu();
    let shape = [70_001, 2, 3, 1, 8];
    let routing = routed(&gpu, shape);
    let x: Vec<f32> = (0..2 * 70_001).map(|i| i as f32).collect();
    let mut tape = Tape::new(&gpu);
    let vars = [
        tape.constant(&Tensor::from_f32(&gpu, [70_001, 2], &x).unwrap()),
        tape.constant(&routing.source),
        tape.constant(&routing.slot),
    ];
    let rows = tape.apply(Permute, &vars).unwrap();
    let ones = tape.constant(&Tensor::from_f32(&gpu, [70_001, 1], &vec![1.0; 70_001]).unwrap());
    let y = tape.apply(Combine, &[rows, ones, vars[2], vars[1]]).unwrap();
    assert!(block_on(tape.value(y).to_f32()).unwrap() == x);
}

#[test]
fn rows_without_token_are_zero_and_never_read() {
    for gpu in crate::common::tiers() {
        let shape = [5, 12, 4, 2, 8];
        let routing = routed(&gpu, shape);
        let capacity = routing.groups.capacity;
        let source = block_on(routing.source.to_u32()).unwrap();
        let value = |i: usize| if source[i / 12] == NONE { f32::NAN } else { 1.0 };
        let z: Vec<f32> = (0..capacity * 12).map(value).collect();
        let mut tape = Tape::new(&gpu);
        let z = tape.variable(&Tensor::from_f32(&gpu, [capacity, 12], &z).unwrap());
        let weights = tape.variable(&Tensor::from_f32(&gpu, [5, 2], &[0.5; 10]).unwrap());
        let (slot, from) = (tape.constant(&routing.slot), tape.constant(&routing.source));
        let y = tape.apply(Combine, &[z, weights, slot, from]).unwrap();
        assert_eq!(block_on(tape.value(y).to_f32()).unwrap(), [1.0; 60]);
        let dy = Tensor::from_f32(&gpu, [5, 12], &[2.0; 60]).unwrap();
        let gradients = tape.backward(&[(y, dy)]).unwrap();
        let dz = block_on(gradients.of(z).unwrap().to_f32()).unwrap();
        for (row, source) in dz.chunks(12).zip(&source) {
            assert_eq!(row, [if *source == NONE { 0.0 } else { 1.0 }; 12]);
        }
        assert_eq!(block_on(gradients.of(weights).unwrap().to_f32()).unwrap(), [24.0; 10]);
    }
}

#[test]
fn wrong_shapes_are_named() {
    let gpu = crate::common::gpu();
    let (a, b) = (Tensor::zeros(&gpu, [4, 8]).unwrap(), Tensor::zeros(&gpu, [4, 7]).unwrap());
    let message = |op: &dyn Op, inputs: &[&Tensor]| op.forward(inputs).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message(&SwiGlu, &[&a, &b]).contains("[4, 7]"));
    assert!(message(&SigmoidGate, &[&a, &b]).contains("logit [T, 1]"));
    assert!(message(&Permute, &[&a, &b, &b]).contains("u32 source [R]"));
    assert!(message(&Combine, &[&a, &b, &b, &b]).contains("u32 slot [T, K]"));
    assert!(message(&CombineWeights { renormalize: true, scaling: 1.0 }, &[&a, &b]).contains("u32 index"));
    assert!(message(&LoadBalance { coefficient: 1.0, top_k: 2 }, &[&a, &b]).contains("u32 counts [E]"));
}

#[test]
fn a_repeated_layer_creates_nothing_and_waits_for_nothing() {
    let gpu = crate::common::own_gpu();
    let logits = Tensor::from_f32(&gpu, [300, 8], &Array::random(&[300, 8], 1).to_f32()).unwrap();
    let x = Tensor::from_f32(&gpu, [300, 16], &Array::random(&[300, 16], 2).to_f32()).unwrap();
    let step = || {
        let mut tape = Tape::new(&gpu);
        let (logits, x) = (tape.variable(&logits), tape.variable(&x));
        let scores = tape.apply(RouterScores { score: Score::Softmax }, &[logits]).unwrap();
        let routing = route(tape.value(scores), None, 2, 32).unwrap();
        let [index, slot, source, counts] =
            [&routing.index, &routing.slot, &routing.source, &routing.groups.counts].map(|t| tape.constant(t));
        let weights = tape.apply(CombineWeights { renormalize: true, scaling: 1.0 }, &[scores, index]).unwrap();
        let rows = tape.apply(Permute, &[x, source, slot]).unwrap();
        let y = tape.apply(Combine, &[rows, weights, slot, source]).unwrap();
        let loss = tape.apply(LoadBalance { coefficient: 0.01, top_k: 2 }, &[scores, counts]).unwrap();
        let seeds = [y, loss].map(|v| (v, tape.value(v).clone()));
        tape.backward(&seeds).unwrap();
        gpu.flush().unwrap();
    };
    (0..2).for_each(|_| step());
    let before = gpu.counters();
    (0..3).for_each(|_| step());
    let after = gpu.counters();
    assert_eq!(before.buffers_created, after.buffers_created);
    assert_eq!(before.bind_groups_created, after.bind_groups_created);
    assert_eq!(before.pipelines_created, after.pipelines_created);
    assert_eq!(before.waits, after.waits);
}
