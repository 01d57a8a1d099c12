//! The weight-only analysis on matrices whose singular values and subspaces are known by construction.

mod common;

use faer::{Mat, MatRef};
use pollster::block_on;
use sdmoe::analysis::Controls;
use sdmoe::analysis::gates::Router;
use sdmoe::analysis::record::{Gates, Of, Pairs, Part, Similarity, Spectrum};
use sdmoe::analysis::similarity::Overlaps;
use sdmoe::analysis::spectra::{Elements, Products, SpectrumOptions, Stack};
use sdmoe::analysis::weights::{Decoupled, KindWeights, LayerFindings, LayerWeights, analyze_experts, analyze_layer};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::tensor::Tensor;
use sdmoe::train::metrics::Side;

/// Rows and columns beyond the whole decomposition: the Krylov space has 192 dimensions.
const LARGE: [usize; 2] = [320, 300];
/// Values of a Krylov space from f32 products over 320 elements, relative to the largest.
const ROUNDING: f64 = 1e-6;

/// The ways to decompose a matrix: in a Krylov space, with products on the device or on the host, and whole.
fn ways() -> [SpectrumOptions; 3] {
    let krylov = |products| SpectrumOptions { whole_up_to: 0, products, ..SpectrumOptions::default() };
    let whole = SpectrumOptions { whole_up_to: 1000, ..SpectrumOptions::default() };
    [krylov(Products::Device), krylov(Products::Host), whole]
}

/// An orthogonal matrix: a product of reflections, `size x size`.
fn orthogonal(size: usize, seed: u64) -> Array {
    let mut q = Array::from_fn(&[size, size], |i| f64::from(u8::from(i / size == i % size)));
    for reflection in 0..4 {
        let v = Array::random(&[1, size], seed * 16 + reflection);
        let scale = 2.0 / v.data.iter().map(|x| x * x).sum::<f64>();
        for i in 0..size {
            let row = q.row_mut(i);
            let along: f64 = row.iter().zip(&v.data).map(|(a, b)| a * b).sum();
            row.iter_mut().zip(&v.data).for_each(|(a, b)| *a -= scale * along * b);
        }
    }
    q
}

/// `sum_j s_j u_p(j) v_q(j)^T` for columns p(j), q(j) of U and V.
fn matrix(s: &[f64], u: &Array, v: &Array, p: impl Fn(usize) -> usize, q: impl Fn(usize) -> usize) -> Array {
    let left = Array::from_fn(&[u.rows(), s.len()], |i| s[i % s.len()] * u.row(i / s.len())[p(i % s.len())]);
    let right = Array::from_fn(&[s.len(), v.rows()], |i| v.row(i % v.rows())[q(i / v.rows())]);
    left.matmul(&right)
}

fn stacked(matrices: &[Array]) -> Vec<f32> {
    matrices.iter().flat_map(Array::to_f32).collect()
}

fn stack(elements: &[f32], count: usize, [rows, columns]: [usize; 2]) -> Stack<'_> {
    Stack { count, rows, columns, transposed: false, elements: Elements::Host(elements) }
}

fn analyze(gpu: &Gpu, stack: Stack<'_>, options: &SpectrumOptions) -> sdmoe::Result<LayerFindings> {
    analyze_with(gpu, stack, options, &mut Controls::default())
}

fn analyze_with(
    gpu: &Gpu,
    stack: Stack<'_>,
    options: &SpectrumOptions,
    controls: &mut Controls,
) -> sdmoe::Result<LayerFindings> {
    let kinds = [KindWeights { matrix: ExpertMatrix::Gate, merged: stack, decoupled: None }];
    let weights = LayerWeights { layer: 3, kinds: &kinds, router: None };
    block_on(analyze_layer(gpu, &weights, options, controls))
}

fn row(found: &LayerFindings, side: Side, part: Part) -> &Similarity {
    found.similarity.iter().find(|s| s.side == side && s.part == part).expect("a row of similarity")
}

fn near(what: &str, got: Option<f64>, want: f64, allowed: f64) {
    let error = got.map_or(f64::INFINITY, |got| (got - want).abs());
    assert!(error <= allowed, "{what}: {got:?}, expected {want}, allowed {allowed:e}");
}

#[test]
fn leading_singular_values_are_right_for_every_kind_of_matrix() {
    let gpu = common::gpu();
    let graded = |rate: f64| (0..300).map(|j| rate.powi(j)).collect::<Vec<f64>>();
    let power: Vec<f64> = (1..=300).map(|j| f64::from(j).powf(-0.5)).collect();
    let repeated: Vec<f64> = (0..300).map(|j| if j < 50 { 1.0 } else { 0.1 }).collect();
    let cases: [(&str, Vec<f64>); 8] = [
        ("decaying", graded(0.95)),
        ("ill-conditioned", graded(10f64.powf(-7.0 / 299.0))),
        ("power law", power),
        ("50 equal", repeated),
        ("all equal", vec![1.0; 300]),
        ("rank 10", (0..300).map(|j| if j < 10 { 1.0 / f64::from(j + 1) } else { 0.0 }).collect()),
        ("rank 1", (0..300).map(|j| if j == 0 { 7.0 } else { 0.0 }).collect()),
        ("zero", vec![0.0; 300]),
    ];
    let mut controls = Controls::default();
    for [rows, columns] in [LARGE, [LARGE[1], LARGE[0]]] {
        let (u, v) = (orthogonal(rows, 1), orthogonal(columns, 2));
        let matrices: Vec<Array> = cases.iter().map(|(_, s)| matrix(s, &u, &v, |j| j, |j| j)).collect();
        let elements = stacked(&matrices);
        for scale in [1.0, 1e-18, 1e12] {
            let elements: Vec<f32> = elements.iter().map(|x| x * scale).collect();
            for options in ways() {
                let stack = stack(&elements, cases.len(), [rows, columns]);
                let found = analyze_with(&gpu, stack, &options, &mut controls).unwrap();
                for ((name, s), spectrum) in cases.iter().zip(&found.spectra) {
                    let got = &spectrum.singular_values;
                    assert_eq!(got.len(), if options.whole_up_to == 0 { 30 } else { 300 }, "{name}");
                    assert!(got.is_sorted_by(|a, b| a >= b), "{name}: {got:?}");
                    for (j, (got, want)) in got.iter().zip(s).enumerate() {
                        let (got, what) = (got / f64::from(scale), format!("{name} {rows} x {columns}, value {j}"));
                        near(&what, Some(got), *want, 1e-5 * want + ROUNDING * s[0]);
                    }
                    let energy: f64 = s.iter().map(|s| s * s).sum();
                    near(name, Some(spectrum.frobenius / f64::from(scale)), energy.sqrt(), ROUNDING * energy.sqrt());
                    let top: f64 = s[..3].iter().map(|s| s * s).sum();
                    near(name, Some(spectrum.energy_top), if energy > 0.0 { top / energy } else { 0.0 }, 2e-6);
                    assert_eq!(spectrum.effective_rank.is_some(), options.whole_up_to > 0 && energy > 0.0, "{name}");
                }
            }
        }
    }
}

/// Experts with `shared` of `r` left singular vectors in common and none of the right ones, in a known energy share.
fn planted(experts: usize, r: usize, shared: usize, [rows, columns]: [usize; 2]) -> (Vec<Array>, f64) {
    let s: Vec<f64> = (0..40).map(|j| if j < r { 8.0 - 0.5 * j as f64 } else { 1.0 / (1.0 + j as f64) }).collect();
    let (u, v) = (orthogonal(rows, 5), orthogonal(columns, 6));
    let matrices = (0..experts).map(|e| {
        let left = move |j| {
            if j < shared {
                j
            } else if j < r {
                shared + e * r + j
            } else {
                100 + j
            }
        };
        matrix(&s, &u, &v, left, move |j| if j < r { e * r + j } else { 100 + j })
    });
    let energy = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>();
    (matrices.collect(), energy(&s[..r]) / energy(&s))
}

#[test]
fn a_planted_shared_subspace_is_recovered_with_its_energy() {
    let (experts, r) = (5, 3);
    let mut controls = Controls::default();
    for shared in 0..=r {
        let (matrices, energy) = planted(experts, r, shared, LARGE);
        let elements = stacked(&matrices);
        // One case on every kind of kernel.
        let devices = if shared == 1 { common::tiers() } else { vec![common::gpu()] };
        for gpu in devices {
            for options in ways() {
                let found = analyze_with(&gpu, stack(&elements, experts, LARGE), &options, &mut controls).unwrap();
                let share = shared as f64 / r as f64;
                for (side, dimension, want) in [(Side::Model, 320.0, share), (Side::Hidden, 300.0, 0.0)] {
                    let top = row(&found, side, Part::Top);
                    assert_eq!(top.r, r);
                    near("squared", top.mean_offdiag, want, 1e-5);
                    // A shared direction has the cosine 1, another 0; rounding weighs by its root there.
                    near("cosine", top.mean_cosine, want, 1e-4);
                    near("largest", top.max, want, 1e-5);
                    near("null", Some(top.null), r as f64 / dimension, 1e-15);
                    (0..experts).for_each(|e| near("itself", top.pairs[e][e], 1.0, 1e-5));
                }
                // Complements of the shorter side: D - 2 r + |U^T V|^2 of D - r dimensions.
                let tail = row(&found, Side::Hidden, Part::Tail);
                near("tail", tail.mean_offdiag, (300.0 - 6.0) / 297.0, 1e-6);
                assert_eq!(tail.r, 297);
                // Rank 40: what the longer side's tail spans is not known.
                assert!(!found.similarity.iter().any(|s| s.side == Side::Model && s.part == Part::Tail));
                found.spectra.iter().for_each(|s| near("energy", Some(s.energy_top), energy, 1e-6));
            }
        }
    }
}

#[test]
fn findings_depend_neither_on_storage_nor_on_the_order_of_experts() {
    let gpu = common::gpu();
    let mut controls = Controls::default();
    let mut with =
        |gpu: &Gpu, stack: Stack<'_>, options: &SpectrumOptions| analyze_with(gpu, stack, options, &mut controls);
    let [rows, columns] = LARGE;
    let matrices: Vec<Array> = (0..4).map(|e| Array::random(&LARGE, 40 + e)).collect();
    let elements = stacked(&matrices);
    let shape = [matrices.len(), rows, columns];
    for options in ways() {
        let found = with(&gpu, stack(&elements, 4, LARGE), &options).unwrap();

        let device = Tensor::from_f32(&gpu, shape, &elements).unwrap();
        let on_device = Stack { elements: Elements::Device(&device), ..stack(&elements, 4, LARGE) };
        assert_eq!(with(&gpu, on_device, &options).unwrap(), found);
        let size = rows * columns;
        let reads = std::sync::Mutex::new(Vec::new());
        let read = |range: std::ops::Range<usize>, buffer: &mut [f32]| {
            buffer.copy_from_slice(&elements[range.start * size..range.end * size]);
            reads.lock().unwrap().push(range);
            Ok(())
        };
        let streamed = Stack { elements: Elements::Read(&read), ..stack(&elements, 4, LARGE) };
        for small in common::small_bindings(1_000_000).into_iter().filter(|g| g.tier() == gpu.tier()) {
            assert_eq!(with(&small, streamed, &options).unwrap().spectra, found.spectra);
        }
        let mut reads = reads.into_inner().unwrap();
        reads.sort_by_key(|range| range.start);
        let on_device = options.whole_up_to == 0 && options.products == Products::Device;
        let once: &[_] = if on_device { &[0..2, 2..4] } else { &[0..1, 1..2, 2..3, 3..4] };
        assert_eq!(reads, once, "each matrix is read once: as many as fit a binding, or one for a thread");

        let turned: Vec<f32> = stacked(&matrices.iter().map(Array::transpose).collect::<Vec<_>>());
        let stored = Stack { transposed: true, ..stack(&turned, 4, [columns, rows]) };
        let order = [2, 0, 3, 1];
        let mixed: Vec<f32> = stacked(&order.map(|e| matrices[e].clone()));
        let mixed = with(&gpu, stack(&mixed, 4, LARGE), &options).unwrap();
        let stored = with(&gpu, stored, &options).unwrap();
        // A Gaussian spectrum is flat: what is found of it is what the Krylov space has converged to.
        let allowed = if options.whole_up_to == 0 { 1e-3 } else { 1e-5 };
        for same in &found.similarity {
            let (stored, mixed) = (row(&stored, same.side, same.part), row(&mixed, same.side, same.part));
            near("stored transposed", stored.mean_offdiag, same.mean_offdiag.unwrap(), allowed);
            for (i, &a) in order.iter().enumerate() {
                for (j, &b) in order.iter().enumerate() {
                    near("in another order", mixed.pairs[i][j], same.pairs[a][b].unwrap(), allowed);
                }
            }
        }
    }
}

#[test]
fn products_on_the_host_give_what_those_on_the_device_give() {
    let [device, host, _] = ways();
    let s: Vec<f64> = (1..=300).map(|j| f64::from(j).powf(-0.5)).collect();
    for [rows, columns] in [LARGE, [LARGE[1], LARGE[0]]] {
        let (u, v) = (orthogonal(rows, 11), orthogonal(columns, 12));
        let elements = stacked(&[0, 1, 2].map(|e| matrix(&s, &u, &v, |j| (j + e) % 300, |j| j)));
        for gpu in common::tiers() {
            let [device, host] =
                [device, host].map(|options| analyze(&gpu, stack(&elements, 3, [rows, columns]), &options).unwrap());
            for (a, b) in device.spectra.iter().zip(&host.spectra) {
                for (j, (a, b)) in a.singular_values.iter().zip(&b.singular_values).enumerate() {
                    near(&format!("value {j}"), Some(*a), *b, ROUNDING);
                }
            }
            for (a, b) in device.similarity.iter().zip(&host.similarity) {
                near("similarity", a.mean_offdiag, b.mean_offdiag.unwrap(), 1e-5);
                near("control", a.control, b.control.unwrap(), 1e-5);
            }
        }
    }
}

#[test]
fn the_longer_sides_tail_is_what_a_matrix_spans_besides_its_top() {
    let gpu = common::gpu();
    let [rows, columns] = [90, 40];
    let options = SpectrumOptions { subspace: 4, ..SpectrumOptions::default() };
    let (u, v) = (orthogonal(rows, 8), orthogonal(columns, 9));
    let s: Vec<f64> = (0..40).map(|j| 2.0 - 0.03 * f64::from(j)).collect();
    // Of the 36 tail directions the second expert has the first 18.
    let first = matrix(&s, &u, &v, |j| j, |j| j);
    let second = matrix(&s, &u, &v, |j| if j < 22 { j } else { j + 18 }, |j| j);
    let elements = stacked(&[first, second]);
    let found = analyze(&gpu, stack(&elements, 2, [rows, columns]), &options).unwrap();
    let tail = row(&found, Side::Model, Part::Tail);
    assert_eq!(tail.r, 36);
    near("tail", tail.mean_offdiag, 0.5, 1e-5);
    near("tail's cosine", tail.mean_cosine, 0.5, 1e-4);
    near("null", Some(tail.null), 0.4, 1e-15);
    near("the same on the shorter side", row(&found, Side::Hidden, Part::Tail).mean_offdiag, 1.0, 1e-5);
}

fn basis(x: &Array) -> Mat<f64> {
    Mat::from_fn(x.rows(), x.cols(), |i, j| x.row(i)[j])
}

#[test]
fn similarity_is_one_with_itself_zero_with_the_complement_and_blind_to_the_basis() {
    let gpu = common::gpu();
    for (size, r) in [(7, 1), (33, 5), (64, 32), (40, 25)] {
        let q = basis(&orthogonal(size, 3));
        let own = q.subcols(0, r);
        let rotated = own * basis(&orthogonal(r, 4));
        let width = r.min(size - r);
        let rest = Mat::from_fn(size, r, |i, j| if j < width { q[(i, r + j)] } else { q[(i, j)] });
        let bases: [Option<MatRef<'_, f64>>; 4] = [Some(own), Some(rotated.as_ref()), None, Some(rest.as_ref())];
        let found = block_on(Overlaps::of(&gpu, &bases)).unwrap().unwrap();
        let outside = (r - width) as f64 / r as f64;
        for (a, b, want) in [(0, 0, 1.0), (1, 1, 1.0), (0, 1, 1.0), (1, 3, outside), (3, 0, outside)] {
            near("squared", found.squared[a][b], want, 1e-5);
            near("cosine", found.cosine[a][b], want, 1e-3);
        }
        assert!((0..4).all(|i| found.squared[i][2].is_none() && found.cosine[2][i].is_none()));
        // The complement's own complement is the subspace.
        let twice = found.complement().unwrap().complement().unwrap();
        assert_eq!(twice.r, r);
        near("twice", twice.squared[0][3], found.squared[0][3].unwrap(), 1e-5);
        // Complements measured by their bases.
        let rest_of_own = q.subcols(r, size - r);
        let rest_of_rest = Mat::from_fn(size, size - r, |i, j| q[(i, if j < r - (r - width) { j } else { j + r })]);
        if width == r {
            let bases = [Some(rest_of_own), Some(rest_of_rest.as_ref())];
            let direct = block_on(Overlaps::of(&gpu, &bases)).unwrap().unwrap();
            let turned = found.complement().unwrap();
            near("complement", turned.squared[0][3], direct.squared[0][1].unwrap(), 1e-5);
            near("complement's cosine", turned.cosine[0][3], direct.cosine[0][1].unwrap(), 1e-3);
        }
    }
}

#[test]
fn controls_are_near_their_nulls_and_shared_by_all_layers() {
    let gpu = common::gpu();
    for options in ways().map(|way| SpectrumOptions { subspace: 12, ..way }) {
        let elements = stacked(&(0..3).map(|e| Array::random(&LARGE, 70 + e)).collect::<Vec<_>>());
        let found = analyze(&gpu, stack(&elements, 3, LARGE), &options).unwrap();
        for similarity in &found.similarity {
            // One pair of random subspaces varies by sqrt(2) / r of its mean; 28 pairs are averaged, 4 deviations allowed.
            let deviation = similarity.null.min(1.0 - similarity.null) * 2f64.sqrt() / 12.0 / 28f64.sqrt();
            near("control", similarity.control, similarity.null, 4.0 * deviation);
            near("measured", similarity.mean_offdiag, similarity.null, 4.0 * deviation * (28f64 / 3.0).sqrt());
        }
        for spectrum in &found.spectra {
            near("energy", spectrum.energy_top_control, spectrum.energy_top, 0.05 * spectrum.energy_top);
        }
    }
}

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
        let options = SpectrumOptions { subspace: 2, ..SpectrumOptions::default() };
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
