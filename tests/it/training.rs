//! Ten steps on the device against an independent run in f64 on the CPU.

use std::collections::BTreeMap;

use crate::common::gpu;
use crate::common::training::{config, micro_batches, trainer};
use crate::reference::{Adam, Array, SpectralState, Trainer as Reference};
use pollster::block_on;
use sdmoe::data::Batches;
use sdmoe::nn::config::{CommonGradient, ExpertMatrix, GradientForm, Score, SharedGate};
use sdmoe::optim::Rule;
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

fn array(tensor: &Tensor) -> Array {
    let data = block_on(tensor.to_f32()).unwrap();
    Array { shape: tensor.dims().to_vec(), data: data.iter().map(|&x| f64::from(x)).collect() }
}

/// The spectral state of each layer and matrix, from the trainer's `spectral.<matrix>.<layer>.<part>`.
fn spectral_states(trainer: &Trainer) -> BTreeMap<String, SpectralState> {
    let state: BTreeMap<String, Array> = trainer.state().unwrap().iter().map(|(n, t)| (n.clone(), array(t))).collect();
    let merged = parameters(trainer);
    let mut states = BTreeMap::new();
    for matrix in ExpertMatrix::ALL {
        for layer in 0..trainer.config().model.layers {
            let part = |name: &str| state.get(&format!("spectral.{}.{layer}.{name}", matrix.name())).cloned();
            if let (Some(w_c), Some(u), Some(v)) = (part("w_c"), part("u"), part("v")) {
                let name = format!("layers.{layer}.moe.experts.{}", matrix.name());
                let w = &merged[&name];
                let size = w_c.data.len();
                let data = w.data.iter().enumerate().map(|(i, w)| w - w_c.data[i % size]).collect();
                let w_u = Array { shape: w.shape.clone(), data };
                states.insert(name, SpectralState { w_c, w_u, u, v });
            }
        }
    }
    states
}

fn parameters(trainer: &Trainer) -> BTreeMap<String, Array> {
    trainer.model().params().iter().map(|p| (p.name.clone(), array(&p.value))).collect()
}

/// Trains ten steps on both sides; the losses, the gradient norms and the parameters at the end must agree.
fn compare(case: &str, change: impl FnOnce(&mut RunConfig)) {
    let mut config = config();
    // With a tiny eps, Adam turns the rounding of near-zero gradients into full steps.
    config.optimizer.eps = 1e-5;
    config.spectral.refresh_every = 4;
    change(&mut config);
    let gpu = gpu();
    let mut device = trainer(&gpu, &config);
    let optimizer = &config.optimizer;
    let adam = Adam::from(optimizer);
    let states = spectral_states(&device);
    let covered = ExpertMatrix::ALL.iter().filter(|m| config.spectral.covers(**m)).count();
    assert_eq!(states.len(), covered * config.model.layers, "{case}");
    let mut host = Reference::new(config.model.clone(), config.spectral.clone(), adam, parameters(&device), states);
    let schedule = optimizer.schedule(config.train.steps);
    for step in 1..=10 {
        let batches = micro_batches(&config, step);
        device.step(&batches).unwrap();
        let got = block_on(device.reports(true)).unwrap()[0];
        let lr = f64::from(schedule.lr(step));
        let micro: Vec<_> = batches.iter().map(|b| (&b.tokens[..], &b.targets[..])).collect();
        let want = host.step_over(&micro, config.train.batch, config.train.seq, lr);
        let margin = want.routed.iter().map(|r| r.margin).fold(f64::INFINITY, f64::min);
        let context = format!("{case}, step {step}: {got:?}, expected {want:?}; least routing margin {margin:.1e}");
        // Scores are about 0.2: what is nearer than a few of their eps in f32 may be chosen otherwise, by another seed not.
        assert!(margin > 1e-7, "a tie in {context}");
        assert!((f64::from(got.loss) - want.loss).abs() < 1e-5 * want.loss, "loss of {context}");
        assert!((f64::from(got.aux_loss) - want.aux).abs() < 1e-5 * want.aux + 1e-9, "auxiliary loss of {context}");
        let norm = f64::from(got.grad_norm);
        assert!((norm - want.grad_norm).abs() < 1e-4 * want.grad_norm, "gradient norm of {context}");
    }
    let moe = &config.model.moe;
    for (l, biases) in host.biases().iter().enumerate().filter(|_| moe.balance_bias > 0.0) {
        let name = format!("layers.{l}.moe.balance_bias");
        let (_, got) = device.state().unwrap().into_iter().find(|(n, _)| *n == name).unwrap();
        for (got, want) in array(&got).data.iter().zip(biases) {
            assert!((got - want).abs() < 1e-6, "{case}: {name} {got}, expected {want}");
        }
    }
    let want = host.params();
    for (name, got) in parameters(&device) {
        let difference: f64 = got.data.iter().zip(&want[&name].data).map(|(a, b)| (a - b) * (a - b)).sum();
        let relative = difference.sqrt() / want[&name].norm();
        // Rounding of 6e-8 in each of ten steps, and what Adam makes of it: an entry moves by up to lr whatever its size.
        assert!(relative < 1e-4, "{case}: {name} off by {relative:.1e}");
    }
}

#[test]
fn ten_steps_agree_with_f64_with_spectral_decoupling() {
    compare("spectral on, direct form", |c| c.spectral.gradient_form = GradientForm::Direct);
    compare("spectral on, token-space form", |c| c.spectral.gradient_form = GradientForm::TokenSpace);
    compare("as published", |c| c.spectral.as_published = true);
    compare("mean of the common parts, token-space form, cold sketches", |c| {
        c.spectral.gradient_form = GradientForm::TokenSpace;
        c.spectral.common_gradient = CommonGradient::Mean;
        c.spectral.warm_start = false;
    });
    compare("gate alone", |c| c.spectral.matrices = vec![ExpertMatrix::Gate]);
}

#[test]
fn ten_steps_of_two_micro_batches_agree_with_f64() {
    for form in [GradientForm::Direct, GradientForm::TokenSpace] {
        compare(&format!("two micro-batches, {form:?}"), |c| {
            c.seed = 2;
            c.train.accumulate = 2;
            c.spectral.gradient_form = form;
            // The biases must follow the counts of both.
            c.model.moe.balance_bias = 0.01;
        });
    }
}

#[test]
fn ten_steps_agree_with_f64_without_spectral_decoupling() {
    compare("spectral off", |c| c.spectral.enabled = false);
}

#[test]
fn ten_steps_of_muon_agree_with_f64() {
    let muon = |c: &mut RunConfig| c.optimizer.rule = Rule::Muon;
    compare("muon, spectral off", |c| {
        muon(c);
        c.spectral.enabled = false;
        c.model.tied_head = false;
        c.model.moe.shared_gate = SharedGate::Sigmoid;
    });
    compare("muon, direct form", |c| {
        muon(c);
        c.spectral.gradient_form = GradientForm::Direct;
    });
    compare("muon, token-space form", |c| {
        muon(c);
        c.spectral.gradient_form = GradientForm::TokenSpace;
    });
    compare("muon, as published", |c| {
        muon(c);
        c.spectral.as_published = true;
    });
    compare("muon, gate alone", |c| {
        muon(c);
        c.spectral.matrices = vec![ExpertMatrix::Gate];
    });
}

#[test]
fn ten_steps_agree_with_f64_for_every_kind_of_router() {
    compare("sigmoid scores, bias balancing, scaling, gated shared expert, untied head", |c| {
        c.model.moe.score = Score::Sigmoid;
        c.model.moe.balance_bias = 0.01;
        c.model.moe.scaling = 2.5;
        c.model.moe.shared_gate = SharedGate::Sigmoid;
        c.model.tied_head = false;
    });
    compare("softmax without renormalisation, no shared expert, no auxiliary loss", |c| {
        c.seed = 2;
        c.model.moe.renormalize = false;
        c.model.moe.d_shared = 0;
        c.model.moe.balance_loss = 0.0;
        c.model.moe.z_loss = 0.0;
    });
    compare("soft routing", |c| {
        c.model.moe.top_k = c.model.moe.experts;
    });
}

#[test]
fn rank_zero_trains_like_spectral_off() {
    let gpu = gpu();
    let run = |change: fn(&mut RunConfig)| {
        let mut config = config();
        change(&mut config);
        let mut trainer = trainer(&gpu, &config);
        crate::common::training::train(&mut trainer, 6);
        crate::common::training::snapshot(&trainer)
    };
    assert!(run(|c| c.spectral.rank = 0) == run(|c| c.spectral.enabled = false));
}

#[test]
fn a_changed_balance_loss_counts_from_the_next_step_on() {
    let gpu = gpu();
    let mut config = config();
    config.model.moe.z_loss = 0.0;
    let mut trainer = trainer(&gpu, &config);
    let layers = config.model.layers as f32;
    let mut auxiliary = |weight: f32| {
        trainer.set_balance_loss(weight).unwrap();
        assert_eq!(trainer.set_balance_loss(-1.0).unwrap_err().kind(), sdmoe::ErrorKind::Config);
        assert_eq!(trainer.config().model.moe.balance_loss, weight);
        let reports = crate::common::training::train(&mut trainer, 1);
        let counts = block_on(trainer.expert_counts()).unwrap();
        let tokens = config.train.batch * config.train.seq * config.model.moe.top_k;
        assert!(counts.iter().all(|layer| layer.iter().sum::<u32>() as usize == tokens), "{counts:?}");
        reports[0].aux_loss
    };
    for weight in [0.5, 0.0, 0.25] {
        // The loss of a layer is 1 where load and scores are even, as they nearly are at the start.
        let (got, wanted) = (auxiliary(weight), weight * layers);
        assert!((got - wanted).abs() <= 0.2 * wanted, "{weight}: {got}, about {wanted}");
    }
}

#[test]
fn the_losses_that_verify_expects_are_those_of_f64() {
    let (config, text, losses) = sdmoe::verify::training_reference();
    let device = trainer(&gpu(), &config);
    let adam = Adam::from(&config.optimizer);
    let states = spectral_states(&device);
    let mut host = Reference::new(config.model.clone(), config.spectral.clone(), adam, parameters(&device), states);
    let schedule = config.optimizer.schedule(config.train.steps);
    let batches = Batches::new(&text, config.train.batch, config.train.seq, config.seed).unwrap();
    let got: Vec<f64> = (1..=losses.len() as u64)
        .map(|step| {
            let batch = batches.batch(step, 0);
            let micro = [(&batch.tokens[..], &batch.targets[..])];
            let report = host.step_over(&micro, config.train.batch, config.train.seq, f64::from(schedule.lr(step)));
            assert!(report.routed.iter().all(|r| r.margin > 1e-6), "a tie in step {step}");
            report.loss
        })
        .collect();
    assert!(got.iter().zip(losses).all(|(got, want)| (got - want).abs() < 1e-9), "{got:?}, expected {losses:?}");
}
