//! What is undefined, routers, decoupled experts, gradients.

use super::rig::{analyze, matrix, near, orthogonal, row, stack, stacked, ways};
use crate::common;
use pollster::block_on;
use sdmoe::analysis::Controls;
use sdmoe::analysis::gates::Router;
use sdmoe::analysis::record::{Gates, Of, Pairs, Part, Similarity, Spectrum};
use sdmoe::analysis::spectra::SpectrumOptions;
use sdmoe::analysis::weights::{Decoupled, KindWeights, LayerWeights, analyze_experts, analyze_layer};
use sdmoe::autograd::Array;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::train::metrics::Side;

#[test]
fn what_is_undefined_is_none_and_never_nan() {
    let gpu = common::gpu();
    let r = 3;
    let u = orthogonal(300, 1);
    let ranks = [300, 0, 2];
    for options in ways() {
        let s = |rank: usize| (0..300).map(|j| if j < rank { 0.97f64.powi(j as i32) } else { 0.0 }).collect::<Vec<_>>();
        let matrices = ranks.map(|rank| matrix(&s(rank), &u, &u, |j| j, |j| j));
        let elements = stacked(&matrices);
        let router: Vec<f32> = (0..3 * 300).map(|i| if i % 3 == 0 { u.row(i / 3)[0] as f32 } else { 0.0 }).collect();
        let kinds =
            [KindWeights { matrix: ExpertMatrix::Gate, merged: stack(&elements, 3, [300, 300]), decoupled: None }];
        let router = Some(Router { elements: &router, transposed: false });
        let weights = LayerWeights { layer: 0, kinds: &kinds, router };
        let found = block_on(analyze_layer(&gpu, &weights, &options, &mut Controls::default())).unwrap();
        for similarity in &found.similarity {
            let defined = |p: &Pairs| p.iter().flatten().filter(|x| x.is_some()).count();
            assert_eq!(defined(&similarity.pairs), 1, "{:?}", similarity.pairs);
            assert_eq!([similarity.mean_offdiag, similarity.mean_cosine, similarity.max], [None; 3]);
        }
        let gates = found.gates.as_ref().unwrap();
        near("the first expert's", gates.own[0], 1.0, 1e-5);
        assert_eq!((gates.own[1], gates.own[2]), (None, None));
        assert_eq!(gates.cross[1], [None; 3]);
        assert_eq!(gates.specificity, [None; 3]);
        near("null", Some(gates.null), r as f64 / 300.0, 1e-15);
        // NaN would be written as null too, and fail where a number must be.
        let text = serde_json::to_string(&(&found.similarity, &found.spectra, gates)).unwrap();
        let (similarity, spectra, back): (Vec<Similarity>, Vec<Spectrum>, Gates) = serde_json::from_str(&text).unwrap();
        assert_eq!((similarity.len(), spectra.len()), (found.similarity.len(), found.spectra.len()));
        assert_eq!(back.own[1..], gates.own[1..]);
    }
    // The smallest matrices there are.
    let found = analyze(&gpu, stack(&[2.0, -3.0], 2, [1, 1]), &SpectrumOptions::default()).unwrap();
    assert_eq!(found.spectra[1].singular_values, [3.0]);
    near("1 x 1", row(&found, Side::Hidden, Part::Top).mean_offdiag, 1.0, 1e-6);
    assert!(found.similarity.iter().all(|s| s.part == Part::Top));
}

#[test]
fn a_router_that_looks_for_its_experts_direction_scores_one() {
    let gpu = common::gpu();
    let (experts, d, f) = (4, 64, 48);
    let (u, v) = (orthogonal(d, 1), orthogonal(f, 2));
    let s: Vec<f64> = (0..f).map(|j| 0.9f64.powi(j as i32)).collect();
    let matrices: Vec<Array> = (0..experts).map(|e| matrix(&s, &u, &v, |j| (j + 5 * e) % d, |j| j)).collect();
    let elements = stacked(&matrices);
    // Expert e's router vector: its first direction, and as much of the next expert's.
    let vector = |e: usize, i: usize| (u.row(i)[5 * e] + u.row(i)[5 * ((e + 1) % experts)]) as f32;
    let by_expert: Vec<f32> = (0..experts * d).map(|i| vector(i / d, i % d)).collect();
    let by_input: Vec<f32> = (0..experts * d).map(|i| vector(i % experts, i / experts)).collect();
    for (elements_of_router, transposed) in [(&by_expert, true), (&by_input, false)] {
        let kinds =
            [KindWeights { matrix: ExpertMatrix::Gate, merged: stack(&elements, experts, [d, f]), decoupled: None }];
        let router = Some(Router { elements: elements_of_router, transposed });
        let weights = LayerWeights { layer: 0, kinds: &kinds, router };
        let options = SpectrumOptions::default().subspace(2);
        let found = block_on(analyze_layer(&gpu, &weights, &options, &mut Controls::default())).unwrap();
        let gates = found.gates.unwrap();
        for e in 0..experts {
            near("own", gates.own[e], 0.5, 1e-5);
            near("the next one's", gates.cross[e][(e + 1) % experts], 0.5, 1e-5);
            near("another's", gates.cross[e][(e + 2) % experts], 0.0, 1e-5);
            near("specificity", gates.specificity[e], 3.0, 1e-3);
        }
        // Uniform directions: 64 of them, each varying by about its own size.
        near("control", gates.control, gates.null, 4.0 * gates.null / 8.0);
    }
}

#[test]
fn decoupled_experts_show_their_drift_and_both_similarities() {
    let gpu = common::gpu();
    let (experts, k, [m, n]) = (3, 4, [70, 50]);
    let (u, v) = (orthogonal(m, 1), orthogonal(n, 2));
    let common: Vec<f64> = (0..6).map(|j| if j < k { 5.0 - j as f64 } else { 0.1 }).collect();
    let w_c = matrix(&common, &u, &v, |j| j, |j| j);
    // One part in five of each W_u's energy has a left vector of the common basis, none a right one.
    let s = [2.0, 1.0];
    let unique: Vec<Array> =
        (0..experts).map(|e| matrix(&s, &u, &v, |j| if j == 0 { 10 + e } else { e }, |j| 10 + 2 * e + j)).collect();
    let merged: Vec<Array> = unique.iter().map(|w| w.zip(&w_c, |a, b| a + b)).collect();
    let (merged, unique, w_c) = (stacked(&merged), stacked(&unique), w_c.to_f32());
    let basis = |q: &Array| Array::from_fn(&[q.rows(), k], |i| q.row(i / k)[i % k]).to_f32();
    let (u_k, v_k) = (basis(&u), basis(&v));
    for matrix in [ExpertMatrix::Gate, ExpertMatrix::Down] {
        for basis in [None, Some([&u_k[..], &v_k[..]])] {
            let decoupled = Decoupled { unique: stack(&unique, experts, [m, n]), common: &w_c, rank: k, basis };
            let kinds = [KindWeights { matrix, merged: stack(&merged, experts, [m, n]), decoupled: Some(decoupled) }];
            let weights = LayerWeights { layer: 2, kinds: &kinds, router: None };
            let options = SpectrumOptions::default();
            let found = block_on(analyze_layer(&gpu, &weights, &options, &mut Controls::default())).unwrap();
            let [row] = &found.decoupling[..] else { panic!("{:?}", found.decoupling) };
            let (left, right, null) = match matrix {
                ExpertMatrix::Down => (row.drift_hidden, row.drift_model, row.null_hidden),
                _ => (row.drift_model, row.drift_hidden, row.null_model),
            };
            near("drift on the left", Some(left), 0.2f64.sqrt(), 1e-5);
            near("drift on the right", Some(right), 0.0, 1e-5);
            near("null", Some(null), (k as f64 / m as f64).sqrt(), 1e-12);
            let energy: f64 = common.iter().map(|s| s * s).sum();
            near("beyond rank k", row.energy_beyond_rank, 0.02 / energy, 1e-6);
            // W_c leads the merged experts, W_u leads itself.
            let top = |of| {
                found.similarity.iter().find(|s| s.of == of && s.part == Part::Top && s.side == Side::Model).unwrap()
            };
            // Their own parts turn it a little.
            near("merged", top(Of::Weights).mean_offdiag, 1.0, 5e-2);
            near("unique", top(Of::Unique).mean_offdiag, 0.0, 1e-5);
            assert_eq!(found.spectra.len(), 2 * experts + 1);
            assert_eq!(found.spectra.iter().filter(|s| s.expert.is_none()).count(), 1);
        }
    }
}

#[test]
fn gradients_are_taken_as_well_and_bad_weights_are_named() {
    let gpu = common::gpu();
    let mut elements = vec![1.0; 3 * 6 * 4];
    let of_gradients = block_on(analyze_experts(
        &gpu,
        5,
        ExpertMatrix::Up,
        Of::Gradients,
        &stack(&elements, 3, [6, 4]),
        &SpectrumOptions::default(),
        &mut Controls::default(),
    ));
    assert!(of_gradients.unwrap().similarity.iter().all(|s| s.of == Of::Gradients && s.layer == 5));
    let short = analyze(&gpu, stack(&elements[1..], 3, [6, 4]), &SpectrumOptions::default()).unwrap_err();
    assert!(short.to_string().contains("3 matrices 6 x 4"), "{short}");
    elements[2 * 24 + 5] = f32::NAN;
    let nan = analyze(&gpu, stack(&elements, 3, [6, 4]), &SpectrumOptions::default()).unwrap_err().to_string();
    assert!(["layer 3", "gate", "matrix 2"].iter().all(|part| nan.contains(part)), "{nan}");
}
