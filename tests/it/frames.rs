//! Training beside something else that uses the device: submissions cut to a time, with the same results.

use std::time::Duration;

use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use crate::common::{lent_gpu as gpu, with_features};
use pollster::block_on;
use sdmoe::gpu::{Budget, Gpu, OPTIONAL_FEATURES};
use sdmoe::{RunConfig, Tensor};

/// Settings with all that a step can have: several micro-batches, refreshes, figures.
fn settings() -> RunConfig {
    let mut config = config();
    config.train.accumulate = 2;
    config.spectral.refresh_every = 4;
    config
}

fn trained(gpu: &Gpu, budget: Option<Budget>) -> Vec<(String, Vec<u32>)> {
    gpu.set_budget(budget);
    let mut trainer = trainer(gpu, &settings());
    train(&mut trainer, 6);
    snapshot(&trainer)
}

#[test]
fn a_budget_changes_no_bit_of_the_results() {
    let gpu = gpu();
    let whole = trained(&gpu, None);
    assert!(whole == trained(&gpu, Some(Budget::new(Duration::from_millis(2)))));
    let pacing = gpu.pacing();
    assert!(pacing.submissions > 12 && pacing.longest > Duration::ZERO, "{pacing:?}");
    assert!(whole == trained(&gpu, Some(Budget::new(Duration::from_micros(1)).share(0.9))), "one dispatch at a time");
    assert!(whole == trained(&gpu, Some(Budget::new(Duration::from_secs(1)))), "no cut by time");
}

#[test]
fn a_device_without_timestamps_keeps_a_budget_too() {
    let gpu = with_features(OPTIONAL_FEATURES - wgpu::Features::TIMESTAMP_QUERY);
    let whole = trained(&gpu, None);
    let budget = Budget::new(Duration::from_millis(2)).share(0.5);
    assert!(whole == trained(&gpu, Some(budget)));
    let pacing = gpu.pacing();
    assert!(pacing.submissions > 12 && pacing.share() < 0.6, "{pacing:?}");
}

#[test]
fn training_takes_the_share_it_is_given_and_creates_nothing_in_its_steady_state() {
    let gpu = gpu();
    let config = settings();
    gpu.set_budget(Budget::new(Duration::from_millis(2)));
    let mut trainer = trainer(&gpu, &config);
    train(&mut trainer, 8);
    for share in [0.2, 0.5] {
        let mut measure = || {
            gpu.set_budget(Budget::new(Duration::from_millis(2)).share(share));
            let before = gpu.counters();
            train(&mut trainer, 8);
            (before, gpu.counters(), gpu.pacing())
        };
        // A submission that waits for other processes takes longer than its work: then once more, and once more.
        let mut tries = std::iter::repeat_with(&mut measure).take(2);
        let undisturbed = tries.find(|(_, _, pacing)| pacing.share() < share + 0.05);
        let (before, after, pacing) = undisturbed.unwrap_or_else(measure);
        assert!(pacing.share() < share + 0.05 && pacing.share() > 0.0, "{share}: {pacing:?}");
        assert!(pacing.busy >= pacing.longest && pacing.mean() <= pacing.longest, "{pacing:?}");
        assert_eq!(pacing.first_runs, 0);
        assert_eq!(
            (before.buffers_created, before.bind_groups_created, before.pipelines_created),
            (after.buffers_created, after.bind_groups_created, after.pipelines_created)
        );
        assert_eq!(pacing.submissions, after.submissions - before.submissions);
    }
}

#[test]
fn what_is_held_back_goes_to_the_queue_when_somebody_flushes_or_takes_the_budget_away() {
    let gpu = gpu();
    let x = Tensor::from_f32(&gpu, [3], &[1.0, 2.0, 3.0]).unwrap();
    let y = Tensor::zeros(&gpu, [3]).unwrap();
    let submitted = || gpu.counters().submissions;
    for take_away in [false, true] {
        gpu.set_budget(Budget::new(Duration::from_millis(2)));
        let before = submitted();
        x.write_f32(&[4.0, 5.0, 6.0]).unwrap();
        y.copy_from(&x).unwrap();
        // Written behind the copy.
        x.write_f32(&[7.0, 8.0, 9.0]).unwrap();
        assert_eq!(submitted(), before);
        if take_away {
            gpu.set_budget(None);
        } else {
            gpu.flush().unwrap();
        }
        assert_eq!(submitted(), before + 1);
        assert_eq!(block_on(y.to_f32()).unwrap(), [4.0, 5.0, 6.0]);
        assert_eq!(block_on(x.to_f32()).unwrap(), [7.0, 8.0, 9.0]);
    }
}

#[test]
fn two_trainers_on_one_device_share_a_budget() {
    let gpu = gpu();
    let config = settings();
    let alone = trained(&gpu, None);
    gpu.set_budget(Budget::new(Duration::from_millis(2)));
    let mut both = [trainer(&gpu, &config), trainer(&gpu, &config)];
    for step in 1..=6 {
        for trainer in &mut both {
            trainer.step(&micro_batches(&config, step)).unwrap();
        }
        for trainer in &mut both {
            block_on(trainer.reports(false)).unwrap();
        }
    }
    for trainer in &mut both {
        block_on(trainer.reports(true)).unwrap();
        assert!(snapshot(trainer) == alone);
    }
}
