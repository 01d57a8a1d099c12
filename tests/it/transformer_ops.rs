//! The dense ops of the transformer: forward against f64, backward against central differences, in every tier.

use crate::common::{small_bindings, tiers};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check, compare};
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::{Gpu, Tier, reflect};
use sdmoe::low_level::kernels::loss::{mean, token_losses};
use sdmoe::ops::{Add, Attention, CrossEntropy, Embedding, RmsNorm, Rope, RotaryTable};
use sdmoe::tensor::Tensor;

fn passes(gpu: &Gpu, op: impl Op + std::fmt::Debug + 'static, inputs: &[Input], seed: u64) {
    let what = format!("{op:?} on {gpu:?}");
    block_on(check(gpu, op, inputs, Tolerance::default(), seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
}

fn tracked(shape: &[usize], seed: u64) -> Input {
    Input::Tracked(Array::random(shape, seed))
}

/// Numbers below `bound`, spread without pattern.
fn indices(count: usize, bound: usize, seed: usize) -> Array {
    Array::from_fn(&[count], |i| (((i + seed + 1) * 2_654_435_761) % 4_294_967_296 / 7 % bound) as f64)
}

#[test]
fn every_kernel_is_valid_and_has_a_name_of_its_own() {
    let mut names: Vec<&str> = sdmoe::ops::kernels().iter().map(|v| v.kernel.name).collect();
    for variant in sdmoe::low_level::catalog::kernels() {
        reflect(variant.kernel).unwrap();
    }
    names.dedup();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(count, names.len());
}

#[test]
fn add_gives_the_sum_and_passes_its_gradient_to_both() {
    for gpu in tiers() {
        for shape in [&[1][..], &[7, 33], &[64, 128], &[3, 5, 4]] {
            passes(&gpu, Add, &[tracked(shape, 1), tracked(shape, 2)], 3);
        }
    }
}

#[test]
fn rms_norm_matches_over_rows_and_widths() {
    let shapes = [(1, 1), (1, 4), (3, 2), (7, 33), (65, 128), (131, 6), (67, 256), (2, 1000)];
    for gpu in tiers() {
        for (i, (rows, d)) in shapes.into_iter().enumerate() {
            // A row of one element is normed to its sign: but for eps its gradient is the difference of equal numbers.
            let eps = if d == 1 { 0.5 } else { 1e-5 };
            passes(&gpu, RmsNorm { eps }, &[tracked(&[rows, d], i as u64), tracked(&[d], 77)], i as u64);
        }
    }
}

#[test]
fn rms_norm_of_zero_rows_is_zero_with_finite_gradients() {
    for gpu in tiers() {
        let x = Array::zeros(&[5, 12]);
        let (mut tape, zero) = (Tape::new(&gpu), Tensor::zeros(&gpu, [5, 12]).unwrap());
        let weight = Tensor::from_f32(&gpu, [12], &[1.5; 12]).unwrap();
        let (a, w) = (tape.variable(&zero), tape.variable(&weight));
        let y = tape.apply(RmsNorm { eps: 1e-6 }, &[a, w]).unwrap();
        compare("y", &block_on(tape.value(y).to_f32()).unwrap(), &x, 0.0).unwrap();
        let gradients = tape.backward(&[(y, weight_rows(&gpu))]).unwrap();
        let dx = block_on(gradients.of(a).unwrap().to_f32()).unwrap();
        assert!(dx.iter().all(|v| (v - 1500.0).abs() < 1e-2), "{dx:?}");
    }
}

fn weight_rows(gpu: &Gpu) -> Tensor {
    Tensor::from_f32(gpu, [5, 12], &[1.0; 60]).unwrap()
}

fn attention_inputs(op: &Attention, batch: usize, seed: u64) -> [Input; 3] {
    let rows = batch * op.seq;
    let kv = [rows, op.kv_heads * op.head_dim];
    [tracked(&[rows, op.heads * op.head_dim], seed), tracked(&kv, seed + 1), tracked(&kv, seed + 2)]
}

#[test]
fn attention_matches_over_awkward_shapes() {
    let shapes = [
        (1, 1, 1, 1, 2),
        (3, 2, 1, 1, 6),
        (1, 31, 3, 1, 8),
        (2, 33, 6, 3, 32),
        (1, 65, 6, 2, 32),
        (2, 17, 3, 3, 48),
        (1, 33, 2, 1, 64),
        (1, 37, 1, 1, 128),
        (1, 3, 2, 2, 100),
        (2, 5, 6, 1, 30),
        // Tiles of 32 rows, and blocks of columns of 32, 64 and 128.
        (1, 130, 2, 1, 16),
        (2, 64, 2, 2, 32),
        (1, 7, 4, 2, 64),
        (1, 65, 2, 1, 96),
        (1, 64, 2, 1, 128),
        (1, 31, 2, 2, 192),
        (1, 65, 2, 1, 256),
        (2, 65, 2, 1, 5),
        (1, 31, 1, 1, 1),
        (1, 7, 2, 1, 131),
    ];
    for gpu in tiers() {
        for (i, (batch, seq, heads, kv_heads, head_dim)) in shapes.into_iter().enumerate() {
            let op = Attention::new(heads, kv_heads, head_dim, seq);
            passes(&gpu, op, &attention_inputs(&op, batch, i as u64), i as u64);
        }
    }
}

#[test]
fn a_wide_heads_numbers_are_the_same_to_the_bit_however_many_workgroups_make_its_columns() {
    // The subgroup kernels know one way.
    for gpu in tiers().into_iter().filter(|gpu| gpu.tier() == Tier::Gpu) {
        for (head_dim, seq, heads, many) in [(72, 5, 8, 32), (130, 33, 8, 16)] {
            let op = Attention::new(heads, heads / 2, head_dim, seq);
            // `many` copies of two sequences: beyond two of them a workgroup takes more columns.
            let run = |copies: usize| {
                let leaf = |heads: usize, seed| {
                    let one = Array::random(&[2 * seq, heads * head_dim], seed).to_f32();
                    Tensor::from_f32(&gpu, [2 * copies * seq, heads * head_dim], &one.repeat(copies)).unwrap()
                };
                let mut tape = Tape::new(&gpu);
                let inputs = [leaf(heads, 1), leaf(heads / 2, 2), leaf(heads / 2, 3)].map(|x| tape.variable(&x));
                let y = tape.apply(op, &inputs).unwrap();
                let value = block_on(tape.value(y).to_f32()).unwrap();
                let gradients = tape.backward(&[(y, leaf(heads, 4))]).unwrap();
                let gradients = inputs.map(|x| block_on(gradients.of(x).unwrap().to_f32()).unwrap());
                [[value].as_slice(), &gradients].concat()
            };
            for (few, many) in run(1).into_iter().zip(run(many)) {
                assert!(many.chunks(few.len()).all(|copy| copy == few), "{op:?} on {gpu:?}");
            }
        }
    }
}

#[test]
fn one_variable_as_query_key_and_value_collects_all_three_gradients() {
    for gpu in tiers() {
        let op = Attention::new(2, 2, 8, 19);
        let x = Tensor::from_f32(&gpu, [38, 16], &Array::random(&[38, 16], 1).to_f32()).unwrap();
        let gradients = |apart: bool| {
            let mut tape = Tape::new(&gpu);
            let vars = if apart { [0; 3].map(|_| tape.variable(&x)) } else { [tape.variable(&x); 3] };
            let y = tape.apply(op, &vars).unwrap();
            let gradients = tape.backward(&[(y, x.clone())]).unwrap();
            vars.map(|v| Array::from_f32(&[38, 16], &block_on(gradients.of(v).unwrap().to_f32()).unwrap()))
        };
        let [dq, dk, dv] = gradients(true);
        let want = dq.zip(&dk, |a, b| a + b).zip(&dv, |a, b| a + b);
        compare("sum", &gradients(false)[0].to_f32(), &want, 1e-6).unwrap();
    }
}

#[test]
fn gradients_are_added_to_what_parameters_have_already() {
    for gpu in tiers() {
        let param = |shape: &[usize]| {
            let value = Tensor::from_f32(&gpu, shape, &Array::random(shape, 1).to_f32()).unwrap();
            (value, Tensor::from_f32(&gpu, shape, &vec![f32::NAN; shape.iter().product()]).unwrap())
        };
        let (table, weight) = (param(&[7, 12]), param(&[12]));
        let tokens = Tensor::from_u32(&gpu, [150], &indices(150, 7, 2).to_u32()).unwrap();
        let step = |accumulate: bool| {
            let mut tape = Tape::new(&gpu);
            let e = tape.parameter(&table.0, &table.1, accumulate);
            let w = tape.parameter(&weight.0, &weight.1, accumulate);
            let t = tape.constant(&tokens);
            let x = tape.apply(Embedding, &[e, t]).unwrap();
            let n = tape.apply(RmsNorm { eps: 1e-5 }, &[x, w]).unwrap();
            let loss = tape.apply(CrossEntropy, &[n, t]).unwrap();
            drop(tape.backward(&[(loss, Tensor::from_f32(&gpu, [1], &[1.0]).unwrap())]).unwrap());
            [&table.1, &weight.1].map(|g| block_on(g.to_f32()).unwrap())
        };
        for (once, twice) in step(false).into_iter().zip(step(true)) {
            let want = Array::from_f32(&[once.len()], &once).map(|g| 2.0 * g);
            compare("accumulated", &twice, &want, 1e-6).unwrap();
        }
    }
}

#[test]
fn attention_stays_finite_with_scores_in_the_hundreds() {
    for gpu in tiers() {
        let op = Attention::new(2, 1, 32, 40);
        let [Input::Tracked(q), Input::Tracked(k), v] = attention_inputs(&op, 1, 9) else { unreachable!() };
        let inputs = [Input::Tracked(q.map(|x| 12.0 * x)), Input::Tracked(k.map(|x| 12.0 * x)), v];
        // Scores of up to 600 have rounding errors of 600 * 2^-24 and more, which the exponential hands on.
        let tolerance = Tolerance { forward: 600.0 * 4.0 * 6e-8, backward: 600.0 * 8.0 * 6e-8 };
        block_on(check(&gpu, op, &inputs, tolerance, 4)).unwrap();
    }
}

#[test]
fn embedding_matches_with_repeated_and_missing_tokens() {
    for gpu in tiers() {
        for (i, (v, d, t)) in
            [(1, 1, 1), (5, 3, 7), (256, 32, 101), (1000, 12, 257), (17, 64, 1), (3, 6, 500)].into_iter().enumerate()
        {
            let table = tracked(&[v, d], i as u64);
            passes(&gpu, Embedding, &[table.clone(), Input::Index(indices(t, v, i))], i as u64);
            passes(&gpu, Embedding, &[table.clone(), Input::Index(Array::from_fn(&[t], |_| (v - 1) as f64))], i as u64);
            passes(&gpu, Embedding, &[table, Input::Index(Array::from_fn(&[t], |j| (v + j) as f64))], i as u64);
        }
    }
}

#[test]
fn cross_entropy_matches_and_its_gradient_with_it() {
    for gpu in tiers() {
        for (i, (t, v)) in
            [(1, 1), (1, 5), (7, 256), (131, 5), (101, 256), (13, 1000), (3, 1001)].into_iter().enumerate()
        {
            let targets = Input::Index(indices(t, v, i));
            passes(&gpu, CrossEntropy, &[tracked(&[t, v], i as u64), targets], i as u64);
            let same = Input::Index(Array::from_fn(&[t], |_| (v / 2) as f64));
            let large = Array::random(&[t, v], i as u64).map(|x| 40.0 * x + 300.0);
            passes(&gpu, CrossEntropy, &[Input::Tracked(Array::from_f32(&[t, v], &large.to_f32())), same], i as u64);
        }
    }
}

#[test]
fn token_losses_have_the_loss_as_their_mean_and_skip_unknown_targets() {
    for gpu in tiers() {
        let (t, v) = (67, 12);
        let logits = Array::random(&[t, v], 3);
        let targets = indices(t, v + 3, 1);
        let x = Tensor::from_f32(&gpu, [t, v], &logits.to_f32()).unwrap();
        let y = Tensor::from_u32(&gpu, [t], &targets.to_u32()).unwrap();
        let losses = token_losses(&x, &y).unwrap();
        let want = CrossEntropy.reference(&[logits, targets.clone()]);
        let total = mean(&losses).unwrap();
        compare("mean", &block_on(total.to_f32()).unwrap(), &want, 2e-6).unwrap();
        let host = block_on(losses.to_f32()).unwrap();
        assert!(host.iter().zip(&targets.data).all(|(l, &g)| (*l == 0.0) == (g >= v as f64)), "{host:?}");
    }
}

#[test]
fn tensors_beyond_one_binding_are_split() {
    for gpu in small_bindings(1 << 16) {
        // Above 64 KiB each: 1023 x 33 x 4 = 135 KB and more.
        passes(&gpu, Add, &[tracked(&[1023, 33], 1), tracked(&[1023, 33], 2)], 1);
        passes(&gpu, RmsNorm { eps: 1e-5 }, &[tracked(&[1023, 33], 1), tracked(&[33], 2)], 1);
        passes(&gpu, RmsNorm { eps: 1e-5 }, &[tracked(&[301, 128], 1), tracked(&[128], 2)], 1);
        passes(&gpu, Rope::new(&RotaryTable::new(&gpu, 12, 1e4).unwrap(), 3, 101), &[tracked(&[1010, 36], 1)], 1);
        let op = Attention::new(6, 2, 8, 11);
        passes(&gpu, op, &attention_inputs(&op, 43, 1), 1);
        passes(&gpu, Embedding, &[tracked(&[1000, 33], 1), Input::Index(indices(997, 1000, 3))], 1);
        passes(&gpu, CrossEntropy, &[tracked(&[997, 37], 1), Input::Index(indices(997, 37, 3))], 1);
        let long = Attention::new(8, 8, 32, 1024);
        let q = Tensor::zeros(&gpu, [1024, 256]).unwrap();
        assert!(long.forward(&[&q, &q, &q]).err().unwrap().to_string().contains("attention"));
    }
}

#[test]
fn more_than_65535_workgroups_are_laid_out_in_two_dimensions() {
    for gpu in tiers() {
        let rows = 65_537 * 64 + 1;
        let x = Tensor::zeros(&gpu, [rows, 1]).unwrap();
        let weight = Tensor::from_f32(&gpu, [1], &[3.0]).unwrap();
        let last = x.slice(rows / 64 * 64..rows).unwrap();
        last.write_f32(&vec![2.0; last.numel()]).unwrap();
        // On GPUs a row is a workgroup; the sum is there for the other tiers' 64 rows a workgroup.
        let y = RmsNorm { eps: 0.0 }.forward(&[&x.slice(0..70_000).unwrap(), &weight]).unwrap().output;
        assert_eq!(block_on(y.to_f32()).unwrap().len(), 70_000);
        let sum = Add.forward(&[&x, &x]).unwrap().output;
        let end = block_on(sum.slice(rows / 64 * 64..rows).unwrap().to_f32()).unwrap();
        assert!(end.iter().all(|&v| v == 4.0), "{end:?}");
        let op = Attention::new(1, 1, 4, 1);
        let v = Tensor::from_f32(&gpu, [70_000, 4], &Array::random(&[70_000, 4], 1).to_f32()).unwrap();
        let y = op.forward(&[&v, &v, &v]).unwrap().output;
        // A single key: the output is the value, to the last bit of p = 1.
        assert_eq!(block_on(y.to_f32()).unwrap(), block_on(v.to_f32()).unwrap());
    }
}

#[test]
fn the_same_work_gives_the_same_bits() {
    for gpu in tiers() {
        let run = || {
            let mut tape = Tape::new(&gpu);
            let mut leaf = |shape: &[usize], seed| {
                let t = Tensor::from_f32(&gpu, shape, &Array::random(shape, seed).to_f32()).unwrap();
                tape.variable(&t)
            };
            let (table, weight) = (leaf(&[29, 24], 1), leaf(&[24], 2));
            let tokens = Tensor::from_u32(&gpu, [74], &indices(74, 29, 1).to_u32()).unwrap();
            let tokens = tape.constant(&tokens);
            let x = tape.apply(Embedding, &[table, tokens]).unwrap();
            let n = tape.apply(RmsNorm { eps: 1e-5 }, &[x, weight]).unwrap();
            let q = tape.apply(Rope::new(&RotaryTable::new(&gpu, 8, 1e4).unwrap(), 3, 37), &[n]).unwrap();
            let a = tape.apply(Attention::new(3, 3, 8, 37), &[q, q, n]).unwrap();
            let y = tape.apply(Add, &[x, a]).unwrap();
            let loss = tape.apply(CrossEntropy, &[y, tokens]).unwrap();
            let value = block_on(tape.value(loss).to_f32()).unwrap();
            let seed = Tensor::from_f32(&gpu, [1], &[1.0]).unwrap();
            let gradients = tape.backward(&[(loss, seed)]).unwrap();
            let of = |v| block_on(gradients.of(v).unwrap().to_f32()).unwrap();
            [value, of(table), of(weight)].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }
}

#[test]
fn impossible_shapes_are_named() {
    let gpu = crate::common::gpu();
    let x = Tensor::zeros(&gpu, [6, 8]).unwrap();
    let y = Tensor::zeros(&gpu, [6, 6]).unwrap();
    let tokens = Tensor::from_u32(&gpu, [5], &[0; 5]).unwrap();
    let message = |result: sdmoe::Result<sdmoe::autograd::Forward>| result.err().unwrap().to_string();
    assert!(message(Add.forward(&[&x, &y])).contains("add"));
    assert!(message(RmsNorm { eps: 1e-5 }.forward(&[&x, &y])).contains("[8]"));
    let op = Attention::new(3, 2, 2, 6);
    assert!(message(op.forward(&[&y, &y, &y])).contains("divide"));
    let op = Attention::new(4, 2, 2, 6);
    assert!(message(op.forward(&[&x, &y, &y])).contains("k and v"));
    assert!(message(Embedding.forward(&[&x, &y])).contains("tokens"));
    assert!(message(CrossEntropy.forward(&[&x, &tokens])).contains("targets"));
}
