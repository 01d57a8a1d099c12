//! The pieces of the study of routing and geometry (`experiments/geometry`).

#[path = "../../experiments/geometry/measure.rs"]
mod measure;
#[path = "../../experiments/geometry/models.rs"]
mod models;
#[path = "../../experiments/geometry/run.rs"]
mod run;
#[path = "../../experiments/support/mod.rs"]
#[allow(dead_code, reason = "the arguments are the program's")]
mod support;
#[path = "../../experiments/geometry/table.rs"]
mod table;

use measure::{Setting, Subspaces};
use models::{Assignment, Kind, experts};
use pollster::block_on;
use sdmoe::analysis::jacobian::{Experts, Prepared};
use sdmoe::data::sources::{self, Source};
use sdmoe::gpu::{Gpu, GpuOptions};
use sdmoe::linalg::random::fill_normal;
use sdmoe::nn::config::ModelConfig;
use sdmoe::nn::model::Model;
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;

fn gpu() -> Gpu {
    block_on(Gpu::open(&GpuOptions::default())).unwrap()
}

/// The study's model, smaller.
fn small() -> ModelConfig {
    let mut model = run::top_k_model();
    (model.d_model, model.layers, model.moe.experts, model.moe.d_expert) = (24, 2, 4, 20);
    model
}

#[test]
fn capacities_are_matched_as_they_are_said_to_be() {
    let gpu = gpu();
    let base = run::top_k_model();
    let [wide, narrow, top_k, soft] = Kind::ALL.map(|k| Model::new(&gpu, &k.model(&base)).unwrap());
    // The dense models have a router of one column each.
    let routers = base.layers * base.d_model * (base.moe.experts - 1);
    assert_eq!(wide.params().numel() + routers, top_k.params().numel());
    assert_eq!(soft.params().numel(), top_k.params().numel());
    assert_eq!(soft.active_parameters(), soft.params().numel());
    assert_eq!(narrow.active_parameters() + routers, top_k.active_parameters());
    assert_eq!((soft.config().moe.top_k, wide.config().moe.experts), (base.moe.experts, 1));
}

#[test]
fn the_groups_of_a_dense_layer_add_up_to_it() {
    let (gpu, base, groups) = (gpu(), small(), 4);
    let model = Model::new(&gpu, &Kind::DenseTotal.model(&base)).unwrap();
    model.init(3).unwrap();
    let x = Tensor::empty_f32(&gpu, [1, base.d_model]).unwrap();
    fill_normal(&x, 5, 0, 1.0).unwrap();
    let jacobians = |count: usize| {
        let [gate, up, down] = block_on(experts(&gpu, &model, 1, count, 7)).unwrap();
        assert_eq!(gate.dims(), [count, base.d_model, 4 * base.moe.d_expert / count]);
        let of = Experts { gate: &gate, up: &up, down: &down };
        block_on(Prepared::new(of, &x, None).unwrap().at(0).unwrap().to_f32()).unwrap()
    };
    let (whole, parts) = (jacobians(1), jacobians(groups));
    let largest = whole.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    for (i, w) in whole.iter().enumerate() {
        let part = |g: usize| parts[g * whole.len() + i];
        let sum: f32 = (0..groups).map(part).sum();
        // A sum of 80 products over hidden units, each of two sums of 24, in another order.
        assert!((sum - w).abs() <= 80.0 * f32::EPSILON * largest, "{i}: {sum}, expected {w}");
        assert!((part(0) - w).abs() > 0.0, "one group is not the whole");
    }
}

#[test]
fn assignments_keep_what_they_say() {
    let all = Assignment {
        index: vec![2, 0, 1, 1, 2, 0, 0, 1, 2],
        weight: vec![0.5, 0.25, 0.25, 0.6, 0.2, 0.2, 1.0, 0.0, 0.0],
        top_k: 3,
        experts: 3,
    };
    let best = all.best(2);
    assert_eq!(best.index, [2, 0, 1, 2, 0, 1]);
    assert_eq!(best.weight, [0.5 / 0.75, 0.25 / 0.75, 0.6 / 0.8, 0.2 / 0.8, 1.0, 0.0]);
    let entropy = 0.5 * 2f64.ln() + 0.5 * 4f64.ln() - (0.6 * 0.6f64.ln() + 0.4 * 0.2f64.ln());
    assert!((all.experts_a_token() - (entropy / 3.0).exp()).abs() < 1e-6);

    let random = Assignment::random(500, 8, 2, 1);
    assert!((random.experts_a_token() - 2.0).abs() < 1e-12);
    assert!(random.index.chunks(2).all(|c| c[0] != c[1] && c[0] < 8 && c[1] < 8));
    let permuted = random.permuted(4);
    let sorted = |a: &Assignment| {
        let mut rows: Vec<[u32; 2]> = a.index.chunks(2).map(|c| [c[0], c[1]]).collect();
        rows.sort_unstable();
        rows
    };
    assert!(permuted != random && sorted(&permuted) == sorted(&random));
}

#[test]
fn random_subspaces_give_the_analytic_similarity() {
    let (gpu, d) = (gpu(), 40);
    for seed in 1..=3 {
        let chance = block_on(Subspaces::chance(&gpu, d, seed)).unwrap();
        // A pair's similarity has the variance 2 (d - r)^2 / (d^2 (d - 1)(d + 2)); pairs are not correlated.
        let (r, d, pairs) = (8.0, d as f64, (measure::RANDOM * (measure::RANDOM - 1) / 2) as f64);
        let deviation = (2.0 * (d - r).powi(2) / (d * d * (d - 1.0) * (d + 2.0)) / pairs).sqrt();
        let similarity = chance.similarity.unwrap();
        assert!((similarity - r / d).abs() < 4.0 * deviation, "{similarity}, expected {} +- {deviation}", r / d);
    }
}

#[test]
fn a_few_steps_of_each_model_give_a_table_with_controls() {
    let gpu = gpu();
    let base = small();
    let text = crate::common::training::text();
    let held_out = [("front", 0), ("back", text.len() / 2)]
        .map(|(name, at)| Source { name: name.into(), bytes: text[at..at + text.len() / 4].to_vec() });
    let texts = support::Texts { train: text, held_out: held_out.to_vec() };
    let windows = sources::windows(&texts.held_out, 8, 32).unwrap();
    let names = ["front".to_owned(), "back".to_owned()];
    let mut config: RunConfig = crate::common::training::config();
    (config.train.steps, config.train.seq, config.spectral.enabled) = (3, 32, false);
    let setting = Setting { seq: 32, windows: &windows, names: &names, experts: 4, top_k: 2, seed: 1 };
    let mut runs = Vec::new();
    for kind in Kind::ALL {
        config.model = kind.model(&base);
        let found = run::run(&gpu, kind, &config, 0, &texts, setting).unwrap();
        assert_eq!((found.trained.len(), found.untrained.len()), (base.layers, base.layers));
        for layer in &found.trained {
            for x in [layer.mean_of_cosines, layer.gaussian, layer.cosine_of_means] {
                assert!(x.is_some_and(|x| x.abs() < 0.5), "{}: {layer:?}", kind.name());
            }
            let similarity = |s: &Subspaces| s.similarity.unwrap();
            let (routed, control) = (similarity(&layer.routed), similarity(&layer.permuted));
            match kind {
                // A barely trained router weights all tokens nearly alike, so that all experts see the same subspace.
                Kind::Soft => {
                    assert!(routed > 0.99 && layer.experts_a_token > 3.9, "{layer:?}");
                    assert!(similarity(&layer.best.as_ref().unwrap()[0]) < routed);
                }
                Kind::TopK => assert!(routed < control && layer.experts_a_token <= 2.0 + 1e-6, "{layer:?}"),
                // Random groups, permuted or not.
                _ => assert!((routed - control).abs() < 0.1, "{layer:?}"),
            }
        }
        runs.push(found);
    }
    let chance = block_on(Subspaces::chance(&gpu, base.d_model, 1)).unwrap();
    let table = table::table(&runs, &chance);
    let columns = |line: &str| line.matches('|').count();
    assert!(table.lines().all(|line| columns(line) == 6), "{table}");
    for row in ["validation loss", "Gaussian matrices", "routing permuted", "before training", "by the K best"] {
        assert!(table.contains(row), "{row}:\n{table}");
    }
}
