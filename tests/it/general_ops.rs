//! Ops that any model is made of: slices, concatenation, repetition, other shapes, products, factors, biases, limits.

use crate::common::{download, gpu, small_bindings, tiers, untested, upload};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::Gpu;
use sdmoe::ops::{Bias, Clamp, Concat, Multiply, RepeatRows, Reshape, Scale, Slice, SwiGlu};
use sdmoe::tensor::{DType, Tensor};

/// Whether activations are f32 or f16; the roundings of f16 results, forward and backward.
type Storage = (fn(Array) -> Input, Tolerance);

fn storages(gpu: &Gpu, forward: f64, backward: f64) -> Vec<Storage> {
    let mut all: Vec<Storage> = vec![(Input::Tracked, Tolerance::default())];
    if gpu.require_f16().is_ok() {
        all.push((Input::Half, Tolerance::half(forward, backward)));
    } else {
        untested("the adapter has no f16");
    }
    all
}

fn passes(gpu: &Gpu, op: impl Op + std::fmt::Debug + 'static, inputs: &[Input], tolerance: Tolerance) {
    let what = format!("{op:?} on {gpu:?}");
    block_on(check(gpu, op, inputs, tolerance, 3)).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// Random numbers none of which is near 0.75, where differences of a clamp's reference say nothing.
fn off_limits(shape: &[usize], seed: u64) -> Array {
    Array::random(shape, seed).map(|x| (16.0 * x).floor() / 16.0 + 1.0 / 32.0)
}

#[test]
fn a_slice_takes_its_columns_and_gives_the_others_no_gradient() {
    for gpu in tiers() {
        // Copies: nothing is rounded.
        for (input, tolerance) in storages(&gpu, 0.0, 0.0) {
            for (shape, start, width) in [
                (&[1][..], 0, 1),
                (&[7], 2, 5),
                (&[5, 24], 8, 16),
                (&[5, 24], 0, 24),
                (&[67, 33], 32, 1),
                (&[31, 12], 4, 7),
                (&[13, 3, 20], 4, 4),
                (&[2, 3, 5, 8], 1, 3),
            ] {
                passes(&gpu, Slice { start, width }, &[input(Array::random(shape, 1))], tolerance);
            }
        }
    }
}

#[test]
fn rows_are_put_behind_each_other_and_their_gradients_taken_apart() {
    for gpu in tiers() {
        for (input, tolerance) in storages(&gpu, 0.0, 0.0) {
            for (outer, widths) in [
                (&[][..], &[1][..]),
                (&[1], &[1, 1]),
                (&[7], &[8]),
                (&[5], &[16, 8]),
                (&[67], &[3, 4, 5]),
                (&[3, 11], &[8, 1, 4, 12]),
            ] {
                let part = |(i, &width): (usize, &usize)| input(Array::random(&[outer, &[width]].concat(), i as u64));
                passes(&gpu, Concat, &widths.iter().enumerate().map(part).collect::<Vec<_>>(), tolerance);
            }
        }
    }
}

#[test]
fn rows_are_repeated_and_their_gradients_summed() {
    for gpu in tiers() {
        // In f16 a gradient is the sum of numbers that dy has exactly, rounded once.
        for (input, tolerance) in storages(&gpu, 0.0, 1.0) {
            for (rows, width, times) in [(1, 1, 1), (1, 4, 3), (7, 5, 2), (5, 8, 16), (67, 3, 1)] {
                passes(&gpu, RepeatRows { times }, &[input(Array::random(&[rows, width], 1))], tolerance);
            }
        }
    }
}

#[test]
fn products_factors_and_limits_agree_with_the_reference() {
    for gpu in tiers() {
        for (input, tolerance) in storages(&gpu, 1.0, 1.0) {
            for shape in [&[1][..], &[63], &[64], &[7, 33], &[3, 5, 4], &[1000]] {
                let x = || input(Array::random(shape, 1));
                passes(&gpu, Multiply, &[x(), input(Array::random(shape, 2))], tolerance);
                passes(&gpu, Scale { factor: -1.7 }, &[x()], tolerance);
                passes(&gpu, Clamp { limit: 0.75 }, &[input(off_limits(shape, 1))], tolerance);
                passes(&gpu, Reshape { shape: [shape.iter().product()].into() }, &[x()], tolerance);
            }
        }
    }
}

#[test]
fn a_bias_is_added_to_each_row_and_its_gradient_is_f32() {
    for gpu in tiers() {
        for (input, tolerance) in storages(&gpu, 1.0, 0.0) {
            for shape in [&[1][..], &[7], &[5, 8], &[131, 6], &[3, 67, 4], &[300, 33]] {
                let b = Input::Tracked(Array::random(&shape[shape.len() - 1..], 2));
                passes(&gpu, Bias, &[input(Array::random(shape, 1)), b], tolerance);
            }
        }
    }
}

#[test]
fn tensors_beyond_one_binding_are_split() {
    for gpu in small_bindings(1 << 16) {
        // Above 64 KiB each in either type: 1023 x 33 x 4 = 135 KB and more.
        for (input, tolerance) in storages(&gpu, 1.0, 1.0) {
            let x = |shape: &[usize], seed| input(Array::random(shape, seed));
            passes(&gpu, Slice { start: 4, width: 17 }, &[x(&[2046, 33], 1)], tolerance);
            passes(&gpu, Slice { start: 8, width: 32 }, &[x(&[1023, 64], 1)], tolerance);
            passes(&gpu, Concat, &[x(&[2046, 12], 1), x(&[2046, 21], 2)], tolerance);
            passes(&gpu, RepeatRows { times: 5 }, &[x(&[1023, 33], 1)], tolerance);
            passes(&gpu, Multiply, &[x(&[1023, 65], 1), x(&[1023, 65], 2)], tolerance);
            passes(&gpu, Scale { factor: 0.3 }, &[x(&[1023, 65], 1)], tolerance);
            passes(&gpu, Clamp { limit: 0.75 }, &[input(off_limits(&[1023, 65], 1))], tolerance);
            passes(&gpu, Bias, &[x(&[1023, 65], 1), Input::Tracked(Array::random(&[65], 2))], tolerance);
        }
    }
}

#[test]
fn a_gradient_passes_a_limit_that_is_just_met() {
    let gpu = gpu();
    let x = Tensor::from_f32(&gpu, [5], &[-2.5, -2.0, 0.0, 2.0, 2.5]).unwrap();
    let mut tape = Tape::new(&gpu);
    let input = tape.variable(&x);
    let y = tape.apply(Clamp { limit: 2.0 }, &[input]).unwrap();
    assert_eq!(download(tape.value(y)), [-2.0, -2.0, 0.0, 2.0, 2.0]);
    let gradients = tape.backward(&[(y, upload(&gpu, &Array::from_fn(&[5], |_| 1.0)))]).unwrap();
    assert_eq!(download(gradients.of(input).unwrap()), [0.0, 1.0, 1.0, 1.0, 0.0]);
}

#[test]
fn parts_of_one_value_add_up_in_its_gradient() {
    let gpu = gpu();
    let x = upload(&gpu, &Array::random(&[3, 4], 1));
    let mut tape = Tape::new(&gpu);
    let input = tape.variable(&x);
    let [a, b] = [0, 1].map(|start| tape.apply(Slice { start, width: 3 }, &[input]).unwrap());
    let both = tape.apply(Concat, &[a, b, a]).unwrap();
    let dy = Array::from_fn(&[3, 9], |i| (i % 9) as f64);
    let gradients = tape.backward(&[(both, upload(&gpu, &dy))]).unwrap();
    // Columns 0 to 2 of dy and 6 to 8 belong to a, 3 to 5 to b.
    let want = [[0.0 + 6.0, 1.0 + 7.0 + 3.0, 2.0 + 8.0 + 4.0, 5.0]; 3].concat();
    assert_eq!(download(gradients.of(input).unwrap()), want);
}

#[test]
fn a_value_lives_on_in_another_shape_when_it_is_released_itself() {
    let gpu = gpu();
    let x = Array::random(&[6, 8], 1);
    let mut tape = Tape::new(&gpu);
    let input = tape.variable(&upload(&gpu, &x));
    let doubled = tape.apply(Scale { factor: 2.0 }, &[input]).unwrap();
    let (rows, columns) = (Reshape { shape: [4, 12].into() }, Reshape { shape: [12, 4].into() });
    let (rows, columns) = (tape.apply(rows, &[doubled]).unwrap(), tape.apply(columns, &[doubled]).unwrap());
    tape.release(&[doubled]);
    // Another tensor of that size must not get the memory.
    let other = Tensor::zeros(&gpu, [6, 8]).unwrap();
    assert_eq!(download(tape.value(rows)), x.map(|v| 2.0 * v).to_f32());
    drop(other);
    // Two values share the buffer that both gradients of one op belong to.
    let back = tape.apply(Reshape { shape: [4, 12].into() }, &[columns]).unwrap();
    let y = tape.apply(SwiGlu, &[rows, back]).unwrap();
    tape.release(&[rows, columns, back]);
    let gradients = tape.backward(&[(y, upload(&gpu, &Array::from_fn(&[4, 12], |_| 1.0)))]).unwrap();
    let silu_square = |z: f64| {
        let s = 1.0 / (1.0 + (-z).exp());
        s * (1.0 + z * (1.0 - s)) * z + z * s
    };
    let want = x.map(|&v| 2.0 * silu_square(2.0 * v));
    sdmoe::autograd::check::compare("dx", &download(gradients.of(input).unwrap()), &want, 1e-6).unwrap();
}

#[test]
fn gradients_are_added_to_what_parameters_have_already() {
    let gpu = gpu();
    let (value, gradient) = (upload(&gpu, &Array::random(&[8], 1)), upload(&gpu, &Array::from_fn(&[8], |_| 5.0)));
    let x = upload(&gpu, &Array::random(&[3, 8], 2));
    let mut tape = Tape::new(&gpu);
    let (x, b) = (tape.constant(&x), tape.parameter(&value, &gradient, true));
    let y = tape.apply(Bias, &[x, b]).unwrap();
    tape.backward(&[(y, upload(&gpu, &Array::from_fn(&[3, 8], |i| (i % 8) as f64)))]).unwrap();
    assert_eq!(download(&gradient), [5.0, 8.0, 11.0, 14.0, 17.0, 20.0, 23.0, 26.0]);
}

#[test]
fn impossible_shapes_are_named() {
    let gpu = gpu();
    let (x, y) = (Tensor::zeros(&gpu, [6, 8]).unwrap(), Tensor::zeros(&gpu, [5, 8]).unwrap());
    let index = Tensor::persistent(&gpu, [6, 8], DType::U32).unwrap();
    let message = |result: sdmoe::Result<sdmoe::autograd::Forward>| result.err().unwrap().to_string();
    assert!(message(Slice { start: 4, width: 5 }.forward(&[&x])).contains("9 or more"));
    assert!(message(Slice { start: 4, width: 0 }.forward(&[&x])).contains("width >= 1"));
    assert!(message(Slice { start: 2, width: usize::MAX }.forward(&[&x])).contains("slice"));
    assert!(message(Slice { start: 0, width: 4 }.forward(&[&index])).contains("elements of F32, got U32"));
    assert!(message(Concat.forward(&[])).contains("one or more"));
    assert!(message(Concat.forward(&[&x, &y])).contains("alike but for n"));
    assert!(message(Multiply.forward(&[&x, &y])).contains("[6, 8]"));
    assert!(message(Bias.forward(&[&x, &y])).contains("b f32 [n]"));
    assert!(message(RepeatRows { times: 0 }.forward(&[&x])).contains("times >= 1"));
    assert!(message(RepeatRows { times: usize::MAX }.forward(&[&x])).contains("repeat_rows"));
    assert!(message(Reshape { shape: [7, 7].into() }.forward(&[&x])).contains("48 elements"));
    assert!(message(Clamp { limit: -1.0 }.forward(&[&x])).contains("at least 0"));
    assert!(message(Clamp { limit: f32::NAN }.forward(&[&x])).contains("at least 0"));
    assert!(message(Scale { factor: 2.0 }.forward(&[&x, &x])).contains("1 input"));
}
