//! Training in mixed precision: the loss scale, the loss curve beside f32's, repeats, resumes, and nothing allocated.

use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use crate::common::{lent_gpu as gpu, tiers, with_features};
use pollster::block_on;
use sdmoe::gpu::{Counters, Gpu};
use sdmoe::nn::config::{GradientForm, Precision, SharedGate};
use sdmoe::optim::clip::{GradientNorm, LossScale};
use sdmoe::tensor::Tensor;
use sdmoe::train::config::{Recompute, RunConfig};
use sdmoe::train::trainer::{StepReport, Trainer};

fn mixed() -> RunConfig {
    let mut config = config();
    config.train.precision = Precision::F16;
    config
}

fn values(x: &Tensor) -> Vec<f32> {
    block_on(x.to_f32()).unwrap()
}

/// One step of the state machine on a gradient: `clip` and the state after it.
fn decide(gpu: &Gpu, scaling: &LossScale, gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let clip = Tensor::zeros(gpu, [4]).unwrap();
    let mut norm = GradientNorm::new();
    norm.add(1.0, &Tensor::from_f32(gpu, [gradient.len()], gradient).unwrap());
    norm.finish_scaled(2.0, Some(scaling), &clip).unwrap();
    (values(&clip), values(&scaling.state))
}

#[test]
fn the_loss_scale_skips_halves_recovers_and_doubles() {
    for gpu in tiers() {
        let scaling = LossScale::new(&gpu, 64.0, 3).unwrap();
        // Norm 5 times the scale; the scale is taken out together with the clipping to 2.
        let good = |scale: f32| [3.0 * scale, 4.0 * scale];
        let (clip, state) = decide(&gpu, &scaling, &good(64.0));
        assert!((clip[0] - 5.0).abs() < 1e-5 && (clip[1] * 64.0 - 0.4).abs() < 1e-6, "{clip:?}");
        assert_eq!((&clip[2..], &state[..]), (&[0.0, 64.0][..], &[64.0, 1.0, 0.0, 0.0][..]));
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let before = values(&scaling.state);
            let (clip, state) = decide(&gpu, &scaling, &[1.0, bad]);
            assert!(!clip[0].is_finite() && clip[1] == 0.0 && clip[2] == 1.0 && clip[3] == before[0], "{clip:?}");
            assert_eq!(state[..], [before[0] / 2.0, 0.0, before[2] + 1.0, 0.0], "{bad}");
        }
        // Three good steps double it, and the count begins anew.
        for (scale, next) in [(8.0, 1.0), (8.0, 2.0), (16.0, 0.0), (16.0, 1.0), (16.0, 2.0), (32.0, 0.0)] {
            let now = values(&scaling.state)[0];
            let (clip, state) = decide(&gpu, &scaling, &good(now));
            assert!((clip[0] - 5.0).abs() < 1e-5, "{clip:?}");
            assert_eq!(state[..], [scale, next, 3.0, 0.0]);
        }
        // Not below 1, not above 2^24.
        scaling.state.write_f32(&[1.5, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(decide(&gpu, &scaling, &[f32::INFINITY]).1[0], 1.0);
        scaling.state.write_f32(&[16_777_216.0, 2.0, 0.0, 0.0]).unwrap();
        assert_eq!(decide(&gpu, &scaling, &[1.0]).1[..2], [16_777_216.0, 0.0]);
    }
}

#[test]
fn a_step_that_overflows_changes_nothing_but_the_loss_scale_and_later_ones_go_on() {
    let gpu = gpu();
    let mut config = mixed();
    // So large that gradients of the last layers overflow f16: 2^24 / 66 tokens.
    config.optimizer.loss_scale = 16_777_216.0;
    config.optimizer.loss_scale_every = 4;
    config.spectral.refresh_every = 2;
    let mut trainer = trainer(&gpu, &config);
    let without_scale = |trainer: &Trainer| {
        let all = snapshot(trainer).into_iter();
        all.filter(|(name, _)| name != "loss_scale").collect::<Vec<_>>()
    };
    let before = without_scale(&trainer);
    let mut reports: Vec<StepReport> = Vec::new();
    while reports.last().is_none_or(|r| r.skipped_steps == Some(reports.len() as u32)) {
        assert!(without_scale(&trainer) == before, "after {} skipped steps", reports.len());
        reports.extend(train(&mut trainer, 1));
    }
    let skipped = reports.len() - 1;
    assert!((2..20).contains(&skipped), "{reports:?}");
    for (i, report) in reports.iter().enumerate() {
        assert_eq!(report.loss_scale, Some(f32::exp2(24.0 - i as f32)));
        assert_eq!(report.grad_norm == 0.0, i < skipped, "{report:?}");
        assert!(report.loss.is_finite());
    }
    assert!(without_scale(&trainer) != before);
    // Doubled after every four good steps until it overflows again.
    let later = train(&mut trainer, 12);
    let doubled = later.windows(2).any(|pair| pair[1].loss_scale > pair[0].loss_scale);
    assert!(doubled && later.iter().all(|r| r.loss.is_finite()), "{later:?}");
    assert!(later[11].skipped_steps > Some(skipped as u32), "{later:?}");
    assert!(later[11].loss < reports[0].loss);
}

#[test]
fn an_overflow_without_a_scale_to_lower_stops_the_run() {
    let gpu = gpu();
    let mut config = mixed();
    config.optimizer.loss_scale = 1.0;
    let mut trainer = trainer(&gpu, &config);
    // The head's gradient is <= 1; in the experts' weights f16 has no such number.
    let large =
        |name: &str, shape: &[usize]| name.ends_with("layers.0.attn.wo").then(|| vec![6e4; shape.iter().product()]);
    trainer.model().params().write(|name, shape| Ok(large(name, shape))).unwrap();
    trainer.step(&micro_batches(&config, 1)).unwrap();
    let error = block_on(trainer.reports(true)).unwrap_err().to_string();
    assert!(error.contains("step 1") && error.contains("training stopped"), "{error}");
}

#[test]
fn an_adapter_without_f16_is_told_by_name() {
    let own = gpu();
    let gpu = with_features(wgpu::Features::empty());
    let error = Trainer::new(&gpu, &mixed()).err().unwrap().to_string();
    assert!(error.contains(&own.adapter().name) && error.contains("feature SHADER_F16"), "{error}");
    Trainer::new(&gpu, &config()).unwrap();
}

/// Means of ten losses each.
fn curve(gpu: &Gpu, config: &RunConfig, steps: u64) -> Vec<f32> {
    let mut trainer = trainer(gpu, config);
    let reports = train(&mut trainer, steps);
    // The first scale is a guess: with few tokens a step it may be a few times too large.
    assert!(reports.last().unwrap().skipped_steps <= Some(2), "{:?}", reports.last());
    reports.chunks(10).map(|c| c.iter().map(|r| r.loss).sum::<f32>() / c.len() as f32).collect()
}

fn curves_agree(spectral: bool) {
    let gpu = gpu();
    let mut config = config();
    config.train.steps = 200;
    config.optimizer.lr = 3e-3;
    config.optimizer.warmup_steps = 10;
    config.spectral.enabled = spectral;
    let wide = curve(&gpu, &config, 200);
    config.train.precision = Precision::F16;
    let narrow = curve(&gpu, &config, 200);
    println!("f32 {wide:?}\nf16 {narrow:?}");
    assert!(wide[19] < 0.7 * wide[0], "it learns: {wide:?}");
    assert!(wide != narrow);
    for (i, (a, b)) in wide.iter().zip(&narrow).enumerate() {
        assert!((a - b).abs() <= 0.02 * a, "steps {} to {}: {a} in f32, {b} in f16", 10 * i + 1, 10 * i + 10);
    }
}

#[test]
fn the_loss_curve_stays_within_two_percent_of_f32_with_spectral_decoupling() {
    curves_agree(true);
}

#[test]
fn the_loss_curve_stays_within_two_percent_of_f32_without_spectral_decoupling() {
    curves_agree(false);
}

#[test]
fn the_token_space_form_and_gated_experts_train_like_f32() {
    let gpu = gpu();
    let mut config = config();
    config.spectral.gradient_form = GradientForm::TokenSpace;
    config.model.moe.shared_gate = SharedGate::Sigmoid;
    config.model.tied_head = false;
    config.train.accumulate = 2;
    // Small enough for a few tokens a step: a skipped first step would move the curve by one.
    config.optimizer.loss_scale = 4096.0;
    let wide = curve(&gpu, &config, 30);
    config.train.precision = Precision::F16;
    let narrow = curve(&gpu, &config, 30);
    for (a, b) in wide.iter().zip(&narrow) {
        assert!((a - b).abs() <= 0.02 * a, "{wide:?} in f32, {narrow:?} in f16");
    }
}

fn created(counters: Counters) -> (u64, u64, u64, u64) {
    (counters.buffers_created, counters.bind_groups_created, counters.pipelines_created, counters.waits)
}

#[test]
fn from_the_fourth_step_on_nothing_is_created() {
    let gpu = gpu();
    for form in [GradientForm::Direct, GradientForm::TokenSpace] {
        let mut config = mixed();
        config.spectral.gradient_form = form;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 3);
        let before = gpu.counters();
        for step in 4..44 {
            trainer.step(&micro_batches(&config, step)).unwrap();
            block_on(trainer.reports(false)).unwrap();
        }
        let after = gpu.counters();
        assert_eq!(created(before), created(after), "{form:?}: buffers, bind groups, pipelines, waits");
        assert_eq!(before.bytes_allocated, after.bytes_allocated);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_with_recompute_too() {
    let gpu = gpu();
    let run = |recompute| {
        let mut config = mixed();
        config.train.recompute = recompute;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 10);
        snapshot(&trainer)
    };
    let first = run(Recompute::None);
    assert!(first == run(Recompute::None));
    assert!(first == run(Recompute::Experts));
}
