//! Attention to a window of keys and with a scale of one's own, forward and backward in every tier.

use crate::common::{download, gpu, tiers, upload};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::ops::Attention;
use sdmoe::tensor::Tensor;

fn passes(gpu: &Gpu, op: Attention, batch: usize, seed: u64) {
    let what = format!("{op:?} on {gpu:?}");
    let (rows, kv) = (batch * op.seq, op.kv_heads * op.head_dim);
    let arrays = [[rows, op.heads * op.head_dim], [rows, kv], [rows, kv]];
    let arrays = [0, 1, 2].map(|i| Array::random(&arrays[i], seed + i as u64));
    let inputs = arrays.clone().map(Input::Tracked);
    block_on(check(gpu, op, &inputs, Tolerance::default(), seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
    if gpu.require_f16().is_ok() {
        // The gradients use delta = <dy, y> with y as stored, in sums that cancel: dp - delta.
        let inputs = arrays.map(Input::Half);
        block_on(check(gpu, op, &inputs, Tolerance::half(1.0, 4.0), seed)).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

#[test]
fn a_query_sees_its_window_and_no_key_before_it() {
    let shapes = [
        ([1, 1, 1, 1, 2], &[1][..]),
        ([3, 2, 1, 1, 6], &[2]),
        ([2, 33, 4, 2, 32], &[16, 33]),
        ([1, 97, 2, 1, 16], &[15, 64]),
        ([2, 65, 2, 1, 5], &[33]),
        ([1, 130, 2, 2, 64], &[50]),
        ([1, 70, 1, 1, 128], &[33]),
        ([1, 70, 1, 1, 131], &[20]),
        ([1, 65, 1, 1, 256], &[7]),
    ];
    for gpu in tiers() {
        for (i, ([batch, seq, heads, kv_heads, head_dim], windows)) in shapes.into_iter().enumerate() {
            for &window in windows {
                let op = Attention { window: Some(window), ..Attention::new(heads, kv_heads, head_dim, seq) };
                passes(&gpu, op, batch, i as u64);
            }
        }
    }
}

#[test]
fn a_window_of_one_key_gives_its_value() {
    for gpu in tiers() {
        for head_dim in [32, 5] {
            let op = Attention { window: Some(1), ..Attention::new(2, 2, head_dim, 67) };
            let [q, k, v] = [1, 2, 3].map(|seed| upload(&gpu, &Array::random(&[67, 2 * head_dim], seed)));
            assert!(download(&op.forward(&[&q, &k, &v]).unwrap().output) == download(&v), "{gpu:?}");
        }
    }
}

#[test]
fn scores_are_multiplied_by_a_scale_of_ones_own() {
    for gpu in tiers() {
        passes(&gpu, Attention { scale: Some(0.268_555_3), ..Attention::new(4, 2, 24, 19) }, 2, 1);
        passes(&gpu, Attention { scale: Some(-0.3), window: Some(9), ..Attention::new(2, 1, 7, 41) }, 1, 2);
    }
}

/// Output and gradients.
fn run(gpu: &Gpu, op: Attention) -> Vec<Vec<f32>> {
    let leaf = |heads: usize, seed| upload(gpu, &Array::random(&[op.seq, heads * op.head_dim], seed));
    let mut tape = Tape::new(gpu);
    let inputs = [leaf(op.heads, 1), leaf(op.kv_heads, 2), leaf(op.kv_heads, 3)].map(|x: Tensor| tape.variable(&x));
    let y = tape.apply(op, &inputs).unwrap();
    let value = download(tape.value(y));
    let gradients = tape.backward(&[(y, leaf(op.heads, 4))]).unwrap();
    let gradients = inputs.map(|x| download(gradients.of(x).unwrap()));
    [[value].as_slice(), &gradients].concat()
}

#[test]
fn a_window_of_the_whole_sequence_and_the_usual_scale_change_no_bit() {
    for gpu in tiers() {
        for head_dim in [32, 6] {
            let plain = Attention::new(4, 2, head_dim, 75);
            let want = run(&gpu, plain);
            for window in [75, 76, usize::MAX] {
                assert!(run(&gpu, Attention { window: Some(window), ..plain }) == want, "{window} on {gpu:?}");
            }
            let scale = (head_dim as f64).sqrt().recip() as f32;
            let scaled = run(&gpu, Attention { scale: Some(scale), ..plain });
            let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-6;
            assert!(!scaled.concat().iter().zip(&want.concat()).any(far), "{gpu:?}");
        }
    }
}

#[test]
fn windows_and_scales_that_mean_nothing_are_named() {
    let x = Tensor::zeros(&gpu(), [6, 4]).unwrap();
    let plain = Attention::new(1, 1, 4, 6);
    for op in [Attention { window: Some(0), ..plain }, Attention { scale: Some(f32::NAN), ..plain }] {
        let message = op.forward(&[&x, &x, &x]).err().unwrap().to_string();
        assert!(message.contains("window >= 1, a finite scale"), "{message}");
    }
}
