//! Sizes at which one thread's loops would pass the 65,535 iterations that llvmpipe makes: results stay right, or the
//! limit is named. Sums of ones are exact: a loop that ends early gives another number.

use crate::common::{download, gpu, groups::groups, small_binding, tiers, upload};
use sdmoe::autograd::check::compare;
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::low_level::kernels::column_sum::{column_sum, column_sum_onto, rms_norm_dweight};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::low_level::kernels::grouped::{grouped_gemm, grouped_weight_gradient};
use sdmoe::low_level::kernels::loss::{losses_and_gradient, mean, token_losses};
use sdmoe::ops::{Attention, Combine, CrossEntropy, Embedding, RmsNorm};
use sdmoe::tensor::Tensor;

/// Beyond the limit by more than a remainder.
const LONG: usize = 70_003;

fn ones(shape: &[usize]) -> Array {
    Array::from_fn(shape, |_| 1.0)
}

#[test]
fn a_token_that_repeats_gathers_the_gradient_of_all_its_positions() {
    for gpu in tiers() {
        let token: Vec<u32> = (0..LONG as u32).map(|t| u32::from(t % 1000 == 999)).collect();
        let mut tape = Tape::new(&gpu);
        let table = tape.variable(&upload(&gpu, &ones(&[3, 4])));
        let token = tape.constant(&Tensor::from_u32(&gpu, [LONG], &token).unwrap());
        let y = tape.apply(Embedding, &[table, token]).unwrap();
        let gradients = tape.backward(&[(y, upload(&gpu, &ones(&[LONG, 4])))]).unwrap();
        let dtable = download(gradients.of(table).unwrap());
        assert_eq!(dtable, [[69_933.0; 4], [70.0; 4], [0.0; 4]].concat(), "{gpu:?}");
    }
}

#[test]
fn a_product_has_a_long_inner_dimension() {
    for gpu in tiers() {
        for (m, n) in [(1, 1), (1, 5), (5, 4), (20, 20)] {
            for (ta, tb) in [(Trans::T, Trans::N), (Trans::N, Trans::T)] {
                let a = upload(&gpu, &ones(&if ta == Trans::T { [LONG, m] } else { [m, LONG] }));
                let b = upload(&gpu, &ones(&if tb == Trans::N { [LONG, n] } else { [n, LONG] }));
                let c = upload(&gpu, &ones(&[m, n]));
                gemm(ta, tb, 1.0, &a, &b, 2.0, &c).unwrap();
                assert_eq!(download(&c), vec![LONG as f32 + 2.0; m * n], "{ta:?}{tb:?} {m}x{n} on {gpu:?}");
            }
        }
    }
}

#[test]
fn an_experts_gradient_is_summed_over_many_rows() {
    for gpu in tiers() {
        for (m, n) in [(1, 1), (4, 8)] {
            let host = groups(&gpu, &[30, LONG, 0, 5], 0);
            let x = host_rows(&host.groups.capacity, &host.offsets, &host.counts, m);
            let dy = host_rows(&host.groups.capacity, &host.offsets, &host.counts, n);
            let dw = upload(&gpu, &ones(&[4, m, n]));
            grouped_weight_gradient(&upload(&gpu, &x), &upload(&gpu, &dy), &host.groups, 1.0, &dw).unwrap();
            let want = [30, LONG, 0, 5].map(|count| vec![count as f32 + 1.0; m * n]).concat();
            assert_eq!(download(&dw), want, "{m}x{n} on {gpu:?}");
        }
    }
}

/// Ones in every expert's rows, zeros in the others.
fn host_rows(capacity: &usize, offsets: &[usize], counts: &[usize], columns: usize) -> Array {
    let routed = |row: usize| offsets.iter().zip(counts).any(|(&first, &count)| (first..first + count).contains(&row));
    Array::from_fn(&[*capacity, columns], |i| f64::from(u8::from(routed(i / columns))))
}

#[test]
fn an_experts_matrix_has_a_long_inner_dimension() {
    for gpu in tiers() {
        let host = groups(&gpu, &[3], 0);
        let rows = host.groups.capacity;
        let (x, y) = (upload(&gpu, &ones(&[rows, LONG])), upload(&gpu, &ones(&[rows, 4])));
        let w = upload(&gpu, &ones(&[1, LONG, 4]));
        grouped_gemm(&x, &w, Trans::N, &host.groups, &y).unwrap();
        assert_eq!(download(&y)[..12], [LONG as f32; 12], "{gpu:?}");
        let w = upload(&gpu, &ones(&[1, 4, LONG]));
        match grouped_gemm(&x, &w, Trans::T, &host.groups, &y) {
            Ok(()) => assert_eq!(download(&y)[..12], [LONG as f32; 12], "{gpu:?}"),
            Err(error) => assert!(error.to_string().contains("inner dimension of at most"), "{error}"),
        }
    }
}

#[test]
fn rows_of_logits_and_of_features_are_long() {
    for gpu in tiers() {
        for v in [50_257, 4 * LONG] {
            let logits = Array::random(&[2, v], 1).map(|x| 3.0 * x);
            let logits = Array::from_f32(&[2, v], &logits.to_f32());
            let targets = [7, v as u32 - 1];
            let (device, index) = (upload(&gpu, &logits), Tensor::from_u32(&gpu, [2], &targets).unwrap());
            let losses = token_losses(&device, &index).unwrap();
            let want = CrossEntropy.reference(&[logits.clone(), Array::new(&[2], targets.map(f64::from).to_vec())]);
            compare("loss", &download(&mean(&losses).unwrap()), &want, 1e-5).unwrap();
            let (_, gradient) = losses_and_gradient(&device, &index, 1.0).unwrap();
            for row in download(&gradient).chunks(v) {
                // Softmax sums to 1 and the target takes 1 away; rounding of v terms that sum to 1.
                let sum: f64 = row.iter().map(|x| f64::from(*x)).sum();
                assert!(sum.abs() < 1e-5 && row.iter().all(|x| x.is_finite()), "{sum:e} of {v} on {gpu:?}");
            }
        }
        let (x, weight) = (Array::random(&[2, LONG], 1), Array::random(&[LONG], 2));
        let y = RmsNorm { eps: 1e-5 }.forward(&[&upload(&gpu, &x), &upload(&gpu, &weight)]).unwrap().output;
        compare("rms_norm", &download(&y), &RmsNorm { eps: 1e-5 }.reference(&[x, weight]), 1e-5).unwrap();
    }
}

#[test]
fn a_token_combines_many_long_rows() {
    for gpu in tiers() {
        let (d, k) = (8195, 64);
        let z = upload(&gpu, &ones(&[k, d]));
        let order: Vec<u32> = (0..k as u32).collect();
        let slot = Tensor::from_u32(&gpu, [1, k], &order).unwrap();
        let source = Tensor::from_u32(&gpu, [k], &order).unwrap();
        let y = Combine.forward(&[&z, &upload(&gpu, &ones(&[1, k])), &slot, &source]).unwrap().output;
        assert!(download(&y).iter().all(|v| *v == k as f32), "{gpu:?}");
    }
}

/// dk and dv of keys and values with one head, or with the same content in a head for each query head.
fn key_gradients(gpu: &sdmoe::gpu::Gpu, op: Attention, repeat: usize) -> [Array; 2] {
    let Attention { heads, head_dim, seq, .. } = op;
    let wide = |seed| {
        let one = Array::random(&[seq, head_dim], seed);
        Array::from_fn(&[seq, repeat * head_dim], |i| one.row(i / (repeat * head_dim))[i % head_dim])
    };
    let q = upload(gpu, &Array::random(&[seq, heads * head_dim], 1));
    let dy = upload(gpu, &Array::random(&[seq, heads * head_dim], 2));
    let mut tape = Tape::new(gpu);
    let (q, k, v) = (tape.constant(&q), tape.variable(&upload(gpu, &wide(3))), tape.variable(&upload(gpu, &wide(4))));
    let y = tape.apply(Attention { kv_heads: repeat, ..op }, &[q, k, v]).unwrap();
    let gradients = tape.backward(&[(y, dy)]).unwrap();
    [k, v].map(|x| {
        let all = Array::from_f32(&[seq, repeat * head_dim], &download(gradients.of(x).unwrap()));
        let sum = |i: usize| (0..repeat).map(|h| all.row(i / head_dim)[h * head_dim + i % head_dim]).sum();
        Array::from_fn(&[seq, head_dim], sum)
    })
}

#[test]
fn many_query_heads_share_a_key_head() {
    // Subgroups: 72 heads of 32 tiles of 33 iterations. Tiles in workgroup memory: 3000 heads of one tile of 40.
    for (op, gpus) in [(Attention::new(72, 1, 128, 512), vec![gpu()]), (Attention::new(3000, 1, 6, 32), tiers())] {
        for gpu in gpus {
            let (got, want) = (key_gradients(&gpu, op, 1), key_gradients(&gpu, op, op.heads));
            for (what, (got, want)) in ["dk", "dv"].into_iter().zip(got.iter().zip(&want)) {
                // Sums of up to heads x seq terms, both ways in f32.
                compare(what, &got.to_f32(), want, 2e-5).unwrap_or_else(|e| panic!("{op:?} on {gpu:?}: {e}"));
            }
        }
    }
}

#[test]
fn a_sequence_too_long_for_the_adapters_loops_is_refused_by_name() {
    let gpu = gpu();
    if gpu.adapter().loop_limit() == usize::MAX {
        return crate::common::untested("the adapter's loops have no limit");
    }
    let op = Attention::new(1, 1, 6, 90_000);
    let x = Tensor::zeros(&gpu, [90_000, 6]).unwrap();
    let error = op.forward(&[&x, &x, &x]).err().unwrap().to_string();
    assert!(error.contains("60000 loop iterations") && error.contains("seq 90000"), "{error}");
}

#[test]
fn a_window_takes_a_sequence_of_any_length() {
    for gpu in tiers() {
        let whole = Attention { window: Some(50), ..Attention::new(1, 1, 6, 90_000) };
        let [q, k, v] = [1, 2, 3].map(|seed| upload(&gpu, &Array::random(&[90_000, 6], seed)));
        let y = whole.forward(&[&q, &k, &v]).unwrap().output;
        // The last 192 rows by themselves: from the 50th on they see the same keys.
        let end = 90_000 - 192..90_000;
        let own = Attention { seq: 192, ..whole };
        let [q, k, v] = [q, k, v].map(|x| x.slice(end.clone()).unwrap());
        let want = download(&own.forward(&[&q, &k, &v]).unwrap().output);
        let got = download(&y.slice(end).unwrap());
        let want = Array::from_f32(&[143, 6], &want[49 * 6..]);
        compare("the end", &got[49 * 6..], &want, 1e-6).unwrap_or_else(|e| panic!("{gpu:?}: {e}"));
    }
}

#[test]
fn columns_are_summed_over_any_number_of_rows_with_the_same_bits_however_split() {
    for gpu in tiers() {
        for columns in [1, 3, 4] {
            let x = upload(&gpu, &ones(&[300_001, columns]));
            assert_eq!(download(&column_sum(&x).unwrap()), vec![300_001.0; columns], "{gpu:?}");
            let y = upload(&gpu, &ones(&[columns]));
            column_sum_onto(&x, -2.0, &y).unwrap();
            assert_eq!(download(&y), vec![299_999.0; columns], "{gpu:?}");
            column_sum_onto(&x.slice(0..1).unwrap(), 1.0, &y).unwrap();
            assert_eq!(download(&y), vec![300_000.0; columns], "{gpu:?}");
        }
    }
    for (rows, d) in [(1, 5), (700, 33), (3001, 64), (257, 130)] {
        let bits = |gpu: &sdmoe::gpu::Gpu| {
            let [x, dy] = [1, 2].map(|seed| upload(gpu, &Array::random(&[rows, d], seed)));
            let (r, dweight) = (upload(gpu, &Array::random(&[rows], 3)), upload(gpu, &ones(&[d])));
            rms_norm_dweight(&x, &r, &dy, 0.5, &dweight).unwrap();
            [download(&column_sum(&x).unwrap()), download(&dweight)].concat().into_iter().map(f32::to_bits).collect()
        };
        let (whole, split): (Vec<u32>, Vec<u32>) = (bits(&gpu()), bits(&small_binding(1 << 16)));
        assert!(whole == split, "{rows} rows of {d}");
    }
}
