//! After the first steps a training step allocates nothing, binds nothing new, compiles nothing and never lets the device
//! run dry; and repeated runs give the same bits.

use crate::common::lent_gpu as gpu;
use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use sdmoe::gpu::{Counters, Gpu, GpuOptions};
use sdmoe::nn::config::GradientForm;
use sdmoe::optim::Rule;

fn created(counters: Counters) -> (u64, u64, u64, u64) {
    (counters.buffers_created, counters.bind_groups_created, counters.pipelines_created, counters.waits)
}

#[test]
fn from_the_fourth_step_on_nothing_is_created_and_memory_is_flat_over_300_steps() {
    let gpu = gpu();
    for (accumulate, form, rule) in [
        (1, GradientForm::Direct, Rule::AdamW),
        (1, GradientForm::TokenSpace, Rule::AdamW),
        (2, GradientForm::Direct, Rule::AdamW),
        (2, GradientForm::TokenSpace, Rule::AdamW),
        (1, GradientForm::Direct, Rule::Muon),
        (2, GradientForm::TokenSpace, Rule::Muon),
    ] {
        let mut config = config();
        config.train.accumulate = accumulate;
        config.spectral.gradient_form = form;
        config.optimizer.rule = rule;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 3);
        let before = gpu.counters();
        let longest = (accumulate, form, rule) == (1, GradientForm::Direct, Rule::AdamW);
        let steps = if longest { 300 } else { 40 };
        for step in 4..4 + steps {
            trainer.step(&micro_batches(&config, step)).unwrap();
            pollster::block_on(trainer.reports(false)).unwrap();
        }
        let after = gpu.counters();
        assert_eq!(
            created(before),
            created(after),
            "{accumulate} micro-batches, {form:?}, {rule:?}: buffers, bind groups, pipelines, waits"
        );
        assert_eq!(before.bytes_allocated, after.bytes_allocated);
        // Figures that arrive late, as those of a device that is slower than the host.
        pollster::block_on(trainer.reports(true)).unwrap();
        for step in 4 + steps..7 + steps {
            trainer.step(&micro_batches(&config, step)).unwrap();
        }
        pollster::block_on(trainer.reports(true)).unwrap();
        assert_eq!(after.buffers_created, gpu.counters().buffers_created, "{accumulate} micro-batches, {form:?}");
        assert!(after.submissions - before.submissions <= 8 * steps * accumulate, "{after:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_does_not() {
    let gpu = gpu();
    let run = |seed| {
        let mut config = config();
        config.seed = seed;
        config.train.accumulate = 2;
        config.spectral.refresh_every = 4;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 10);
        snapshot(&trainer)
    };
    let first = run(7);
    assert!(first == run(7));
    assert!(first != run(8));
}

#[test]
fn slices_of_small_bindings_train_like_whole_tensors() {
    let whole = gpu();
    // Rows of 256 logits that go with single numbers start aligned once in alignment / 4 rows, which must fit a binding.
    let limit = (32 << 10).max(whole.offset_alignment() * 256);
    let split = crate::common::open(&GpuOptions::default().max_binding_bytes(limit));
    let losses = |gpu: &Gpu| {
        let mut trainer = trainer(gpu, &config());
        train(&mut trainer, 8).iter().map(|r| r.loss).collect::<Vec<_>>()
    };
    for (a, b) in losses(&whole).iter().zip(losses(&split)) {
        assert!((a - b).abs() < 2e-4 * a, "{a} and {b}");
    }
}
