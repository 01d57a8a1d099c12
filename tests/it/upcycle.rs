//! Upcycling: a dense model with copies of its feed-forward networks as experts computes what it did before.

use std::fs;
use std::path::Path;

use crate::common::checkpoints::{Stored, write};
use crate::common::families::value;
use crate::common::place::Place;
use sdmoe::nn::families::{FamilyModel, Layout, TensorMap};
use sdmoe::train::perplexity::{Window, perplexity};
use sdmoe::train::pretrained::{Pretrained, WeightType};
use serde_json::{Value, json};

/// A small dense model of a family, with numbers of the size that trained ones have.
fn dense(dir: &Path, family: &str) {
    let config: Value = json!({
        "model_type": family, "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 48, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": family == "qwen2", "eos_token_id": 7,
    });
    let model = FamilyModel::parse(&config.to_string()).unwrap();
    let map = TensorMap::new(model.family, &model.config, Layout::PerExpert);
    let stored = |name: &str, shape: &[usize]| {
        let norm = name.contains("norm");
        let number = |i| if norm { 1.0 + value(name, i) / 8.0 } else { value(name, i) / 6.0 };
        Stored::new(name, "F32", shape, &(0..shape.iter().product()).map(number).collect::<Vec<f32>>())
    };
    let tensors: Vec<Stored> = map.tensors.iter().map(|t| stored(&t.name, &t.shape)).collect();
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("generation_config.json"), "{\"eos_token_id\": 9}").unwrap();
    write(&dir.join("model.safetensors"), &tensors);
}

/// The mean loss of a model on disk over a text of bytes.
fn loss(dir: &Path) -> f64 {
    let model = Pretrained::open(dir).unwrap_or_else(|e| panic!("{e}"));
    let gpu = crate::common::gpu();
    let loaded = model.load_for_inference(&gpu, WeightType::AsStored).unwrap();
    let text: Vec<u32> = (0..90).map(|i| (i * i + 3) % 256).collect();
    pollster::block_on(perplexity(&gpu, &loaded, &text, Window { context: 40, stride: 20 }, None)).unwrap().mean()
}

#[test]
fn a_published_dense_model_becomes_one_of_its_family_with_experts_and_computes_the_same() {
    for (family, with_experts) in [("llama", "mixtral"), ("qwen2", "qwen2_moe"), ("qwen3", "qwen3_moe")] {
        let place = Place::new();
        dense(&place.path("dense"), family);
        let shown = place.runs("upcycle dense --experts 4 --top-k 2 --out sparse");
        assert!(shown.contains("2 layers of 4 experts of width 48, top 2") && shown.contains(with_experts), "{shown}");
        let config: Value = serde_json::from_str(&place.read("sparse/config.json")).unwrap();
        assert_eq!((&config["model_type"], &config["eos_token_id"]), (&json!(with_experts), &json!(7)));
        assert!(place.path("sparse/generation_config.json").exists());
        let (before, after) = (loss(&place.path("dense")), loss(&place.path("sparse")));
        // Two weights that add up to 1 times the same output: the rounding of f32.
        assert!((before - after).abs() < 1e-5, "{family}: {before} became {after}");
        // With noise it is another model, and another seed still another.
        place.runs("upcycle dense --experts 4 --top-k 2 --noise 0.3 --out noisy");
        assert!((loss(&place.path("noisy")) - before).abs() > 1e-4, "{family}");
    }
}

#[test]
fn a_dense_run_becomes_a_checkpoint_to_go_on_from() {
    let place = Place::new();
    place.write("text", include_str!("upcycle.rs").repeat(2));
    let model = "[model]\nlayers = 2\nd_model = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\ndense_layers = [0, 1]\nd_dense = 48\n";
    place.write("dense.toml", model);
    place.runs("train --config dense.toml --data text --batch 2 --seq 32 --steps 4 --out run");
    place.runs("upcycle run --experts 4 --top-k 2 --out sparse");
    let (before, after) = (loss(&place.path("run")), loss(&place.path("sparse")));
    assert!((before - after).abs() < 1e-5, "{before} became {after}");
    place.runs("analyze sparse --out report --values 50%");
    let record: Value = serde_json::from_str(&place.read("report/analysis.json")).unwrap();
    // Copies are as alike as can be.
    let pairs = record["similarity"].as_array().unwrap();
    assert!(!pairs.is_empty() && pairs.iter().all(|p| p["layer"].as_u64().unwrap() < 2), "{record}");
}

#[test]
fn what_cannot_be_upcycled_is_told_and_leaves_nothing() {
    let place = Place::new();
    dense(&place.path("dense"), "llama");
    fs::create_dir(place.path("there")).unwrap();
    let sparse = crate::fixtures_support::root().join("hf/mixtral");
    let upcycle = |from: &str, flags: &str| format!("upcycle {from} {flags}");
    place.fails(&upcycle(sparse.to_str().unwrap(), "--experts 4 --top-k 2 --out new"), "expected a dense family");
    place.fails(&upcycle("dense", "--experts 2 --top-k 3 --out new"), "expected at most model.moe.experts = 2, got 3");
    place.fails(&upcycle("dense", "--experts 4 --top-k 2 --noise -1 --out new"), "--noise: expected a number from 0");
    place.fails(&upcycle("dense", "--experts 4 --top-k 2 --out there"), "expected no file or folder of this name yet");
    place.fails(&upcycle("dense", "--experts 4 --top-k 2 --out no/where"), "expected an existing folder to make it in");
    let mut weights = fs::read(place.path("dense/model.safetensors")).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(place.path("dense/model.safetensors"), weights).unwrap();
    place.fails(&upcycle("dense", "--experts 4 --top-k 2 --out new"), "expected finite numbers");
}
