//! Ops of one's own that are functions of one number: every size, type and binding limit.

use crate::common::{gpu, small_bindings, tiers, untested, upload};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::tensor::{DType, Tensor};
use sdmoe::{Elementwise, elementwise};

static SQUARE: Elementwise = elementwise!(
    "square",
    "fn value(x: f32) -> f32 { return x * x; }
     fn derivative(x: f32) -> f32 { return 2.0 * x; }",
    |x| x * x
);

fn passes(gpu: &Gpu, input: Input, tolerance: Tolerance, seed: u64) {
    block_on(check(gpu, &SQUARE, &[input], tolerance, seed)).unwrap_or_else(|e| panic!("{gpu:?}: {e}"));
}

#[test]
fn every_shape_agrees_with_the_reference_in_every_tier_and_in_slices() {
    for gpu in tiers().into_iter().chain(small_bindings(1024)) {
        for shape in [&[1][..], &[63], &[64], &[65], &[3, 7, 11], &[1000]] {
            let seed = shape.len() as u64;
            passes(&gpu, Input::Tracked(Array::random(shape, seed)), Tolerance::default(), seed);
        }
    }
}

#[test]
fn activations_and_weights_in_f16_agree_with_the_reference() {
    let gpu = gpu();
    if gpu.require_f16().is_err() {
        return untested("the adapter has no f16");
    }
    // Roundings to f16: of y; of dx and of the dy that it is made of.
    let tolerance = Tolerance::half(1.0, 2.0);
    for shape in [&[1][..], &[65], &[5, 13]] {
        passes(&gpu, Input::Half(Array::random(shape, 1)), tolerance, 2);
        passes(&gpu, Input::HalfWeight(Array::random(shape, 1)), tolerance, 3);
    }
}

#[test]
fn more_workgroups_than_one_dimension_takes_reach_every_element() {
    let gpu = gpu();
    let n = 64 * 65535 + 64;
    let x = Tensor::zeros(&gpu, [n]).unwrap();
    // The last 64, so that the slice starts aligned.
    let mut last = [0.0; 64];
    last[63] = 3.0;
    x.slice(n - 64..n).unwrap().write_f32(&last).unwrap();
    let mut tape = Tape::new(&gpu);
    let input = tape.variable(&x);
    let output = tape.apply(&SQUARE, &[input]).unwrap();
    let y = block_on(tape.value(output).to_f32()).unwrap();
    assert_eq!((y[0], y[n - 1]), (0.0, 9.0));
}

#[test]
fn a_gradient_is_added_to_what_other_uses_gave() {
    let gpu = gpu();
    let x = Tensor::from_f32(&gpu, [2], &[3.0, -1.0]).unwrap();
    let mut tape = Tape::new(&gpu);
    let input = tape.variable(&x);
    let outputs = [tape.apply(&SQUARE, &[input]).unwrap(), tape.apply(&SQUARE, &[input]).unwrap()];
    let one = || upload(&gpu, &Array::from_fn(&[2], |_| 1.0));
    let gradients = tape.backward(&outputs.map(|output| (output, one()))).unwrap();
    assert_eq!(block_on(gradients.of(input).unwrap().to_f32()).unwrap(), [12.0, -4.0]);
}

#[test]
fn indices_and_a_wrong_number_of_inputs_are_errors() {
    let gpu = gpu();
    let mut tape = Tape::new(&gpu);
    let index = tape.constant(&Tensor::persistent(&gpu, [4], DType::U32).unwrap());
    let message = tape.apply(&SQUARE, &[index]).err().unwrap().to_string();
    assert!(message.contains("square") && message.contains("f32 or f16"), "{message}");
    let message = tape.apply(&SQUARE, &[]).err().unwrap().to_string();
    assert!(message.contains("1 input"), "{message}");
}
