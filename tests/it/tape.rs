//! What a tape keeps, what it frees, and what it makes again.

use crate::common::{download, own_gpu as gpu, upload};
use sdmoe::Result;
use sdmoe::autograd::{Array, Backward, Forward, Op, Reads, Tape, Var};
use sdmoe::gpu::Gpu;
use sdmoe::ops::{Add, MatMul, RmsNorm, SwiGlu};
use sdmoe::tensor::Tensor;

const ROWS: usize = 40;
const WIDTH: usize = 24;
/// Bytes of one value.
const VALUE: u64 = (ROWS * WIDTH * 4) as u64;

fn variable(gpu: &Gpu, tape: &mut Tape, seed: u64) -> Var {
    tape.variable(&upload(gpu, &Array::random(&[ROWS, WIDTH], seed)))
}

#[test]
fn a_value_that_no_backward_reads_is_freed_when_it_is_released() {
    let gpu = gpu();
    let mut tape = Tape::new(&gpu);
    let (a, b) = (variable(&gpu, &mut tape, 1), variable(&gpu, &mut tape, 2));
    let sum = tape.apply(Add, &[a, b]).unwrap();
    let y = tape.apply(SwiGlu, &[sum, b]).unwrap();
    tape.release(&[a, b, sum, y]);
    assert_eq!(tape.held_bytes(), 2 * VALUE, "the inputs of the product alone");
    for freed in [a, y] {
        let error = tape.apply(Add, &[freed, b]).unwrap_err().to_string();
        assert!(error.contains("add") && error.contains("freed"), "{error}");
    }
    // What is held by a handle outside stays what it was.
    let shared = upload(&gpu, &Array::random(&[ROWS, WIDTH], 3));
    let outside = tape.constant(&shared);
    tape.release(&[outside]);
    assert_eq!(download(&shared), Array::random(&[ROWS, WIDTH], 3).to_f32());
}

#[test]
fn a_buffer_that_is_freed_in_the_forward_is_used_again_in_it() {
    let gpu = gpu();
    let created = |release: bool| {
        let before = gpu.counters().pooled_bytes;
        let mut tape = Tape::new(&gpu);
        let mut x = variable(&gpu, &mut tape, 4);
        for _ in 0..20 {
            let next = tape.apply(Add, &[x, x]).unwrap();
            if release {
                tape.release(&[x]);
            }
            x = next;
        }
        gpu.counters().pooled_bytes - before
    };
    let few = created(true);
    let many = created(false);
    assert!(few < 4 * VALUE && many > 14 * VALUE, "{few} and {many} bytes");
}

/// Two norms and two products in a chain, as `layers` of a model, and the gradients of all leaves.
fn chain(gpu: &Gpu, recompute: bool, release: bool) -> (u64, Vec<Vec<f32>>) {
    let mut tape = Tape::new(gpu).recomputing(recompute);
    let first = variable(gpu, &mut tape, 5);
    let mut leaves = vec![first];
    let mut x = first;
    for layer in 0..3 {
        let weight = tape.variable(&upload(gpu, &Array::random(&[WIDTH], 10 + layer)));
        let matrix = tape.variable(&upload(gpu, &Array::random(&[WIDTH, WIDTH], 20 + layer)));
        leaves.extend([weight, matrix]);
        let normed = tape.apply_recomputed(RmsNorm { eps: 1e-6 }, &[x, weight]).unwrap();
        let hidden = tape.apply_recomputed(SwiGlu, &[normed, x]).unwrap();
        let product = tape.apply_recomputed(MatMul { trans_b: false }, &[hidden, matrix]).unwrap();
        let next = tape.apply(Add, &[x, product]).unwrap();
        if release {
            tape.release(&[x, normed, hidden, product]);
        }
        x = next;
    }
    let seed = upload(gpu, &Array::random(&[ROWS, WIDTH], 6));
    let held = tape.held_bytes();
    let gradients = tape.backward(&[(x, seed)]).unwrap();
    (held, leaves.iter().map(|&leaf| download(gradients.of(leaf).unwrap())).collect())
}

#[test]
fn what_is_made_again_gives_the_same_gradients_to_the_bit() {
    let gpu = gpu();
    let (kept, plain) = chain(&gpu, false, true);
    let (saved, again) = chain(&gpu, true, true);
    assert!(plain == again);
    assert!(plain == chain(&gpu, true, false).1, "nothing released");
    assert!(plain == chain(&gpu, false, false).1, "nothing released, nothing made again");
    // Of each layer x stays, with the norm's factors; the norm's output and the product's input are made again. The
    // product's output is read by nobody: nothing is held to make it.
    let leaves = 3 * (WIDTH + WIDTH * WIDTH + ROWS) as u64 * 4;
    assert_eq!((kept, saved), (9 * VALUE + leaves, 3 * VALUE + leaves));
}

/// `y = a + b` with a backward that reads its first input without saying so.
struct Careless;

impl Op for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    fn forward(&self, inputs: &[&Tensor]) -> Result<Forward> {
        Add.forward(inputs)
    }

    fn backward(&self, pass: &mut Backward<'_>) -> Result<()> {
        let x = pass.input(0);
        pass.add(0, x)
    }

    fn reads(&self) -> Reads {
        Reads::inputs([1])
    }

    fn reference(&self, inputs: &[Array]) -> Array {
        Add.reference(inputs)
    }
}

#[test]
#[should_panic(expected = "careless: backward reads input 0")]
fn an_op_that_reads_what_it_did_not_name_is_found_at_its_first_backward() {
    let gpu = gpu();
    let mut tape = Tape::new(&gpu);
    let (a, b) = (variable(&gpu, &mut tape, 7), variable(&gpu, &mut tape, 8));
    let y = tape.apply(Careless, &[a, b]).unwrap();
    let seed = tape.value(y).clone();
    drop(tape.backward(&[(y, seed)]));
}

#[test]
fn reads_name_inputs_by_number() {
    assert!(Reads::ALL.input(40) && Reads::ALL.output());
    assert!(!Reads::NONE.input(0) && !Reads::NONE.output());
    let reads = Reads::inputs([0, 2]).and_output();
    assert_eq!([0, 1, 2, 33].map(|i| reads.input(i)), [true, false, true, false]);
    assert!(reads.output() && !Reads::inputs([0]).output());
}
