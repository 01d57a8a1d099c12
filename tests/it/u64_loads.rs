//! What is loaded as u64 of two f32 each, or as vec4, and what has compact code: the same comes out, to the bit.

use std::collections::BTreeSet;

use crate::common::groups::groups;
use crate::common::{download, open, own_gpu as gpu, untested, upload, with_features};
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, GpuOptions, OPTIONAL_FEATURES, Tier};
use sdmoe::low_level::kernels::gemm::{Trans, gemm};
use sdmoe::low_level::kernels::grouped::{grouped_gemm, grouped_weight_gradient};
use sdmoe::nn::config::{ExpertMatrix, SharedGate, SpectralConfig};
use sdmoe::nn::params::{Group, Init, ParamBuilder};
use sdmoe::optim::{Optimizer, OptimizerConfig, SpectralInit, SpectralSetup};
use sdmoe::tensor::Tensor;

/// The state after six steps, of which two refresh, and the names of the kernels that ran in the last.
fn train(gpu: &Gpu, as_published: bool) -> (Vec<Vec<u32>>, Vec<&'static str>) {
    let mut builder = ParamBuilder::default();
    builder.add("layers.0.gate", Group::Experts(ExpertMatrix::Gate), &[3, 301, 40], Init::Zeros);
    builder.add("embedding", Group::Decay, &[11, 3], Init::Zeros);
    let set = builder.build(gpu).unwrap();
    let fill = |seed: u64| {
        for (i, param) in set.iter().enumerate() {
            let x = Array::random(param.value.dims(), seed + i as u64);
            if seed == 1 { &param.value } else { param.gradient.as_ref().unwrap() }.write_f32(&x.to_f32()).unwrap();
        }
    };
    fill(1);
    let config = with!(SpectralConfig { as_published, refresh_every: 3, ..SpectralConfig::default() });
    let init = SpectralInit::FromWeights { step: 0 };
    let setup = SpectralSetup { config: &config, init, seed: 7, tokens_per_expert: f64::INFINITY };
    let mut optimizer = Optimizer::new(gpu, &set, &OptimizerConfig::default(), setup).unwrap();
    let mut kernels = Vec::new();
    for step in 1..=6 {
        fill(10 * step);
        kernels = traced(gpu, |_| {
            optimizer.step(step, 1e-2).unwrap();
            Vec::new()
        })
        .1;
    }
    let state = optimizer.state().unwrap().into_iter().map(|(_, x)| x);
    let bits = |x| download(&x).into_iter().map(f32::to_bits).collect();
    (state.chain(set.iter().map(|p| p.value.clone())).map(bits).collect(), kernels)
}

/// Two devices: with all that the adapter has, and without u64. None where it has no u64 or its kernels do not use them.
fn devices() -> Option<[Gpu; 2]> {
    let own = gpu();
    let features = own.device().features();
    if own.tier() != Tier::Software || !features.contains(wgpu::Features::SHADER_INT64) || !own.adapter().timestamps {
        untested("no u64, no kernels for software adapters or no timestamps");
        return None;
    }
    Some([own, with_features(OPTIONAL_FEATURES.difference(wgpu::Features::SHADER_INT64))])
}

/// What `run` gives on `gpu`, as bits, and the names of the kernels that ran.
fn traced(gpu: &Gpu, run: impl FnOnce(&Gpu) -> Vec<Tensor>) -> (Vec<Vec<u32>>, Vec<&'static str>) {
    gpu.start_profile().unwrap();
    let results = run(gpu);
    let kernels = block_on(gpu.finish_trace()).unwrap().into_iter().map(|d| d.kernel).collect();
    (results.iter().map(|x| download(x).into_iter().map(f32::to_bits).collect()).collect(), kernels)
}

fn product(gpu: &Gpu, ta: Trans, tb: Trans, [m, k, n]: [usize; 3]) -> Vec<Tensor> {
    let a = Array::random(&if ta == Trans::N { [m, k] } else { [k, m] }, 1);
    let b = Array::random(&if tb == Trans::N { [k, n] } else { [n, k] }, 2);
    let c = Tensor::zeros(gpu, [m, n]).unwrap();
    gemm(ta, tb, 0.5, &upload(gpu, &a), &upload(gpu, &b), 0.0, &c).unwrap();
    vec![c]
}

fn grouped(gpu: &Gpu, m: usize, n: usize) -> Vec<Tensor> {
    let host = groups(gpu, &[70, 0, 33], 0);
    let (x, dy) = (upload(gpu, &host.rows(m, 1)), upload(gpu, &host.rows(n, 2)));
    let w = upload(gpu, &Array::random(&[3, m, n], 3));
    let y = Tensor::zeros(gpu, [host.groups.capacity, n]).unwrap();
    let dw = Tensor::zeros(gpu, [3, m, n]).unwrap();
    let dx = Tensor::zeros(gpu, [host.groups.capacity, m]).unwrap();
    grouped_gemm(&dy, &w, Trans::T, &host.groups, &dx).unwrap();
    grouped_gemm(&x, &w, Trans::N, &host.groups, &y).unwrap();
    grouped_weight_gradient(&x, &dy, &host.groups, 0.0, &dw).unwrap();
    vec![y, dx, dw]
}

#[test]
fn products_are_the_same_to_the_bit_with_and_without_u64() {
    let Some([own, without]) = devices() else { return };
    let mut seen = BTreeSet::new();
    let mut both = |run: &dyn Fn(&Gpu) -> Vec<Tensor>| {
        let [(got, kernels), (want, plain)] = [&own, &without].map(|gpu| traced(gpu, run));
        assert!(got == want, "{kernels:?}");
        assert!(plain.iter().all(|k| !k.contains("u64")), "{plain:?}");
        seen.extend(kernels.into_iter().filter(|k| k.contains("u64")));
    };
    for ta in [Trans::N, Trans::T] {
        for sizes in [[40, 36, 56], [33, 45, 64], [203, 209, 205]] {
            both(&|gpu| product(gpu, ta, Trans::N, sizes));
            both(&|gpu| product(gpu, ta, Trans::T, sizes));
        }
    }
    both(&|gpu| grouped(gpu, 40, 56));
    let expected = [
        "gemm_subgroup_u64",
        "gemm_subgroup_u64_along",
        "gemm_subgroup_u64_along_scalar_c",
        "gemm_subgroup_u64_scalar_c",
        "grouped_gemm_subgroup_u64",
        "grouped_gemm_subgroup_u64_along",
        "grouped_weight_gradient_subgroup_u64",
        "pad_u64",
    ];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[test]
fn a_step_is_the_same_to_the_bit_with_and_without_u64() {
    let Some([own, without]) = devices() else { return };
    for as_published in [false, true] {
        let [(state, kernels), (plain_state, plain_kernels)] = [&own, &without].map(|g| train(g, as_published));
        assert!(plain_kernels.iter().all(|k| !k.ends_with("_u64")), "{plain_kernels:?}");
        assert!(kernels.iter().filter(|k| k.ends_with("_u64")).count() >= 4, "{kernels:?}");
        assert!(state == plain_state);
    }
}

#[test]
fn a_model_trains_the_same_to_the_bit_with_and_without_u64() {
    let Some(devices) = devices() else { return };
    let mut config = crate::common::training::config();
    config.spectral.enabled = false;
    config.model.moe.shared_gate = SharedGate::Sigmoid;
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (4, 2, 8);
    let [(state, kernels), (plain_state, plain_kernels)] = devices.each_ref().map(|gpu| {
        let mut trainer = crate::common::training::trainer(gpu, &config);
        crate::common::training::train(&mut trainer, 2);
        let (_, kernels) = traced(gpu, |_| {
            crate::common::training::train(&mut trainer, 1);
            Vec::new()
        });
        (crate::common::training::snapshot(&trainer), kernels.into_iter().collect::<BTreeSet<_>>())
    });
    assert!(state == plain_state);
    // Every kernel that takes packs of four takes them as u64, but for those of attention's products.
    let packs = |kernels: &BTreeSet<&'static str>, suffix| -> BTreeSet<String> {
        kernels.iter().filter_map(|k| k.strip_suffix(suffix)).map(str::to_owned).collect()
    };
    let vec4 = packs(&plain_kernels, "_vec4");
    assert!(vec4.len() > 15, "{plain_kernels:?}");
    assert!(packs(&kernels, "_u64").is_superset(&vec4), "{kernels:?}");
    assert!(packs(&kernels, "_vec4").is_empty(), "{kernels:?}");
}

#[test]
fn compact_code_computes_the_same_to_the_bit() {
    if gpu().tier() != Tier::Software {
        return untested("no kernels for software adapters");
    }
    let devices = [false, true].map(|compact| open(&GpuOptions::default().compact(compact)));
    assert_eq!(devices.each_ref().map(Gpu::compact), [false, true]);
    let bits = |x: &Tensor| download(x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let both = |run: &dyn Fn(&Gpu) -> Vec<Tensor>| {
        let [full, compact] = devices.each_ref().map(|gpu| run(gpu).iter().map(bits).collect::<Vec<_>>());
        assert!(full == compact);
    };
    for (ta, tb) in [(Trans::N, Trans::N), (Trans::N, Trans::T), (Trans::T, Trans::N), (Trans::T, Trans::T)] {
        // Whole tiles, edges, scalars, and products so narrow that C is stored transposed.
        for sizes in [[64, 36, 64], [40, 36, 56], [33, 45, 61], [7, 30, 90], [91, 30, 6]] {
            both(&|gpu| product(gpu, ta, tb, sizes));
        }
    }
    both(&|gpu| grouped(gpu, 40, 56));
    both(&|gpu| grouped(gpu, 37, 51));
    let mut config = crate::common::training::config();
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (4, 2, 8);
    let [full, compact] = devices.each_ref().map(|gpu| {
        let mut trainer = crate::common::training::trainer(gpu, &config);
        crate::common::training::train(&mut trainer, 3);
        crate::common::training::snapshot(&trainer)
    });
    assert!(full == compact);
}
