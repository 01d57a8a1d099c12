//! The split of the gradient, in both forms.

use super::rig::{Rig, close};
use crate::common::{gpu, tiers};
use crate::reference::tape::Mat;
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::Groups;
use sdmoe::nn::config::{GradientForm, SpectralConfig};
use sdmoe::optim::spectral::gradient_form;
use sdmoe::optim::{MetricOptions, SpectralInit};
use sdmoe::tensor::Tensor;

#[test]
fn both_parts_add_up_to_the_gradient_and_are_orthogonal() {
    use sdmoe::low_level::kernels::spectral_update::{Move, apply};
    for gpu in tiers() {
        for sizes in [[2, 3, 24, 16, 4], [1, 1, 17, 13, 3], [2, 2, 33, 8, 8], [1, 4, 6, 6, 6], [1, 2, 128, 100, 8]] {
            let rig = Rig::new(&gpu, sizes, SpectralConfig::default(), SpectralInit::Fresh);
            let g = rig.gradients(3);
            let stack = &rig.optimizer.banks()[0].stacks[0];
            let factors = stack.basis.factors(&stack.basis.skinny(&stack.gradient).unwrap()).unwrap();
            let pass = Tensor::from_f32(&gpu, [4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
            let unique = stack.gradient.duplicate().unwrap();
            let common = Tensor::zeros(&gpu, unique.shape()).unwrap();
            for (x, factor) in [(&unique, -1.0), (&common, 1.0)] {
                apply(x, Move::common(factor, &factors), &stack.basis, &pass).unwrap();
            }
            let (unique, common) = (rig.mats(&unique), rig.mats(&common));
            let d = rig.decoupled(0);
            for (i, g) in g[0].iter().enumerate() {
                let scale = g.amax();
                assert!((&unique[i] + &common[i] - g).amax() < 1e-6 * scale);
                assert!((&unique[i] - d.unique(g)).amax() < 3e-6 * scale, "{sizes:?}");
                for common in common.iter().take(g.len().min(sizes[1])) {
                    let inner = unique[i].dot(common).abs();
                    assert!(inner < 1e-5 * g.norm_squared(), "{sizes:?}: {inner}");
                }
            }
        }
    }
}

/// Routed rows with garbage past the last expert: x, dy (both device and, by expert, host) and their groups.
fn routed(gpu: &Gpu, counts: &[usize], m: usize, n: usize) -> (Tensor, Tensor, Groups, Vec<(Mat, Mat)>) {
    let tile_rows = sdmoe::low_level::kernels::grouped::tile_rows(gpu);
    let rows: usize = counts.iter().sum();
    let capacity = Groups::capacity(rows, counts.len(), tile_rows) + tile_rows;
    let (mut x, mut dy) = (vec![f32::NAN; capacity * m], vec![f32::INFINITY; capacity * n]);
    let (mut offsets, mut tiles, mut host) = (vec![0u32], Vec::new(), Vec::new());
    for (e, &count) in counts.iter().enumerate() {
        let first = *offsets.last().unwrap() as usize;
        let padded = count.next_multiple_of(tile_rows);
        let (hx, hy) = (Array::random(&[count * m], 40 + e as u64), Array::random(&[count * n], 60 + e as u64));
        x[first * m..(first + padded) * m].fill(0.0);
        dy[first * n..(first + padded) * n].fill(0.0);
        x[first * m..(first + count) * m].copy_from_slice(&hx.to_f32());
        dy[first * n..(first + count) * n].copy_from_slice(&hy.to_f32());
        tiles.extend(vec![e as u32; padded / tile_rows]);
        offsets.push((first + padded) as u32);
        host.push((Mat::from_row_slice(count, m, &hx.data), Mat::from_row_slice(count, n, &hy.data)));
    }
    tiles.resize(capacity / tile_rows, sdmoe::low_level::kernels::grouped::NONE);
    let counts: Vec<u32> = counts.iter().map(|&c| c as u32).collect();
    let groups = Groups {
        experts: counts.len(),
        rows: counts.iter().sum::<u32>() as usize,
        tile_rows,
        capacity,
        tile_expert: Tensor::from_u32(gpu, [tiles.len()], &tiles).unwrap(),
        offsets: Tensor::from_u32(gpu, [offsets.len()], &offsets).unwrap(),
        counts: Tensor::from_u32(gpu, [counts.len()], &counts).unwrap(),
    };
    let x = Tensor::from_f32(gpu, [capacity, m], &x).unwrap();
    let dy = Tensor::from_f32(gpu, [capacity, n], &dy).unwrap();
    (x, dy, groups, host)
}

#[test]
fn the_token_space_form_gives_what_the_direct_form_gives() {
    use sdmoe::autograd::Tape;
    use sdmoe::ops::ExpertMatMul;
    for gpu in tiers() {
        let (m, n, counts) = (24, 20, [5, 0, 37, 1]);
        let (x, dy, groups, host) = routed(&gpu, &counts, m, n);
        let mut merged = Vec::new();
        for form in [GradientForm::Direct, GradientForm::TokenSpace] {
            let config = with!(SpectralConfig { gradient_form: form, refresh_every: 2, ..SpectralConfig::default() });
            let mut rig = Rig::new(&gpu, [1, 4, m, n, 4], config, SpectralInit::Fresh);
            for step in 1..=3 {
                let d = rig.decoupled(0);
                // A pass that no step follows, then two micro-batches: the first replaces, the second adds to it.
                for accumulate in [false, false, true] {
                    let param = rig.set.iter().find(|p| p.name.contains("gate")).unwrap();
                    let hooks = rig.optimizer.gradient_hooks().unwrap();
                    assert_eq!(hooks.len(), usize::from(form == GradientForm::TokenSpace));
                    let mut tape = Tape::new(&gpu);
                    hooks.into_iter().for_each(|(gradient, hook)| tape.hook(&gradient, hook));
                    let (vx, vw) =
                        (tape.constant(&x), tape.parameter(&param.value, param.gradient.as_ref().unwrap(), accumulate));
                    let y = tape.apply(ExpertMatMul::new(groups.clone()), &[vx, vw]).unwrap();
                    tape.backward(&[(y, dy.clone())]).unwrap();
                }
                let g: Vec<Mat> = host.iter().map(|(x, dy)| 2.0 * x.transpose() * dy).collect();
                let square = g.iter().map(|g| d.common(g)).sum::<Mat>().norm_squared()
                    + g.iter().map(|g| d.unique(g).norm_squared()).sum::<f64>();
                let output = rig.optimizer.step(step, 0.01).unwrap();
                let norm = f64::from(block_on(output.norm.to_f32()).unwrap()[0]);
                assert!((norm - square.sqrt()).abs() < 1e-5 * norm, "{form:?}: {norm} {}", square.sqrt());
            }
            merged.push(rig.merged(0));
            let metrics = block_on(rig.optimizer.metrics(MetricOptions::default()).unwrap().read()).unwrap();
            assert_eq!(metrics[0].common_gradient_share.is_some(), form == GradientForm::Direct);
        }
        for (a, b) in merged[0].iter().zip(&merged[1]) {
            close("W", b, a, 1e-3);
        }
    }
}

#[test]
fn the_rule_chooses_the_cheaper_form() {
    assert_eq!(gradient_form(GradientForm::Auto, 128, 128, 86.0), GradientForm::Direct);
    assert_eq!(gradient_form(GradientForm::Auto, 128, 128, 85.0), GradientForm::TokenSpace);
    assert_eq!(gradient_form(GradientForm::Auto, 2048, 1408, 1000.0), GradientForm::TokenSpace);
    assert_eq!(gradient_form(GradientForm::Direct, 2048, 1408, 1.0), GradientForm::Direct);
    for (tokens, form) in [(10.0, GradientForm::TokenSpace), (1e9, GradientForm::Direct)] {
        let sizes = [1, 2, 64, 64, 8];
        let rig = Rig::with_tokens(&gpu(), sizes, SpectralConfig::default(), SpectralInit::Fresh, tokens);
        assert_eq!(rig.optimizer.banks()[0].form, form);
    }
}
