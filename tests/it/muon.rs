//! Muon: Newton-Schulz iterations and whole steps against f64, what a step must not change, and what a run keeps of it.

use crate::common::place::Place;
use crate::common::training::{config, snapshot, train, trainer};
use crate::common::{download, gpu, small_binding, tiers, upload};
use crate::reference::newton_schulz as exact;
use crate::reference::tape::Mat;
use pollster::block_on;
use sdmoe::autograd::Array;
use sdmoe::autograd::check::compare;
use sdmoe::gpu::Gpu;
use sdmoe::linalg::newton_schulz::newton_schulz;
use sdmoe::nn::config::{ExpertMatrix, Precision, SpectralConfig};
use sdmoe::nn::params::{Group, Init, ParamBuilder, ParamSet};
use sdmoe::optim::{MetricOptions, Optimizer, OptimizerConfig, Rule, SpectralInit, SpectralSetup};
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

fn matrices(x: &Array) -> Vec<Mat> {
    let (rows, columns) = (x.shape[x.shape.len() - 2], x.cols());
    x.data.chunks(rows * columns).map(|data| Mat::from_row_slice(rows, columns, data)).collect()
}

fn array(shape: &[usize], matrices: &[Mat]) -> Array {
    Array::new(shape, matrices.iter().flat_map(|m| m.transpose().as_slice().to_vec()).collect())
}

/// A sum of as many products as a side is long, whose smallest singular values the iterations enlarge up to 485 times.
fn tolerance(shape: &[usize]) -> f64 {
    let side = shape.iter().rev().take(2).copied().min().unwrap_or(1);
    6e-8 * 485.0 * (side as f64).sqrt().max(4.0)
}

#[test]
fn newton_schulz_iterations_follow_f64_for_matrices_of_any_shape() {
    let mut gpus = tiers();
    gpus.push(small_binding(32 << 10));
    for gpu in gpus {
        for shape in [[1, 1, 1], [2, 1, 70], [1, 70, 1], [2, 33, 65], [2, 65, 33], [3, 40, 32], [2, 64, 128]] {
            let mut x = Array::random(&shape, 5);
            // The last of several matrices is zero, and stays it.
            let size = shape[1] * shape[2];
            if shape[0] > 1 {
                x.data[(shape[0] - 1) * size..].fill(0.0);
            }
            let device = upload(&gpu, &x);
            newton_schulz(&device, 3.0).unwrap();
            let want: Vec<Mat> = matrices(&x).iter().map(|x| exact(x) * 3.0).collect();
            let got = download(&device);
            compare(&format!("{shape:?}"), &got, &array(&shape, &want), 3.0 * tolerance(&shape)).unwrap();
            let s = want[0].clone().svd(false, false).singular_values;
            assert!(s.iter().all(|s| (0.3..3.6).contains(s)), "{shape:?}: singular values of 3 at the most: {s}");
        }
    }
}

#[test]
fn newton_schulz_iterations_of_rank_deficient_and_badly_scaled_matrices_are_finite() {
    let gpu = gpu();
    let row = Array::random(&[64], 1);
    for scale in [1e-30, 1e-12, 1.0, 1e12, 1e18] {
        let x = Array::from_fn(&[40, 64], |i| scale * row.data[i % 64] * (1.0 + (i / 64) as f64));
        let device = upload(&gpu, &x);
        newton_schulz(&device, 1.0).unwrap();
        let got = Array::from_f32(&[40, 64], &download(&device));
        let norm = got.dot(&got).sqrt();
        assert!(norm < 1.2, "scale {scale}: one direction has a singular value of about 1, got a norm of {norm}");
    }
}

/// Matrices alone, of one shape, and in banks; and what is no matrix of a hidden layer.
fn params(gpu: &Gpu) -> ParamSet {
    let mut builder = ParamBuilder::default();
    builder.add("embed", Group::Decay, &[11, 6], Init::Zeros);
    for (name, shape) in [("one", [1, 1]), ("tall", [65, 33]), ("wide", [33, 65]), ("also_tall", [65, 33])] {
        builder.add_hidden(name, shape, Init::Zeros);
    }
    builder.add("head", Group::Decay, &[6, 11], Init::Zeros);
    builder.add("norm", Group::NoDecay, &[7], Init::Zeros);
    for layer in 0..2 {
        builder.add(format!("experts.{layer}"), Group::Experts(ExpertMatrix::Gate), &[3, 5, 7], Init::Zeros);
    }
    builder.build(gpu).unwrap()
}

fn muon() -> OptimizerConfig {
    with!(OptimizerConfig { rule: Rule::Muon, clip: 20.0, ..OptimizerConfig::default() })
}

fn optimizer(gpu: &Gpu, set: &ParamSet) -> Optimizer {
    let off = with!(SpectralConfig { enabled: false, ..SpectralConfig::default() });
    let setup = SpectralSetup { config: &off, init: SpectralInit::Fresh, seed: 0, tokens_per_expert: 1.0 };
    Optimizer::new(gpu, set, &muon(), setup).unwrap()
}

#[test]
fn steps_of_matrices_alone_gathered_and_in_banks_follow_f64_and_all_else_moves_by_adamw() {
    let mut gpus = tiers();
    gpus.push(small_binding(32 << 10));
    for gpu in gpus {
        let set = params(&gpu);
        let mut optimizer = optimizer(&gpu, &set);
        let config = muon();
        let (lr, momentum, decay) = (0.01, f64::from(config.momentum), f64::from(config.weight_decay));
        let mut want: Vec<Array> = Vec::new();
        for (i, param) in set.iter().enumerate() {
            want.push(Array::random(param.value.dims(), 100 + i as u64));
            param.value.write_f32(&want[i].to_f32()).unwrap();
        }
        let first = want.clone();
        let mut momenta: Vec<Array> = set.iter().map(|p| Array::zeros(p.value.dims())).collect();
        for t in 1..=4u64 {
            let mut gradients: Vec<Array> = Vec::new();
            for (i, param) in set.iter().enumerate() {
                let mut g = Array::random(param.value.dims(), t * 1000 + i as u64).map(|x| x * 0.1 * t as f64);
                if param.name == "experts.1" {
                    // An expert that no token has visited.
                    g.data[35..70].fill(0.0);
                }
                param.gradient.as_ref().unwrap().write_f32(&g.to_f32()).unwrap();
                gradients.push(Array::from_f32(&g.shape, &g.to_f32()));
            }
            let norm = gradients.iter().map(|g| g.dot(g)).sum::<f64>().sqrt();
            let scale = (f64::from(config.clip) / (norm + 1e-6)).min(1.0);
            let output = optimizer.step(t, lr as f32).unwrap();
            compare("norm", &download(&output.norm)[..1], &Array::new(&[1], vec![norm]), 1e-5).unwrap();
            let lr = f64::from(lr as f32);
            for (i, param) in set.iter().enumerate().filter(|(_, p)| p.hidden) {
                momenta[i] = momenta[i].zip(&gradients[i], |m, g| momentum * m + scale * g);
                let mixed = momenta[i].zip(&gradients[i], |m, g| momentum * m + scale * g);
                let longest = param.value.dims().iter().rev().take(2).copied().max().unwrap() as f64;
                let directions: Vec<Mat> = matrices(&mixed).iter().map(|x| exact(x) * 0.2 * longest.sqrt()).collect();
                let direction = array(param.value.dims(), &directions);
                want[i] = want[i].zip(&direction, |w, d| w - lr * (d + decay * w));
            }
        }
        let state = optimizer.state().unwrap();
        for (i, param) in set.iter().enumerate() {
            let got = download(&param.value);
            if !param.hidden {
                let most = got.iter().zip(&first[i].data).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!((0.005..0.06).contains(&most), "{}: four steps of AdamW are 0.01 each, got {most}", param.name);
                continue;
            }
            // Four directions, and the rounding of the weights, which are about 4 at the most.
            let longest = param.value.dims().iter().copied().max().unwrap() as f64;
            let allowed = 4.0 * lr * 0.2 * longest.sqrt() * tolerance(param.value.dims()) + 1e-6;
            compare(&param.name, &got, &want[i], allowed).unwrap();
            let name = format!("muon.{}.momentum", param.name);
            let kept = &state.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no {name}")).1;
            assert_eq!(kept.dims(), param.value.dims());
            compare(&name, &download(kept), &momenta[i], 1e-5).unwrap();
        }
        let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).filter(|n| n.starts_with("adam")).collect();
        assert_eq!(names, ["adam.norm.m", "adam.norm.v", "adam.embed.m", "adam.embed.v", "adam.head.m", "adam.head.v"]);
    }
}

#[test]
fn the_root_mean_square_of_a_step_is_that_of_adamw_whatever_the_shape() {
    let gpu = gpu();
    for shape in [[64, 64], [24, 160], [160, 24]] {
        let mut builder = ParamBuilder::default();
        builder.add_hidden("w", shape, Init::Zeros);
        let set = builder.build(&gpu).unwrap();
        let param = set.iter().next().unwrap();
        param.gradient.as_ref().unwrap().write_f32(&Array::random(&shape, 3).to_f32()).unwrap();
        optimizer(&gpu, &set).step(1, 1.0).unwrap();
        let moved = Array::from_f32(&shape, &download(&param.value));
        let rms = (moved.dot(&moved) / (shape[0] * shape[1]) as f64).sqrt();
        assert!((0.15..0.24).contains(&rms), "{shape:?}: {rms}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for (gpu, bad) in tiers().into_iter().flat_map(|gpu| [(gpu.clone(), f32::NAN), (gpu, f32::INFINITY)]) {
        let set = params(&gpu);
        let mut optimizer = optimizer(&gpu, &set);
        let all = |optimizer: &Optimizer| {
            let state = optimizer.state().unwrap().into_iter().map(|(_, x)| x);
            set.iter().map(|p| p.value.clone()).chain(state).map(|x| download(&x)).collect::<Vec<_>>()
        };
        let fill = |bad: f32| {
            for (i, param) in set.iter().enumerate() {
                let mut g = Array::random(param.value.dims(), 7 + i as u64).to_f32();
                g[0] = if param.name == "wide" { bad } else { g[0] };
                param.gradient.as_ref().unwrap().write_f32(&g).unwrap();
            }
        };
        fill(0.0);
        optimizer.step(1, 0.1).unwrap();
        let before = all(&optimizer);
        fill(bad);
        let output = optimizer.step(2, 0.1).unwrap();
        assert_eq!(download(&output.norm)[1..3], [0.0, 1.0]);
        assert!(all(&optimizer) == before, "{bad}");
    }
}

fn by_muon() -> RunConfig {
    let mut config = config();
    config.optimizer.rule = Rule::Muon;
    config
}

#[test]
fn decoupled_parts_stay_apart_and_orthogonal_directions_need_no_projection_until_the_bases_turn() {
    let gpu = gpu();
    let drift = |project: bool, rule: Rule| {
        let mut config = by_muon();
        config.optimizer.rule = rule;
        config.spectral.project_update = project;
        config.spectral.refresh_every = 100;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 12);
        let metrics = block_on(trainer.optimizer().metrics(MetricOptions::default()).unwrap().read()).unwrap();
        metrics.iter().map(|m| m.drift_model.max(m.drift_hidden)).fold(0.0, f64::max)
    };
    let projected = drift(true, Rule::Muon);
    assert!(projected < 1e-5, "{projected}");
    let (muon, adamw) = (drift(false, Rule::Muon), drift(false, Rule::AdamW));
    assert!(muon < 1e-4 && adamw > 1e-3, "Muon {muon:e}, AdamW {adamw:e}");
}

#[test]
fn with_the_default_settings_the_drift_stays_small_over_refreshes() {
    let mut config = by_muon();
    config.spectral.refresh_every = 5;
    let mut trainer = trainer(&gpu(), &config);
    let reports = train(&mut trainer, 40);
    assert!(reports[39].loss < 0.9 * reports[0].loss, "{} to {}", reports[0].loss, reports[39].loss);
    for m in block_on(trainer.optimizer().metrics(MetricOptions::default()).unwrap().read()).unwrap() {
        let refresh = m.refresh.unwrap();
        let worst = m.drift_model.max(m.drift_hidden).max(refresh.drift_model).max(refresh.drift_hidden);
        assert!(worst < 1e-4, "{m:?}");
    }
}

#[test]
fn a_step_that_overflows_in_f16_changes_nothing_but_the_loss_scale() {
    let mut config = by_muon();
    config.train.precision = Precision::F16;
    // So large that gradients of the last layers overflow f16.
    config.optimizer.loss_scale = 16_777_216.0;
    let mut trainer = trainer(&gpu(), &config);
    let without_scale =
        |trainer: &Trainer| snapshot(trainer).into_iter().filter(|(name, _)| name != "loss_scale").collect::<Vec<_>>();
    let before = without_scale(&trainer);
    let report = train(&mut trainer, 1)[0];
    assert_eq!(report.skipped_steps, Some(1), "{report:?}");
    assert!(without_scale(&trainer) == before);
    let reports = train(&mut trainer, 40);
    let last = reports[39];
    assert!(last.skipped_steps < Some(30) && last.loss < report.loss - 0.3, "{last:?} after {report:?}");
}

#[test]
fn a_run_by_muon_is_resumed_by_muon_alone_and_its_model_begins_any_run() {
    let place = Place::new();
    place.write("text", "the quick brown fox jumps over the lazy dog. ".repeat(90));
    let mut config = by_muon();
    (config.train.steps, config.optimizer.rule) = (3, Rule::AdamW);
    // As Mixtral, so that it can be exported.
    config.model.moe.d_shared = 0;
    config.data.paths = vec!["text".into()];
    place.write("run.toml", config.to_toml().unwrap());
    place.runs("train --config run.toml --optimizer muon --out run --quiet --report off");
    assert!(place.read("run/config.toml").contains("rule = \"muon\"\n"));
    place.runs("train --resume run --steps 5 --quiet --report off");
    place.fails(
        "train --resume run --steps 7 --optimizer adamw",
        "optimizer.rule: expected the checkpoint's \"muon\", got \"adamw\"",
    );
    place.fails("train --optimizer sgd --data text", "expected adamw or muon");
    place.runs("train --from run --data text --steps 2 --out plain --quiet --report off");
    assert!(!place.read("plain/config.toml").contains("muon"));
    place.runs("train --from plain --data text --optimizer muon --steps 2 --out other --quiet --report off");
    place.runs("export run --out exported");
}
