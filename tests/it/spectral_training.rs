//! A hundred real training steps of decoupled experts: what a correct implementation shows (METHOD, section 5).

use crate::common::gpu;
use std::collections::BTreeMap;

use crate::common::training::{micro_batches, train, trainer};
use nalgebra::DMatrix;
use pollster::block_on;
use sdmoe::autograd::{Array, Tape};
use sdmoe::data::Batch;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::spectral_update::{Move, apply};
use sdmoe::nn::config::{ExpertMatrix, GradientForm, Preset};
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::ops::CrossEntropy;
use sdmoe::optim::MetricOptions;
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;

const STEPS: u64 = 100;

/// The matrices of the `tiny` preset in two layers, on shorter batches: the first hundred of the preset's 300 steps.
fn config() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.layers = 2;
    config.train.batch = 8;
    config.train.seq = 64;
    config.optimizer.warmup_steps = 10;
    config
}

/// Copies parameters and state from one trainer to another whose steps must then be the same.
fn copy_state(from: &Trainer, to: &mut Trainer) {
    for (source, target) in from.model().params().iter().zip(to.model().params().iter()) {
        target.value.copy_from(&source.value).unwrap();
    }
    let state: BTreeMap<_, _> = from.state().unwrap().into_iter().collect();
    let value = |name: &str, _: &[usize]| block_on(state[name].to_f32()).map(Some);
    to.restore(from.step_number(), value).unwrap();
    assert_eq!(to.state().unwrap().len(), state.len());
}

#[test]
fn with_default_settings_the_parts_stay_apart_and_a_realignment_changes_little() {
    let gpu = gpu();
    let config = config();
    let every = config.spectral.refresh_every;
    let mut run = trainer(&gpu, &config);
    // The same run without refreshes: what the loss would be without the realignment.
    let mut unrefreshed = config.clone();
    unrefreshed.spectral.refresh_every = 10 * STEPS;
    let mut still = trainer(&gpu, &unrefreshed);
    let mut changes = Vec::new();
    let mut losses = Vec::new();
    while run.step_number() < STEPS {
        let step = run.step_number() + 1;
        if step.is_multiple_of(every) {
            copy_state(&run, &mut still);
            train(&mut still, 1);
        }
        losses.extend(train(&mut run, 1));
        if !step.is_multiple_of(every) {
            continue;
        }
        let probe: Vec<Batch> = (1..=4).map(|i| micro_batches(&config, 1000 + i).remove(0)).collect();
        let loss = |t: &Trainer| block_on(t.evaluate(probe.clone())).unwrap();
        changes.push(loss(&run) - loss(&still));
        for m in block_on(
            run.optimizer()
                .metrics(with!(MetricOptions { similarity: false, subspace: 0, ..MetricOptions::default() }))
                .unwrap()
                .read(),
        )
        .unwrap()
        {
            let name = format!("step {step}, layer {}, {:?}", m.layer, m.matrix);
            let refresh = m.refresh.unwrap_or_else(|| panic!("{name}: no record of the refresh"));
            assert!(refresh.drift_model < 1e-4 && refresh.drift_hidden < 1e-4, "{name}: drift {refresh:?}");
            assert!(refresh.common_energy_beyond_rank < 0.03, "{name}: {refresh:?}");
            assert!(refresh.basis_angle.is_finite() && refresh.common_gap >= 1.0, "{name}: {refresh:?}");
            let share = m.common_gradient_share.unwrap_or_else(|| panic!("{name}: no share"));
            assert!(share > 0.0 && share < 1.0, "{name}: common share of the gradient {share}");
        }
    }
    assert_eq!(changes.len() as u64, STEPS / every);
    let mean = changes.iter().sum::<f32>() / changes.len() as f32;
    println!("loss changes at a realignment {changes:?}");
    assert!(mean.abs() < 0.01, "mean loss change at a realignment {mean}; {changes:?}");
    let (first, last) = (losses[0].loss, losses[losses.len() - 1].loss);
    assert!(last < 0.75 * first, "the loss went from {first} to {last}");
}

#[test]
fn as_published_the_parts_drift_to_where_random_subspaces_are() {
    let gpu = gpu();
    let mut config = config();
    config.spectral.as_published = true;
    let mut run = trainer(&gpu, &config);
    let losses = train(&mut run, STEPS);
    assert!(losses.iter().all(|r| r.loss.is_finite()));
    let metrics = run
        .optimizer()
        .metrics(with!(MetricOptions { similarity: false, subspace: 0, ..MetricOptions::default() }))
        .unwrap();
    let metrics = block_on(metrics.read()).unwrap();
    let mean = |f: fn(&sdmoe::optim::MatrixMetrics) -> f64| metrics.iter().map(f).sum::<f64>() / metrics.len() as f64;
    for (side, drift) in [("model", mean(|m| m.drift_model)), ("hidden", mean(|m| m.drift_hidden))] {
        // A random subspace of rank 8 in 128 dimensions holds sqrt(8 / 128) = 0.25.
        println!("drift on the {side} side as published: {drift:.3}");
        assert!((0.15..0.35).contains(&drift), "drift on the {side} side {drift}");
    }
}

/// Raw gradients of every layer and matrix, `[E, m, n]`; with `split` what the token-space form leaves in their place.
fn gradients(gpu: &Gpu, run: &Trainer, batch: &Batch, split: bool) -> Vec<Array> {
    let config = run.config();
    let upload = |x: &[u32]| Tensor::from_u32(gpu, [x.len()], x).unwrap();
    let pass = Pass::plain(run.model().params(), config.train.seq, Mode::Train);
    let mut tape = Tape::new(gpu);
    if split {
        run.optimizer().gradient_hooks().unwrap().into_iter().for_each(|(gradient, hook)| tape.hook(&gradient, hook));
    }
    let output = run.model().forward(&mut tape, &pass, &upload(&batch.tokens)).unwrap();
    let targets = tape.constant(&upload(&batch.targets));
    let loss = tape.apply(CrossEntropy, &[output.logits, targets]).unwrap();
    let one = Tensor::from_f32(gpu, [1], &[1.0]).unwrap();
    let seeds: Vec<_> = output.losses.iter().chain([&loss]).map(|&v| (v, one.clone())).collect();
    tape.backward(&seeds).unwrap();
    let params = run.model().params();
    let experts = params.iter().filter(|p| p.name.contains("experts"));
    experts
        .map(|p| {
            Array::from_f32(
                p.gradient.as_ref().unwrap().dims(),
                &block_on(p.gradient.as_ref().unwrap().to_f32()).unwrap(),
            )
        })
        .collect()
}

/// The direct split, on the device, of what the gradients hold: of each layer and matrix the common and the unique part of
/// each expert and the common part of the experts' sum, `[E, m, n]` twice and `[1, m, n]`.
fn direct_split(run: &Trainer) -> BTreeMap<(usize, ExpertMatrix), [Array; 3]> {
    let mut parts = BTreeMap::new();
    for bank in run.optimizer().banks() {
        for stack in &bank.stacks {
            let [layers, e, m, n] = *stack.gradient.dims() else { panic!("{:?}", stack.gradient) };
            let pass = Tensor::from_f32(stack.gradient.gpu(), [4], &[0.0, 1.0, 0.0, 0.0]).unwrap();
            let skinny = stack.basis.skinny(&stack.gradient).unwrap();
            let (each, sum) = (stack.basis.factors(&skinny).unwrap(), skinny.sum().unwrap());
            let sum = stack.basis.factors(&sum).unwrap();
            let zeros = |e: usize| Tensor::zeros(pass.gpu(), [layers, e, m, n]).unwrap();
            let wanted =
                [(zeros(e), 1.0, &each), (stack.gradient.duplicate().unwrap(), -1.0, &each), (zeros(1), 1.0, &sum)];
            let wanted = wanted.map(|(x, factor, factors)| {
                apply(&x, Move::common(factor, factors), &stack.basis, &pass).unwrap();
                x
            });
            for (i, layer) in stack.layers.clone().enumerate() {
                let of = |x: &Tensor| {
                    let part = block_on(x.to_f32()).unwrap();
                    let size = part.len() / layers;
                    Array::from_f32(&x.dims()[1..], &part[i * size..(i + 1) * size])
                };
                parts.insert((layer, bank.matrix), wanted.each_ref().map(of));
            }
        }
    }
    parts
}

#[test]
fn on_real_gradients_both_forms_agree_and_the_parts_are_orthogonal_and_complete() {
    let gpu = gpu();
    let mut config = config();
    config.spectral.gradient_form = GradientForm::TokenSpace;
    let mut run = trainer(&gpu, &config);
    for until in [1, 20, 50] {
        let steps = until - run.step_number();
        train(&mut run, steps);
        let batch = micro_batches(&config, 77).remove(0);
        let whole = gradients(&gpu, &run, &batch, false);
        let direct = direct_split(&run);
        let unique = gradients(&gpu, &run, &batch, true);
        let state: BTreeMap<_, _> = run.state().unwrap().into_iter().collect();
        let part = |name: String| {
            let tensor = &state[&name];
            Array::from_f32(tensor.dims(), &block_on(tensor.to_f32()).unwrap())
        };
        for layer in 0..config.model.layers {
            for matrix in ExpertMatrix::ALL {
                let name = format!("step {until}, layer {layer}, {matrix:?}");
                let prefix = format!("spectral.{}.{layer}", matrix.name());
                let (u, v) = (part(format!("{prefix}.u")), part(format!("{prefix}.v")));
                let bank = run.optimizer().banks().iter().find(|bank| bank.matrix == matrix).unwrap();
                let split = bank.token_space(layer).unwrap().unwrap();
                let sum = |t: &Tensor| {
                    let [rows, columns] = t.dims()[t.dims().len() - 2..] else { panic!("{t:?}") };
                    Array::from_f32(&[rows, columns], &block_on(t.to_f32()).unwrap())
                };
                let zip = |a: &Array, b: &Array, sign: f64| a.zip(b, |x, y| x + sign * y);
                let common_sum = zip(&u.matmul(&sum(&split.a)), &sum(&split.b).matmul(&v.transpose()), 1.0);
                let place = layer * 3 + matrix as usize;
                let [common, kept, wanted_sum] = &direct[&(layer, matrix)];
                for expert in 0..config.model.moe.experts {
                    let g = whole[place].matrix(expert);
                    let (g_c, g_u) = (common.matrix(expert), kept.matrix(expert));
                    let scale = g.norm().max(1e-30);
                    // Sums over a few hundred tokens in another order.
                    let error = zip(&unique[place].matrix(expert), &g_u, -1.0).norm() / scale;
                    assert!(error < 2e-5, "{name}, expert {expert}: unique parts differ by {error:.1e}");
                    let cosine = g_c.dot(&g_u) / (g_c.norm() * g_u.norm()).max(1e-30);
                    assert!(
                        cosine.abs() < 1e-5,
                        "{name}, expert {expert}: common and unique part at cosine {cosine:.1e}"
                    );
                    let defect = zip(&zip(&g_c, &g_u, 1.0), &g, -1.0).norm() / scale;
                    assert!(defect < 1e-6, "{name}, expert {expert}: the parts miss the whole by {defect:.1e}");
                }
                let wanted_sum = wanted_sum.matrix(0);
                let error = zip(&common_sum, &wanted_sum, -1.0).norm() / wanted_sum.norm();
                assert!(error < 2e-5, "{name}: common parts differ by {error:.1e}");
            }
        }
    }
}

#[test]
fn both_gradient_forms_train_alike() {
    let gpu = gpu();
    let losses = |form| {
        let mut config = config();
        config.spectral.gradient_form = form;
        let mut run = trainer(&gpu, &config);
        train(&mut run, 24).iter().map(|r| (r.loss, r.grad_norm)).collect::<Vec<_>>()
    };
    let (direct, token) = (losses(GradientForm::Direct), losses(GradientForm::TokenSpace));
    for (i, (a, b)) in direct.iter().zip(&token).enumerate() {
        // Rounding differs from the first step on and grows as training amplifies it.
        assert!((a.0 - b.0).abs() < 2e-3 * a.0 && (a.1 - b.1).abs() < 2e-2 * a.1, "step {}: {a:?} and {b:?}", i + 1);
    }
    let (a, b) = (direct[0], token[0]);
    assert!((a.0 - b.0).abs() < 1e-6 * a.0 && (a.1 - b.1).abs() < 1e-5 * a.1, "first step: {a:?} and {b:?}");
}

#[test]
fn a_refresh_finds_the_leading_singular_values() {
    let mut config = config();
    // Wide enough that the SVD is a sketched one; without a realignment W_c stays what the refresh saw.
    (config.model.d_model, config.model.moe.d_expert, config.model.layers) = (80, 72, 1);
    config.spectral.as_published = true;
    config.spectral.refresh_every = 8;
    let mut run = trainer(&gpu(), &config);
    for _ in 0..3 {
        train(&mut run, 8);
        for bank in run.optimizer().banks() {
            let stack = &bank.stacks[0];
            let &[.., m, n] = stack.w_c.dims() else { panic!("{:?}", stack.w_c) };
            let w_c = DMatrix::from_row_slice(m, n, &block_on(stack.w_c.to_f32()).unwrap()).map(f64::from);
            let mut want: Vec<f64> = w_c.singular_values().iter().copied().collect();
            want.sort_by(|a, b| b.total_cmp(a));
            let found = block_on(stack.record.singular.to_f32()).unwrap();
            for (got, want) in found.iter().zip(&want).take(config.spectral.rank) {
                assert!((f64::from(*got) - want).abs() <= 1e-4 * want, "{:?}: {found:?}, {want:?}", bank.matrix);
            }
        }
    }
}
