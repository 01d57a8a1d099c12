//! Models whose first layers have no experts: the numbers of layers in names, reports and resumed runs are the model's.

use crate::common::place::Place;

fn place() -> Place {
    let place = Place::new();
    place.write("text", include_str!("dense_layers.rs").repeat(4));
    let model = "[model]\nlayers = 3\nd_model = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\ndense_layers = [0]\nd_dense = 48\n\
                 [model.moe]\nexperts = 4\nd_expert = 16\nd_shared = 0\nbalance_bias = 0.01\n[spectral]\nrank = 2\nrefresh_every = 2\n";
    place.write("run.toml", model);
    place.write("dense.toml", model.replace("[0]", "[0, 1, 2]").replace("balance_bias = 0.01\n", ""));
    place
}

const FLAGS: &str = "--data text --batch 2 --seq 32";

#[test]
fn a_run_with_a_dense_layer_is_reported_resumed_and_switched() {
    let place = place();
    place.runs(&format!("train --config run.toml {FLAGS} --steps 4 --out run"));
    let record: serde_json::Value = serde_json::from_str(&place.read("run/analysis/analysis.json")).unwrap();
    let numbers = |part: &str| -> std::collections::BTreeSet<u64> {
        record[part].as_array().unwrap().iter().map(|row| row["layer"].as_u64().unwrap()).collect()
    };
    for part in ["similarity", "decoupling", "load", "gates"] {
        assert_eq!(numbers(part), [1, 2].into(), "{part}");
    }
    let summary = place.read("run/summary.json");
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let similarity = summary["similarity"].as_array().unwrap();
    assert!(!similarity.is_empty() && similarity.iter().all(|s| [1, 2].contains(&s["layer"].as_u64().unwrap())));

    // What the run measured at its end is what its checkpoint gives, the biases of the choice included.
    let loss = |shown: &str| shown.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap();
    let evaluated = loss(&place.runs("eval --model run --data text"));
    assert!(evaluated.is_finite());

    // Without decoupling from there on, and with it again: the moments of each layer's experts are found by its number.
    place.runs("train --resume run --steps 6 --spectral off --report off");
    place.runs("train --resume run --steps 8 --spectral on --report off");
    let metrics = place.read("run/metrics.jsonl");
    assert!(metrics.lines().last().unwrap().contains("\"step\":8,"), "{metrics}");
}

#[test]
fn a_model_without_experts_trains_evaluates_and_generates() {
    let place = place();
    let shown = place.runs(&format!("train --config dense.toml {FLAGS} --steps 4 --out run"));
    assert!(!shown.contains("report on the experts"), "{shown}");
    place.runs("generate --model run --prompt abc --tokens 4");
    place.fails("eval --model run --data text --top-k 1", "--top-k: expected a model with experts, got a dense one");
}
