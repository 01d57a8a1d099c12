//! The f64 reference's training step: AdamW by hand, balance biases, and the identities of SD-MoE.

use std::collections::BTreeMap;

use crate::reference::tape::Mat;
use crate::reference::{
    Adam, Arrays, Decoupled, Random, StepReport, Trainer, random_batch, random_params, random_spectral,
};
use sdmoe::nn::config::{ExpertMatrix, ModelConfig, MoeConfig, Realign, SpectralConfig};

const SEQ: usize = 6;

fn tiny() -> ModelConfig {
    with!(ModelConfig {
        vocab: 7,
        d_model: 10,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        rope_theta: 100.0,
        norm_eps: 1e-6,
        tied_head: true,
        moe: with!(MoeConfig {
            experts: 3,
            top_k: 2,
            d_expert: 8,
            d_shared: 4,
            balance_bias: 0.01,
            ..MoeConfig::default()
        }),
        ..ModelConfig::default()
    })
}

fn rank(k: usize) -> SpectralConfig {
    with!(SpectralConfig { rank: k, ..SpectralConfig::default() })
}

fn off() -> SpectralConfig {
    with!(SpectralConfig { enabled: false, ..SpectralConfig::default() })
}

/// A trainer whose decoupled matrices start as METHOD draws them.
fn drawn(spectral: SpectralConfig, adam: Adam) -> Trainer {
    spectral.validate(&tiny()).unwrap();
    let states = random_spectral(&tiny(), &spectral, 4);
    Trainer::new(tiny(), spectral, adam, random_params(&tiny(), 3), states)
}

fn train(trainer: &mut Trainer, steps: u64) -> Vec<StepReport> {
    // Each token is followed by the same other one, so there is something to learn.
    let batch = |seed| {
        let (tokens, _) = random_batch(tiny().vocab, 2 * SEQ, seed);
        let targets: Vec<u32> = tokens.iter().map(|t| (3 * t + 1) % 7).collect();
        (tokens, targets)
    };
    (0..steps).map(batch).map(|(x, y)| trainer.step(&x, &y, 2, SEQ, 0.01)).collect()
}

fn worst_drift(reports: &[StepReport]) -> f64 {
    reports.iter().flat_map(|r| r.before_refresh.values()).map(|d| d.worst()).fold(0.0, f64::max)
}

fn largest_difference(a: &Arrays, b: &Arrays) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|((_, a), (_, b))| a.data.iter().zip(&b.data));
    pairs.map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// A random state with bases and gradients of three experts.
fn drawn_state(m: usize, n: usize, k: usize, seed: u64) -> (Decoupled, Vec<Mat>) {
    let mut r = Random::new(seed);
    let experts: Vec<Mat> = (0..3).map(|_| r.matrix(m, n)).collect();
    (Decoupled::from_experts(&experts, k), (0..3).map(|_| r.matrix(m, n)).collect())
}

#[test]
fn the_svd_holds_for_deficient_wide_tall_repeated_and_ill_conditioned_matrices() {
    let mut r = Random::new(8);
    let spread = Mat::from_fn(6, 6, |i, j| if i == j { 10f64.powf(-1.4 * i as f64) } else { 0.0 });
    let ill = r.matrix(6, 6).qr().q() * spread * r.matrix(6, 6).qr().q();
    let known =
        [Mat::zeros(4, 3), Mat::identity(5, 5), Mat::from_element(1, 1, -2.0), Mat::from_element(3, 7, 1.0), ill];
    let deficient = (0..200).map(|i| r.matrix(10, 1 + i % 4) * r.matrix(1 + i % 4, 8 + i % 5));
    for w in deficient.collect::<Vec<_>>().iter().chain(&known) {
        // The residual and the orthogonality are asserted inside.
        let (_, s, _) = crate::reference::svd(w);
        let energy: f64 = s.iter().map(|x| x * x).sum();
        assert!((energy - w.norm_squared()).abs() <= 1e-13 * energy);
    }
    let (_, s, _) = crate::reference::svd(&known[4]);
    assert!(s.iter().enumerate().all(|(i, s)| (s / 10f64.powf(-1.4 * i as f64) - 1.0).abs() < 1e-8), "{s:?}");
}

#[test]
fn the_common_and_unique_gradients_sum_to_the_gradient_and_are_orthogonal() {
    for (m, n, k) in [(9, 7, 3), (5, 11, 1), (6, 6, 6), (1, 1, 1)] {
        let (state, grads) = drawn_state(m, n, k, 1);
        for g in &grads {
            assert!((state.common(g) + state.unique(g) - g).norm() < 1e-13 * g.norm());
            for h in &grads {
                assert!(state.common(g).dot(&state.unique(h)).abs() < 1e-13 * g.norm() * h.norm());
            }
            assert!((state.common(&state.common(g)) - state.common(g)).norm() < 1e-13 * g.norm());
        }
        let common: Mat = grads.iter().map(|g| state.common(g)).sum();
        let beyond = common.svd(false, false).singular_values.iter().skip(2 * k).copied().fold(0.0, f64::max);
        assert!(beyond < 1e-12, "{m} x {n}, k = {k}: the common gradient has rank above 2k: {beyond:e}");
    }
}

#[test]
fn the_dense_split_equals_the_papers_skinny_form() {
    let (s, grads) = drawn_state(9, 7, 3, 2);
    for g in &grads {
        let (a, b) = (s.u.transpose() * g, g * &s.v);
        let m = &a * &s.v;
        let common = &s.u * a + (b - &s.u * m) * s.v.transpose();
        assert!((common - s.common(g)).norm() < 1e-13 * g.norm());
    }
}

#[test]
fn deriving_from_plain_experts_keeps_the_function_and_takes_the_means_leading_directions() {
    let (model, params) = (tiny(), random_params(&tiny(), 3));
    let make = |spectral| Trainer::new(model.clone(), spectral, Adam::default(), params.clone(), BTreeMap::new());
    let (plain, derived) = (make(off()), make(rank(2)));
    assert!(largest_difference(&plain.params(), &derived.params()) < 1e-15);
    assert_eq!(derived.spectral().len(), 6);
    for drift in derived.drift().values() {
        assert!(drift.tail_energy < 1e-28 && drift.gap > 1e12, "W_c has rank 2: {drift:?}");
        assert!(drift.worst() > 0.1, "derived W_u lie outside the complement: {drift:?}");
    }
}

#[test]
fn drawn_states_are_decoupled_and_have_a_plain_experts_energy() {
    for drift in drawn(rank(3), Adam::default()).drift().values() {
        assert!(drift.worst() < 1e-14 && drift.tail_energy < 1e-28, "{drift:?}");
    }
    let states = random_spectral(&tiny(), &rank(3), 4);
    let common = &states["layers.0.moe.experts.gate"].w_c;
    let expected = 8.0 * (1.0 - (1.0 - 0.3) * (1.0 - 3.0 / 8.0));
    assert!((common.norm().powi(2) - expected).abs() < 1e-12);
}

#[test]
fn with_the_default_settings_unique_weights_stay_in_the_complement_over_forty_steps() {
    let mut trainer = drawn(rank(2), Adam::default());
    let reports = train(&mut trainer, 40);
    assert_eq!(reports.iter().filter(|r| r.before_refresh.len() == 6).count(), 2);
    let worst = worst_drift(&reports);
    assert!(worst < 1e-12, "drift {worst:e}");
    assert!(reports[39].loss < 0.6 * reports[0].loss, "{} -> {}", reports[0].loss, reports[39].loss);
}

#[test]
fn derived_unique_weights_reach_the_complement_at_the_first_refresh() {
    let mut trainer = Trainer::new(tiny(), rank(2), Adam::default(), random_params(&tiny(), 3), BTreeMap::new());
    let reports = train(&mut trainer, 40);
    assert!(worst_drift(&reports[..16]) > 0.1);
    let later = worst_drift(&reports[16..]);
    assert!(later < 1e-12, "drift {later:e}");
}

#[test]
fn as_published_or_without_either_setting_unique_weights_drift() {
    let published = with!(SpectralConfig { as_published: true, ..rank(2) });
    let unprojected = with!(SpectralConfig { project_update: false, ..rank(2) });
    let unaligned = with!(SpectralConfig { realign: Realign::None, ..rank(2) });
    for (what, spectral) in [("published", published), ("unprojected", unprojected), ("unaligned", unaligned)] {
        let reports = train(&mut drawn(spectral, Adam::default()), 40);
        let worst = worst_drift(&reports);
        assert!(worst > 1e-3, "{what}: drift {worst:e}");
    }
}

#[test]
fn a_refresh_removes_or_absorbs_what_the_turned_basis_uncovers() {
    let (mut before, _) = drawn_state(9, 7, 2, 5);
    before.w_c += Random::new(6).matrix(9, 7);
    let mean = |s: &Decoupled| s.merged().iter().sum::<Mat>() / 3.0;
    let refreshed = |realign| {
        let mut s = before.clone();
        s.refresh(realign);
        s
    };
    let (none, project, absorb) = (refreshed(Realign::None), refreshed(Realign::Project), refreshed(Realign::Absorb));
    assert_eq!((&none.w_c, &none.w_u), (&before.w_c, &before.w_u));
    assert_eq!((&project.w_c, &project.w_u), (&before.w_c, &absorb.w_u));
    assert!(project.drift().worst() < 1e-14);
    assert!((mean(&absorb) - mean(&before)).norm() < 1e-13, "absorbing keeps the experts' mean");
    assert!((mean(&project) - mean(&before)).norm() > 0.1);
}

#[test]
fn rank_zero_or_no_matrices_train_exactly_like_off() {
    let run = |spectral: SpectralConfig| {
        let params = random_params(&tiny(), 3);
        let mut trainer = Trainer::new(tiny(), spectral, Adam::default(), params, BTreeMap::new());
        let reports = train(&mut trainer, 5);
        (trainer.params(), reports[4].loss, reports[4].grad_norm)
    };
    let plain = run(off());
    assert!(run(rank(0)) == plain);
    assert!(run(with!(SpectralConfig { matrices: Vec::new(), ..rank(2) })) == plain);
    assert!(run(rank(2)) != plain);
    assert!(run(with!(SpectralConfig { matrices: vec![ExpertMatrix::Down], ..rank(2) })) != run(rank(2)));
}

#[test]
fn the_reported_norm_is_of_what_the_parameters_receive() {
    let mut trainer = drawn(rank(2), Adam::default());
    let (tokens, targets) = random_batch(7, 2 * SEQ, 0);
    let grads = trainer.gradients(&tokens, &targets, 2, SEQ);
    let mut squares = 0.0;
    for (name, g) in &grads {
        if let Some(state) = trainer.spectral().get(name) {
            let state = Decoupled::from_state(state);
            let experts = g.matrices();
            squares += state.common(&experts.iter().sum::<Mat>()).norm_squared();
            squares += experts.iter().map(|g| state.unique(g).norm_squared()).sum::<f64>();
        } else {
            squares += g.norm().powi(2);
        }
    }
    let report = trainer.step(&tokens, &targets, 2, SEQ, 0.01);
    assert!((report.grad_norm - squares.sqrt()).abs() < 1e-12);
}

#[test]
fn a_step_moves_the_common_and_the_unique_matrices_by_their_own_directions() {
    let adam = Adam { clip: 0.0, ..Adam::default() };
    for project_update in [false, true] {
        let mut trainer = drawn(with!(SpectralConfig { project_update, ..rank(2) }), adam);
        let name = "layers.1.moe.experts.down";
        let before = Decoupled::from_state(&trainer.spectral()[name]);
        let (tokens, targets) = random_batch(7, 2 * SEQ, 0);
        let grads = trainer.gradients(&tokens, &targets, 2, SEQ)[name].matrices();
        trainer.step(&tokens, &targets, 2, SEQ, 0.01);
        let after = Decoupled::from_state(&trainer.spectral()[name]);
        // In the first step both corrected moments are the gradient's own powers.
        let direction = |g: Mat| g.map(|g| g / (g.abs() + 1e-8));
        let mut dc = direction(before.common(&grads.iter().sum()));
        let mut du = direction(before.unique(&grads[2]));
        if project_update {
            (dc, du) = (before.common(&dc), before.unique(&du));
        }
        // The decay is not projected: a share of a matrix lies where it lies.
        assert!((&before.w_c * 0.999 - dc * 0.01 - &after.w_c).norm() < 1e-12);
        assert!((&before.w_u[2] * 0.999 - du * 0.01 - &after.w_u[2]).norm() < 1e-12);
        assert_eq!((before.u, before.v), (after.u, after.v), "no refresh is due");
        let merged = &trainer.params()[name].matrices()[2];
        assert_eq!(merged, &(&after.w_c + &after.w_u[2]));
    }
}

#[test]
fn two_steps_of_adamw_are_what_its_formula_says() {
    let adam = Adam { beta1: 0.8, beta2: 0.9, eps: 1e-6, weight_decay: 0.3, clip: 0.2, muon: None };
    let mut trainer = Trainer::new(tiny(), off(), adam, random_params(&tiny(), 3), BTreeMap::new());
    let (tokens, targets) = random_batch(7, 2 * SEQ, 0);
    let lr = 0.02;
    // A decayed entry and one of a norm, which does not decay.
    let watched = [("layers.1.attn.wo", 5, 0.3), ("layers.0.moe_norm.weight", 2, 0.0)];
    let mut moments = [(0.0f64, 0.0f64); 2];
    for t in 1..=2 {
        let (before, grads) = (trainer.params(), trainer.gradients(&tokens, &targets, 2, SEQ));
        let report = trainer.step(&tokens, &targets, 2, SEQ, lr);
        assert!(report.grad_norm > 0.2, "the limit must be felt: {}", report.grad_norm);
        for ((name, entry, decay), (m, v)) in watched.into_iter().zip(&mut moments) {
            let g = grads[name].data[entry] * 0.2 / (report.grad_norm + 1e-6);
            (*m, *v) = (0.8 * *m + 0.2 * g, 0.9 * *v + 0.1 * g * g);
            let (m, v) = (*m / (1.0 - 0.8f64.powi(t)), *v / (1.0 - 0.9f64.powi(t)));
            let p = before[name].data[entry];
            let expected = p - lr * (m / (v.sqrt() + 1e-6) + decay * p);
            assert!((trainer.params()[name].data[entry] - expected).abs() < 1e-14, "{name}, step {t}");
        }
    }
}

#[test]
fn balance_biases_move_against_the_load() {
    let mut trainer = drawn(rank(2), Adam::default());
    let reports = train(&mut trainer, 1);
    let step = f64::from(0.01f32);
    for (bias, routed) in trainer.biases().iter().zip(&reports[0].routed) {
        assert_eq!(routed.picks.iter().sum::<usize>(), 2 * SEQ * 2);
        // Eight of the 24 slots are an expert's share.
        let expected = routed.picks.iter().map(|p| [step, 0.0, -step][(p.cmp(&8) as i8 + 1) as usize]);
        assert_eq!(bias, &expected.collect::<Vec<_>>());
    }
}
