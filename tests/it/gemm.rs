//! Matrix products, dense and grouped by expert: every tier, every transpose form, awkward shapes, small bindings.

use crate::common::groups::{HostGroups, groups};
use crate::common::{download, gpu, own_gpu, own_tiers, small_bindings, tiers, untested, upload};
use pollster::block_on;
use sdmoe::autograd::check::{Input, Tolerance, check};
use sdmoe::autograd::{Array, Op, Tape};
use sdmoe::gpu::{Gpu, Tier};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::low_level::kernels::grouped::{grouped_gemm, grouped_gemm_onto, grouped_weight_gradient};
use sdmoe::low_level::kernels::shapes::SHAPES;
use sdmoe::ops::{ExpertMatMul, MatMul};
use sdmoe::tensor::{DType, Tensor};

use Trans::{N, T};

const FORMS: [(Trans, Trans); 4] = [(N, N), (N, T), (T, N), (T, T)];

/// Compares `got` with `want` where the error of a sum of k products is at most `k eps (|A||B|)`, for f32 eps 6e-8; twice
/// that for alpha and beta. `bound` is `|A||B|`.
fn assert_close(what: &str, got: &[f32], want: &Array, bound: &Array, k: usize) {
    assert_eq!(got.len(), want.data.len(), "{what}");
    for (i, (&got, (&want, &bound))) in got.iter().zip(want.data.iter().zip(&bound.data)).enumerate() {
        let allowed = 2.0 * (k + 2) as f64 * 6e-8 * bound;
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= allowed,
            "{what}: element {i} is {got}, expected {want}; off by {error:e}, allowed {allowed:e}"
        );
    }
}

fn apply(t: Trans, x: Array) -> Array {
    if t == N { x } else { x.transpose() }
}

struct Case {
    forms: (Trans, Trans),
    sizes: [usize; 3],
    batch: usize,
    repeats: (usize, usize),
    factors: (f32, f32),
}

fn verify(gpu: &Gpu, case: &Case) {
    let &Case { forms: (ta, tb), sizes: [m, k, n], batch, repeats: (ra, rb), factors: (alpha, beta) } = case;
    let what = format!("{gpu:?} {ta:?}{tb:?} {m}x{k}x{n} batch {batch} repeats {ra}, {rb} alpha {alpha} beta {beta}");
    let shape = |t, count, r, c| if t == N { [count, r, c] } else { [count, c, r] };
    let a = Array::random(&shape(ta, batch / ra, m, k), 1);
    let b = Array::random(&shape(tb, batch / rb, k, n), 2);
    let before = if beta == 0.0 { Array::zeros(&[batch, m, n]) } else { Array::random(&[batch, m, n], 3) };
    let c = upload(gpu, &if beta == 0.0 { before.map(|_| f64::NAN) } else { before.clone() });
    gemm(ta, tb, alpha, &upload(gpu, &a), &upload(gpu, &b), beta, &c).unwrap();
    let got = download(&c);
    for z in 0..batch {
        let (x, y) = (apply(ta, a.matrix(z / ra)), apply(tb, b.matrix(z / rb)));
        let (alpha, beta) = (f64::from(alpha), f64::from(beta));
        let want = x.matmul(&y).zip(&before.matrix(z), |p, c| alpha * p + beta * c);
        let bound = x.map(|v| v.abs()).matmul(&y.map(|v| v.abs()));
        let bound = bound.zip(&before.matrix(z), |p, c| (alpha * p).abs() + (beta * c).abs());
        assert_close(&format!("{what} matrix {z}"), &got[z * m * n..(z + 1) * m * n], &want, &bound, k);
    }
}

#[test]
fn a_product_of_any_shape_equals_the_reference_in_every_tier_and_form() {
    let shapes = [
        [1, 1, 1],
        [1, 7, 1],
        [5, 1, 3],
        [4, 4, 4],
        [7, 33, 5],
        [8, 64, 40],
        [8, 31, 70],
        [64, 36, 8],
        [67, 20, 8],
        [12, 40, 44],
        [16, 24, 100],
        [32, 32, 32],
        [33, 5, 36],
        [97, 64, 68],
        [61, 103, 131],
        [128, 48, 64],
    ];
    for gpu in tiers() {
        for forms in FORMS {
            for sizes in shapes {
                verify(&gpu, &Case { forms, sizes, batch: 1, repeats: (1, 1), factors: (1.0, 0.0) });
            }
        }
    }
}

#[test]
fn every_shape_of_a_tile_equals_the_reference_with_sums_whole_and_cut() {
    let Some(gpu) = own_tiers().into_iter().find(|gpu| gpu.tier() == Tier::Gpu) else {
        return untested("no kernels for GPUs");
    };
    let run = |forms: &[(Trans, Trans)], sizes: &[[usize; 3]], splits: usize| {
        for (&forms, &sizes) in forms.iter().flat_map(|forms| sizes.iter().map(move |sizes| (forms, sizes))) {
            let (batch, beta) = if splits == 1 { (1, 0.0) } else { (2, 2.0) };
            verify(&gpu, &Case { forms, sizes, batch, repeats: (1, batch), factors: (0.5, beta) });
        }
    };
    for (index, shape) in SHAPES.iter().enumerate() {
        gpu.force_shape(Some((index as u32, 1)));
        // Each operand along the steps and across them, beyond a tile in each dimension.
        run(&[(N, T), (T, N)], &[[132, 40, 136]], 1);
        if SHAPES.iter().position(|other| other.block == shape.block) == Some(index) {
            // Rows of C alone, and of none, of multiples of 4 elements; within a tile.
            run(&FORMS, &[[131, 75, 67], [12, 40, 33]], 1);
            gpu.force_shape(Some((index as u32, 3)));
            run(&[(N, N), (T, T)], &[[36, 300, 40], [5, 107, 67]], 3);
        }
    }
    gpu.force_shape(None);
}

#[test]
fn factors_scale_the_product_and_what_was_there() {
    for gpu in tiers() {
        for forms in FORMS {
            for sizes in [[12, 20, 36], [9, 21, 35], [40, 12, 8]] {
                for factors in [(1.0, 1.0), (-0.5, 0.0), (2.0, 0.25)] {
                    verify(&gpu, &Case { forms, sizes, batch: 2, repeats: (1, 1), factors });
                }
            }
        }
    }
}

#[test]
fn a_batch_uses_each_matrix_of_an_operand_for_several_in_a_row() {
    for gpu in tiers() {
        for forms in FORMS {
            for sizes in [[8, 36, 32], [36, 32, 8], [5, 7, 11], [40, 8, 40]] {
                for repeats in [(1, 1), (3, 1), (1, 6), (2, 3), (6, 6)] {
                    verify(&gpu, &Case { forms, sizes, batch: 6, repeats, factors: (1.0, 0.0) });
                }
            }
        }
    }
}

#[test]
fn matrices_beyond_a_binding_are_split() {
    // Odd rows start aligned once in alignment / 4 of them, and so many must fit a binding, with what lies before a window.
    let odd = (16 << 10).max(gpu().offset_alignment() * 132);
    for (limit, cases) in [
        (
            16 << 10,
            // One matrix too large, in each dimension; many small ones; repeats across a cut.
            &[
                ([200, 40, 36], 1, (1, 1)),
                ([36, 200, 40], 1, (1, 1)),
                ([40, 36, 200], 2, (2, 1)),
                ([20, 24, 28], 24, (1, 8)),
                ([7, 9, 11], 60, (20, 3)),
            ][..],
        ),
        (odd, &[([131, 71, 67], 1, (1, 1))]),
    ] {
        for (gpu, forms) in small_bindings(limit).iter().flat_map(|gpu| FORMS.map(|forms| (gpu, forms))) {
            for (&(sizes, batch, repeats), factors) in
                cases.iter().flat_map(|c| [(1.0, 0.0), (0.5, 1.0)].map(|f| (c, f)))
            {
                verify(gpu, &Case { forms, sizes, batch, repeats, factors });
            }
        }
    }
}

#[test]
fn a_product_needs_more_workgroups_than_one_dimension_has() {
    let gpu = gpu();
    verify(&gpu, &Case { forms: (N, N), sizes: [1, 2, 1], batch: 70_000, repeats: (1, 70_000), factors: (1.0, 0.0) });
}

#[test]
fn a_long_inner_dimension_summed_in_parts_equals_the_reference() {
    for gpu in tiers() {
        for forms in FORMS {
            for sizes in [[184, 1032, 188], [183, 1030, 185]] {
                verify(&gpu, &Case { forms, sizes, batch: 1, repeats: (1, 1), factors: (0.5, 0.25) });
            }
        }
    }
}

#[test]
fn large_products_of_odd_sizes_go_through_padded_copies() {
    let gpu = gpu();
    for forms in FORMS {
        // Each size odd alone, then all; then in a batch, where the matrices of a stack begin anywhere.
        for (sizes, batch, repeats) in [
            ([201, 208, 204], 1, (1, 1)),
            ([200, 211, 204], 1, (1, 1)),
            ([200, 208, 207], 1, (1, 1)),
            ([203, 209, 205], 1, (1, 1)),
            ([199, 62, 195], 6, (2, 3)),
        ] {
            for factors in [(1.0, 0.0), (0.5, 0.25)] {
                verify(&gpu, &Case { forms, sizes, batch, repeats, factors });
            }
        }
    }
}

#[test]
fn large_products_of_few_steps_write_nothing_beyond_a_matrix() {
    for gpu in tiers() {
        // Three steps, and rows and columns that are no multiple of 4: what comes after a matrix is the next one.
        verify(&gpu, &Case { forms: (T, N), sizes: [601, 3, 603], batch: 8, repeats: (1, 1), factors: (1.0, 0.5) });
    }
}

#[test]
fn odd_tensors_that_end_with_their_buffer_are_padded_too() {
    let gpu = own_gpu();
    if !gpu.adapter().timestamps || gpu.tier() != Tier::Software {
        return untested("no kernels for software adapters or no timestamps");
    }
    let x = |rows, columns| Tensor::persistent(&gpu, [rows, columns], DType::F32).unwrap();
    let (a, b, c) = (x(203, 209), x(209, 205), x(203, 205));
    gpu.start_profile().unwrap();
    gemm(N, N, 1.0, &a, &b, 0.0, &c).unwrap();
    let trace = block_on(gpu.finish_trace()).unwrap();
    let kernels: Vec<_> = trace.iter().map(|dispatch| dispatch.kernel).collect();
    let has_u64 = gpu.device().features().contains(wgpu::Features::SHADER_INT64);
    let (copy, product) =
        if has_u64 { ("pad_u64", "gemm_subgroup_u64_scalar_c") } else { ("pad", "gemm_subgroup_scalar_c") };
    assert_eq!(kernels, [copy, copy, product]);
}

#[test]
fn products_of_wide_tiles_equal_the_reference_at_their_edges() {
    for gpu in tiers() {
        for forms in FORMS {
            // Columns in eights, in fours and not; rows and steps that are no multiple of 4; B that begins anywhere in a stack.
            for (sizes, batch) in [
                ([37, 45, 56], 2),
                ([33, 18, 120], 1),
                ([64, 64, 200], 2),
                ([5, 7, 40], 3),
                ([40, 36, 60], 2),
                ([40, 9, 61], 3),
            ] {
                verify(&gpu, &Case { forms, sizes, batch, repeats: (1, 1), factors: (0.5, 0.25) });
            }
        }
    }
}

#[test]
fn narrow_products_that_read_ahead_equal_the_reference() {
    for gpu in tiers() {
        // Inner dimensions that end before, with and after what is read ahead, and C at either side of narrow.
        for sizes in
            [[130, 4, 16], [130, 8, 16], [67, 61, 8], [16, 100, 132], [9, 27, 131], [200, 1100, 16], [200, 40, 17]]
        {
            for forms in [(T, N), (N, N)] {
                verify(&gpu, &Case { forms, sizes, batch: 2, repeats: (1, 1), factors: (0.5, 0.25) });
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_an_error_with_all_shapes() {
    let gpu = gpu();
    let x = |shape: &[usize]| Tensor::zeros(&gpu, shape).unwrap();
    let error = gemm(N, N, 1.0, &x(&[7, 33]), &x(&[32, 5]), 0.0, &x(&[7, 5])).unwrap_err().to_string();
    assert!(error.starts_with("gemm:") && error.contains("[7, 33]") && error.contains("[32, 5]"), "{error}");
    assert!(gemm(N, N, 1.0, &x(&[2, 7, 3]), &x(&[3, 5]), 0.0, &x(&[3, 7, 5])).is_err());
    let host = groups(&gpu, &[3, 4], 0);
    let error = grouped_gemm(&x(&[64, 8]), &x(&[3, 8, 5]), N, &host.groups, &x(&[64, 5])).unwrap_err().to_string();
    assert!(error.contains("[3, 8, 5]") && error.contains("E 2"), "{error}");
}

const COUNTS: [&[usize]; 7] =
    [&[1], &[70], &[0, 5, 0, 33, 1], &[200, 0, 0], &[0, 0, 129], &[64, 64], &[17, 3, 40, 0, 0, 96, 2, 31]];

fn verify_grouped(gpu: &Gpu, host: &HostGroups, m: usize, n: usize) {
    let what = format!("{gpu:?} rows {:?}, {m}x{n}", host.counts);
    let experts = host.counts.len();
    let (x, dy) = (host.rows(m, 1), host.rows(n, 2));
    let w = Array::random(&[experts, m, n], 3);
    let (tx, tdy, tw) = (upload(gpu, &x), upload(gpu, &dy), upload(gpu, &w));
    let rows = host.groups.capacity;
    let nan = |shape: &[usize]| upload(gpu, &Array::zeros(shape).map(|_| f64::NAN));
    let (y, dx, dw) = (nan(&[rows, n]), nan(&[rows, m]), nan(&[experts, m, n]));
    grouped_gemm(&tx, &tw, N, &host.groups, &y).unwrap();
    grouped_gemm(&tdy, &tw, T, &host.groups, &dx).unwrap();
    grouped_weight_gradient(&tx, &tdy, &host.groups, 0.0, &dw).unwrap();
    let (once, dw_once) = (download(&y), download(&dw));
    grouped_gemm_onto(&tx, &tw, N, &host.groups, 1.0, &y).unwrap();
    grouped_weight_gradient(&tx, &tdy, &host.groups, 1.0, &dw).unwrap();
    let (twice, dx, dw_twice) = (download(&y), download(&dx), download(&dw));
    let part =
        |all: &[f32], e: usize, columns: usize| all[host.offsets[e] * columns..host.offsets[e + 1] * columns].to_vec();
    let abs = |x: &Array| x.map(|v| v.abs());
    for e in 0..experts {
        let (xe, dye, we) = (host.of(&x, e), host.of(&dy, e), w.matrix(e));
        let (want, bound) = (xe.matmul(&we), abs(&xe).matmul(&abs(&we)));
        assert_close(&format!("{what}: y of {e}"), &part(&once, e, n), &want, &bound, m);
        let (want, bound) = (want.map(|v| 2.0 * v), bound.map(|v| 2.0 * v));
        assert_close(&format!("{what}: y of {e}, twice"), &part(&twice, e, n), &want, &bound, m);
        let (wt, count) = (we.transpose(), host.counts[e]);
        assert_close(
            &format!("{what}: dx of {e}"),
            &part(&dx, e, m),
            &dye.matmul(&wt),
            &abs(&dye).matmul(&abs(&wt)),
            n,
        );
        let (want, bound) = (xe.transpose().matmul(&dye), abs(&xe.transpose()).matmul(&abs(&dye)));
        assert_close(&format!("{what}: dw of {e}"), &dw_once[e * m * n..(e + 1) * m * n], &want, &bound, count);
        let (want, bound) = (want.map(|v| 2.0 * v), bound.map(|v| 2.0 * v));
        assert_close(&format!("{what}: dw of {e}, twice"), &dw_twice[e * m * n..(e + 1) * m * n], &want, &bound, count);
    }
    let used = host.offsets[experts] * n;
    assert!(twice[used..].iter().all(|v| v.is_nan()), "{what}: a tile without expert was written");
}

#[test]
fn grouped_products_equal_a_product_for_each_expert() {
    for gpu in tiers() {
        for counts in COUNTS {
            for (m, n) in [(8, 4), (36, 20), (5, 7), (1, 1), (40, 65), (45, 56)] {
                verify_grouped(&gpu, &groups(&gpu, counts, 0), m, n);
                verify_grouped(&gpu, &groups(&gpu, counts, 2), m, n);
            }
        }
    }
}

#[test]
fn grouped_products_beyond_a_binding_are_split() {
    for gpu in small_bindings(32 << 10) {
        // Rows cut; experts cut; one expert's matrix cut.
        for (counts, m, n) in [(&[300, 0, 170][..], 40, 24), (&[3, 40, 0, 65, 9], 60, 52), (&[20, 90], 108, 100)] {
            verify_grouped(&gpu, &groups(&gpu, counts, 1), m, n);
            verify_grouped(&gpu, &groups(&gpu, counts, 1), m - 1, n - 1);
        }
    }
}

#[test]
fn matmul_agrees_with_its_reference_and_derivative() {
    for gpu in tiers() {
        for (outer, k, n) in [(&[1][..], 1, 1), (&[7], 33, 5), (&[2, 3], 8, 4), (&[2, 2, 5], 12, 37), (&[65], 64, 36)] {
            for trans_b in [false, true] {
                let x = Array::random(&[outer, &[k]].concat(), 1);
                let w = Array::random(&if trans_b { [n, k] } else { [k, n] }, 2);
                let inputs = [Input::Tracked(x), Input::Tracked(w)];
                block_on(check(&gpu, MatMul { trans_b }, &inputs, Tolerance::default(), 3)).unwrap();
            }
        }
    }
}

#[test]
fn expert_matmul_agrees_with_its_reference_and_derivative() {
    for gpu in tiers() {
        // More than few: where few rows are routed the padding is not read but taken to be zero, as it is, and these inputs are random
        // in it, too. The products of few rows are among those of `grouped_products_equal_a_product_for_each_expert`.
        for counts in [&[1, 34][..], &[0, 5, 0, 33], &[70, 0]] {
            for (m, n) in [(8, 4), (5, 7), (1, 1)] {
                let host = groups(&gpu, counts, 0);
                let inputs = [
                    Input::Tracked(Array::random(&[host.groups.capacity, m], 1)),
                    Input::Tracked(Array::random(&[counts.len(), m, n], 2)),
                ];
                let op = ExpertMatMul { groups: host.groups, host_tile_expert: host.tile_expert };
                block_on(check(&gpu, op, &inputs, Tolerance::default(), 3)).unwrap();
            }
        }
    }
}

#[test]
fn a_weight_used_twice_gathers_both_gradients_in_place() {
    let gpu = gpu();
    let (x, w) = (Array::random(&[6, 5], 1), Array::random(&[5, 5], 2));
    let gradient = upload(&gpu, &Array::new(&[5, 5], vec![1.0; 25]));
    let mut tape = Tape::new(&gpu);
    let vx = tape.constant(&upload(&gpu, &x));
    let vw = tape.parameter(&upload(&gpu, &w), &gradient, true);
    let h = tape.apply(MatMul { trans_b: false }, &[vx, vw]).unwrap();
    let y = tape.apply(MatMul { trans_b: true }, &[h, vw]).unwrap();
    let ones = Array::new(&[6, 5], vec![1.0; 30]);
    tape.backward(&[(y, upload(&gpu, &ones))]).unwrap();
    // y = (x w) w^T: dw = x^T (dy w) + dy^T (x w)
    let first = x.transpose().matmul(&ones.matmul(&w));
    let second = ones.transpose().matmul(&MatMul { trans_b: false }.reference(&[x, w]));
    let want = first.zip(&second, |a, b| a + b + 1.0);
    let bound = want.map(|v| v.abs() + 100.0);
    assert_close("dw", &download(&gradient), &want, &bound, 6);
}
