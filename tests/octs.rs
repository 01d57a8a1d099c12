//! Eight neighbours loaded as four u64 or as two vec4: where a device has no u64 the same comes out, to the bit.

mod common;

use common::{download, gpu, with_features};
use sdmoe::autograd::Array;
use sdmoe::gpu::{Gpu, OPTIONAL_FEATURES};
use sdmoe::nn::config::{ExpertMatrix, SpectralConfig};
use sdmoe::nn::params::{Group, ParamBuilder};
use sdmoe::optim::{Optimizer, OptimizerConfig, SpectralInit};

/// The state after six steps, of which two refresh, and the names of the kernels that ran in the last.
fn train(gpu: &Gpu, as_published: bool) -> (Vec<Vec<u32>>, Vec<&'static str>) {
    let mut builder = ParamBuilder::default();
    builder.add("layers.0.gate", Group::Experts(ExpertMatrix::Gate), &[3, 41, 40]);
    builder.add("embedding", Group::Decay, &[11, 3]);
    let set = builder.build(gpu).unwrap();
    let fill = |seed: u64| {
        for (i, param) in set.iter().enumerate() {
            let x = Array::random(param.value.dims(), seed + i as u64);
            if seed == 1 { &param.value } else { &param.gradient }.write_f32(&x.to_f32()).unwrap();
        }
    };
    fill(1);
    let config = SpectralConfig { as_published, refresh_every: 3, ..SpectralConfig::default() };
    let mut optimizer =
        Optimizer::new(gpu, &set, &OptimizerConfig::default(), &config, 7, SpectralInit::FromWeights).unwrap();
    let mut kernels = Vec::new();
    for step in 1..=6 {
        fill(10 * step);
        let profiled = step == 6 && gpu.start_profile().is_ok();
        optimizer.step(step, 1e-2).unwrap();
        if profiled {
            kernels = pollster::block_on(gpu.finish_trace()).unwrap().into_iter().map(|d| d.kernel).collect();
        }
    }
    let state = optimizer.state().unwrap().into_iter().map(|(_, x)| x);
    let bits = |x| download(&x).into_iter().map(f32::to_bits).collect();
    (state.chain(set.iter().map(|p| p.value.clone())).map(bits).collect(), kernels)
}

#[test]
fn a_step_is_the_same_to_the_bit_with_and_without_u64() {
    let (own, without) = (gpu(), with_features(OPTIONAL_FEATURES.difference(wgpu::Features::SHADER_INT64)));
    for as_published in [false, true] {
        let [(state, kernels), (plain_state, plain_kernels)] = [&own, &without].map(|g| train(g, as_published));
        assert!(plain_kernels.iter().all(|k| !k.ends_with("_u64")), "{plain_kernels:?}");
        if !kernels.iter().any(|k| k.ends_with("_u64")) {
            eprintln!("skipped: {} has no u64, or no subgroups of 8, or no timestamps", own.adapter().name);
            return;
        }
        assert_eq!(kernels.len(), plain_kernels.len());
        assert!(state == plain_state);
    }
}
