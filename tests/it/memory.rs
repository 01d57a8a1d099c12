//! Where a training step's memory is: counted by hand, near what is needed, less with recomputation and still the same
//! bits, and in inference independent of the depth.

use crate::common::training::{config, micro_batches, snapshot, train, trainer};
use crate::common::{lent_gpu, own_gpu};
use sdmoe::data::Batch;
use sdmoe::low_level::kernels::grouped::{Groups, tile_rows};
use sdmoe::nn::config::{GradientForm, Preset, SharedGate};
use sdmoe::nn::model::Model;
use sdmoe::optim::SpectralInit;
use sdmoe::train::config::{Recompute, RunConfig};
use sdmoe::train::evaluate::evaluate;
use sdmoe::train::memory::MemoryReport;
use sdmoe::train::trainer::Trainer;

const BOTH: [Recompute; 2] = [Recompute::None, Recompute::Experts];

/// Memory after the first step on a device of its own.
fn report(config: &RunConfig) -> MemoryReport {
    let gpu = own_gpu();
    let mut trainer = trainer(&gpu, config);
    assert_eq!(trainer.memory().unwrap().activations, 0);
    train(&mut trainer, 1);
    trainer.memory().unwrap()
}

#[test]
fn a_model_for_inference_takes_its_weights_and_little_more_and_cannot_be_trained() {
    let gpu = lent_gpu();
    let config = RunConfig::preset(Preset::Tiny);
    let before = gpu.counters().bytes_allocated;
    let model = Model::for_inference(&gpu, &config.model).unwrap();
    let taken = gpu.counters().bytes_allocated - before;
    let weights = 4 * model.params().numel() as u64;
    assert!(taken >= weights && taken as f64 <= 1.1 * weights as f64, "{taken} bytes for {weights}");
    let message = Trainer::with_model(&gpu, &config, model, SpectralInit::Fresh).err().unwrap().to_string();
    assert!(message.contains("expected a model with gradients, got one for inference alone"), "{message}");
}

#[test]
fn the_kinds_agree_with_a_count_by_hand() {
    // Sizes that need no padding.
    let (tokens, d, layers, vocab, experts, top_k, f, shared) = (2 * 32, 64, 2, 256, 4, 2, 128, 192);
    let (q, kv, heads, rank) = (64, 32, 4, 8);
    let mut config = config();
    config.model.d_model = d;
    config.model.layers = layers;
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (heads, 2, 16);
    config.model.moe.experts = experts;
    config.model.moe.top_k = top_k;
    config.model.moe.d_expert = f;
    config.model.moe.d_shared = shared;
    config.train.batch = 2;
    config.train.seq = 32;
    config.spectral.rank = rank;
    config.spectral.oversampling = 8;
    let rows = Groups::capacity(tokens * top_k, experts, tile_rows(&lent_gpu()));

    let routed = 3 * experts * d * f;
    let plain = vocab * d + d + layers * (2 * d + 2 * d * q + 2 * d * kv + d * experts + 3 * d * shared);
    let weights = plain + layers * routed;
    // W_c, both moments of W_c and W_u; U and V; of the refresh the energy, the singular values (all of them for a side
    // of 64), drift, share, angles. The one more is the step at which the moments of W_c were zero.
    let record = 1 + d + 3 * experts + 2 * experts + 2 * rank;
    let spectral = 3 * ((2 * (experts + 1) + 1) * d * f + (d + f) * rank + record);
    let optimizer = 2 * plain + layers * spectral + 1;

    let norm = tokens * d + tokens;
    let attention = tokens * (2 * q + 2 * kv + heads);
    let router = tokens * (2 * experts + 3 * top_k + 1) + experts + rows;
    let (again, kept) = (2 * tokens * d + rows * (2 * d + f) + tokens * shared, 2 * rows * f + 2 * tokens * shared);
    let layer = 2 * norm + attention + router + kept;
    let head = norm + tokens * vocab;
    for (recompute, activations) in
        [(Recompute::None, layers * (layer + again) + head + tokens * d), (Recompute::Experts, layers * layer + head)]
    {
        config.train.recompute = recompute;
        let report = report(&config);
        assert_eq!(report.weights, 4 * weights as u64, "{report}");
        assert_eq!(report.gradients, report.weights, "{report}");
        assert_eq!(report.optimizer, 4 * optimizer as u64, "{report}");
        assert_eq!(report.activations, 4 * activations as u64, "{recompute:?}\n{report}");
        let kinds = report.weights + report.gradients + report.optimizer + report.pool + report.other;
        assert_eq!(kinds, report.allocated, "{report}");
        assert_eq!(report.needed(), 4 * (2 * weights + optimizer + activations) as u64);
        assert!(report.pool >= report.activations && report.pool_free == report.pool, "{report:?}");
        assert!(report.peak >= report.allocated && report.other < 1 << 20, "{report:?}");
    }
}

#[test]
fn the_peak_of_the_small_preset_is_near_what_is_needed_and_recomputing_saves_two_fifths_of_the_activations() {
    let [kept, again] = BOTH.map(|recompute| {
        let mut config = RunConfig::preset(Preset::Small);
        config.train.recompute = recompute;
        report(&config)
    });
    for report in [&kept, &again] {
        assert!(report.peak_ratio() > 1.0 && report.peak_ratio() < 1.15, "{report}");
    }
    assert!(again.activations * 10 <= kept.activations * 6, "{again}\n{kept}");
    assert!(again.peak < kept.peak, "{again}\n{kept}");
}

#[test]
fn recomputing_changes_no_bit() {
    let gpu = lent_gpu();
    for form in [GradientForm::Direct, GradientForm::TokenSpace] {
        for (accumulate, gate) in [(1, SharedGate::None), (2, SharedGate::Sigmoid)] {
            let [kept, again] = BOTH.map(|recompute| {
                let mut config = config();
                config.train.recompute = recompute;
                config.train.accumulate = accumulate;
                config.model.moe.shared_gate = gate;
                config.model.tied_head = accumulate == 1;
                config.spectral.gradient_form = form;
                config.spectral.refresh_every = 4;
                let mut trainer = trainer(&gpu, &config);
                let losses: Vec<f32> = train(&mut trainer, 5).iter().map(|r| r.loss).collect();
                (trainer.memory().unwrap().activations, losses, snapshot(&trainer))
            });
            assert!(again.0 < kept.0, "{} and {} bytes", again.0, kept.0);
            assert!(again.1 == kept.1, "losses {:?} and {:?}", again.1, kept.1);
            assert!(again.2 == kept.2, "{form:?}, {accumulate} micro-batches");
        }
    }
}

#[test]
fn recomputing_creates_nothing_from_the_fourth_step_on() {
    let gpu = lent_gpu();
    for accumulate in [1, 2] {
        let mut config = config();
        config.train.recompute = Recompute::Experts;
        config.train.accumulate = accumulate;
        let mut trainer = trainer(&gpu, &config);
        train(&mut trainer, 3);
        let before = gpu.counters();
        for step in 4..44 {
            trainer.step(&micro_batches(&config, step)).unwrap();
            pollster::block_on(trainer.reports(false)).unwrap();
        }
        let after = gpu.counters();
        assert_eq!(before.buffers_created, after.buffers_created);
        assert_eq!(before.bind_groups_created, after.bind_groups_created);
        assert_eq!(before.pipelines_created, after.pipelines_created);
        assert_eq!((before.waits, before.bytes_allocated), (after.waits, after.bytes_allocated));
    }
}

#[test]
fn inference_takes_no_more_memory_for_more_layers() {
    let [few, many] = [2, 7].map(|layers| {
        let gpu = own_gpu();
        let mut config = config().model;
        config.layers = layers;
        let model = Model::new(&gpu, &config).unwrap();
        model.init(1).unwrap();
        let before = gpu.counters().pooled_bytes;
        let batch = Batch { tokens: vec![7; 256], targets: vec![8; 256] };
        pollster::block_on(evaluate(&gpu, &model, 64, [batch])).unwrap();
        gpu.counters().pooled_bytes - before
    });
    // What grows are the indices of each layer's routing, which the caller gets: less than one activation of a layer.
    let value = 256 * 36 * 4;
    assert!(few > 4 * value && many < few + 5 * value, "{few} and {many} bytes");
}
