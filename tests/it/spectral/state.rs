//! What is kept from step to step, and what a failed step leaves alone.

use super::rig::Rig;
use crate::common::lent_gpu as gpu;
use pollster::block_on;
use sdmoe::nn::config::SpectralConfig;
use sdmoe::optim::SpectralInit;

#[test]
fn the_state_restores_the_run_bit_for_bit() {
    let gpu = gpu();
    let config = with!(SpectralConfig { refresh_every: 3, ..SpectralConfig::default() });
    let mut rig = Rig::new(&gpu, [3, 2, 13, 9, 3], config.clone(), SpectralInit::Fresh);
    let run = |rig: &mut Rig, steps: std::ops::RangeInclusive<u64>| {
        for step in steps {
            rig.gradients(step);
            rig.optimizer.step(step, 0.01).unwrap();
        }
    };
    let everything = |rig: &Rig| -> Vec<(String, Vec<f32>)> {
        let params = rig.set.iter().map(|p| (p.name.clone(), p.value.clone()));
        let all = params.chain(rig.optimizer.state().unwrap());
        all.map(|(name, x)| (name, block_on(x.to_f32()).unwrap())).collect()
    };
    run(&mut rig, 1..=4);
    let saved = everything(&rig);
    run(&mut rig, 5..=8);
    let want = everything(&rig);
    let mut resumed = Rig::new(&gpu, [3, 2, 13, 9, 3], config, SpectralInit::Restored);
    let mut left = saved.iter();
    let mut next = |name: &str| {
        let (saved_name, data) = left.next().unwrap();
        assert_eq!(name, saved_name);
        Ok(Some(data.clone()))
    };
    resumed.set.write(|name, _| next(name)).unwrap();
    resumed.optimizer.restore(|name, _| next(name)).unwrap();
    assert_eq!(everything(&resumed), saved);
    run(&mut resumed, 5..=8);
    assert_eq!(everything(&resumed), want);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_even_at_a_refresh() {
    let config = with!(SpectralConfig { refresh_every: 1, ..SpectralConfig::default() });
    let gpu = gpu();
    let mut rig = Rig::new(&gpu, [1, 2, 12, 8, 2], config, SpectralInit::Fresh);
    rig.gradients(1);
    rig.optimizer.step(1, 0.01).unwrap();
    let snapshot = |rig: &Rig| -> Vec<(String, Vec<f32>)> {
        let state = rig.optimizer.state().unwrap().into_iter();
        state.map(|(name, x)| (name, block_on(x.to_f32()).unwrap())).collect()
    };
    let (before, merged) = (snapshot(&rig), rig.merged(0));
    let param = rig.set.iter().next().unwrap();
    param.gradient.as_ref().unwrap().write_f32(&vec![f32::NAN; param.gradient.as_ref().unwrap().numel()]).unwrap();
    let output = rig.optimizer.step(2, 0.1).unwrap();
    assert_eq!(block_on(output.norm.to_f32()).unwrap()[1..], [0.0, 1.0, 0.0]);
    assert!(before.iter().any(|(name, x)| name.contains("refresh.share") && x.iter().all(|x| *x > 0.0)));
    for ((name, x), (_, was)) in snapshot(&rig).iter().zip(&before) {
        assert_eq!(x, was, "{name}");
    }
    assert_eq!(rig.merged(0), merged);
}

#[test]
fn after_the_second_step_nothing_is_created_not_even_by_a_refresh() {
    let gpu = gpu();
    let config = with!(SpectralConfig { refresh_every: 4, ..SpectralConfig::default() });
    let mut rig = Rig::new(&gpu, [2, 3, 24, 16, 4], config, SpectralInit::Fresh);
    rig.gradients(1);
    rig.optimizer.step(1, 0.01).unwrap();
    rig.optimizer.step(2, 0.01).unwrap();
    let before = gpu.counters();
    for step in 3..=9 {
        rig.optimizer.step(step, 0.01).unwrap();
    }
    let after = gpu.counters();
    assert_eq!(after.buffers_created, before.buffers_created);
    assert_eq!(after.bind_groups_created, before.bind_groups_created);
    assert_eq!(after.pipelines_created, before.pipelines_created);
    assert_eq!(after.waits, before.waits);
}
