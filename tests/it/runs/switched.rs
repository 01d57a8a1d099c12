//! Runs that go on with or without decoupling, other than they began.

use super::{lines, session, tiny};
use crate::common::place::Place;
use pollster::block_on;
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::optim::Rule;
use sdmoe::tensor::Tensor;
use sdmoe::train::resume::restore;
use sdmoe::train::saved::SavedRun;

fn values(named: impl IntoIterator<Item = (String, Tensor)>) -> std::collections::BTreeMap<String, Vec<f32>> {
    named.into_iter().map(|(name, tensor)| (name, block_on(tensor.to_f32()).unwrap())).collect()
}

/// Trains 8 steps with the spectral decoupling on or off, then goes on with it switched; what the trainer starts from must
/// be what was saved.
fn switch(from: bool, rule: Rule) {
    let mut config = tiny();
    config.optimizer.rule = rule;
    config.spectral.enabled = from;
    config.train.steps = 8;
    let place = Place::new();
    let dir = place.path("run");
    session(&config, &dir, false);
    let saved = SavedRun::open(&dir).unwrap();
    config.spectral.enabled = !from;
    config.train.steps = 12;
    saved.model.accepts(&config).unwrap();
    let gpu = block_on(Gpu::open(&GpuOptions::default())).unwrap();
    let trainer = restore(&gpu, &config, &saved).unwrap();
    assert_eq!(trainer.step_number(), 8);
    for (name, value) in values(trainer.model().params().iter().map(|p| (p.name.clone(), p.value.clone()))) {
        assert_eq!(value, saved.model.tensors.get_f32(&name).unwrap().1, "{name} stays as it was");
    }
    let state = values(trainer.state().unwrap());
    let (prefix, moments): (_, &[&str]) = match rule {
        Rule::Muon => ("muon", &["momentum"]),
        _ => ("adam", &["m", "v"]),
    };
    let mut carried = 0;
    for matrix in ["gate", "up", "down"] {
        for moment in moments {
            let names = [
                format!("{prefix}.layers.0.moe.experts.{matrix}.{moment}"),
                format!("spectral.{matrix}.0.w_u.{moment}"),
            ];
            let (old, new) = (&names[usize::from(from)], &names[usize::from(!from)]);
            assert_eq!(state[new], saved.optimizer.get_f32(old).unwrap().1, "{old} becomes {new}");
            assert!(state[new].iter().any(|x| *x != 0.0));
            carried += 1;
            if !from {
                let common = format!("spectral.{matrix}.0.w_c");
                assert!(state[&format!("{common}.{moment}")].iter().all(|x| *x == 0.0));
                assert!(state[&common].iter().any(|x| *x != 0.0), "{common} comes from the experts' mean");
            }
        }
    }
    assert_eq!(carried, 3 * moments.len());
    if !from {
        assert_eq!(state["spectral.common_since"], [8.0], "the moments of W_c start at step 8");
    }
    for (name, value) in &state {
        if saved.optimizer.contains(name) {
            assert_eq!(*value, saved.optimizer.get_f32(name).unwrap().1, "{name}");
        }
    }
    drop(trainer);
    session(&config, &dir, false);
    if !from {
        let later = restore(&gpu, &config, &SavedRun::open(&dir).unwrap()).unwrap();
        assert_eq!(values(later.state().unwrap())["spectral.common_since"], [8.0]);
    }
    let found = lines(&dir.join("metrics.jsonl"));
    assert_eq!(found.len(), 12);
    for line in &found[8..] {
        // A batch of 64 bytes differs from the next by some tenths.
        assert!((line.loss - found[7].loss).abs() < 0.5, "step {}: {} after {}", line.step, line.loss, found[7].loss);
    }
    assert_eq!(found[11].spectral.clone().unwrap().similarity_unique.is_some(), !from);
}

#[test]
fn a_plain_run_goes_on_decoupled() {
    switch(false, Rule::AdamW);
    switch(false, Rule::Muon);
}

#[test]
fn a_decoupled_run_goes_on_plain() {
    switch(true, Rule::AdamW);
    switch(true, Rule::Muon);
}
