//! Singular values, subspaces, their similarity and its controls.

use super::rig::{
    LARGE, ROUNDING, analyze, analyze_with, matrix, near, orthogonal, planted, row, stack, stacked, ways,
};
use crate::common;
use faer::{Mat, MatRef};
use pollster::block_on;
use sdmoe::analysis::Controls;
use sdmoe::analysis::record::Part;
use sdmoe::analysis::similarity::Overlaps;
use sdmoe::analysis::spectra::{Elements, Products, SpectrumOptions, Stack};
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::tensor::Tensor;
use sdmoe::train::metrics::Side;

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
    let options = SpectrumOptions::default().subspace(4);
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
    for options in ways().map(|way| way.subspace(12)) {
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
