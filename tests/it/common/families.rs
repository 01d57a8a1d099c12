//! Small models of published families on the disk, with numbers that name and place determine.

use std::path::Path;

use sdmoe::nn::families::{FamilyModel, Layout, TensorMap};
use serde_json::Value;

use super::checkpoints::{Stored, write, write_shards};
use crate::fixtures_support::root;

/// The `config.json` of a fixture, changed.
pub fn config(family: &str, change: impl FnOnce(&mut Value)) -> Value {
    let path = root().join("hf").join(family).join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut config);
    config
}

/// Element `i` of the tensor `name`; exact in bf16 and f16, and no two neighbours alike.
pub fn value(name: &str, i: usize) -> f32 {
    let mixed = name.bytes().fold(i + 1, |h, b| (h * 31 + usize::from(b) + 1) * 17 % 65_537);
    (mixed % 251) as f32 / 64.0 - 1.25
}

/// All tensors of a model, an expert's three by themselves.
pub fn tensors(config: &Value, dtype: &'static str) -> Vec<Stored> {
    let model = FamilyModel::parse(&config.to_string()).unwrap();
    let map = TensorMap::new(model.family, &model.config, Layout::PerExpert);
    let stored = |name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(name, i)).collect();
        Stored::new(name, dtype, shape, &values)
    };
    map.tensors.iter().map(|t| stored(&t.name, &t.shape)).collect()
}

/// The same tensors with the experts of a layer in two, as transformers 5 has them.
pub fn fused(tensors: &[Stored]) -> Vec<Stored> {
    let mut all: Vec<Stored> = Vec::new();
    let mut parts: Vec<&Stored> = tensors.iter().filter(|t| t.name.contains(".experts.")).collect();
    let place = |t: &Stored| -> (usize, usize, usize) {
        let words: Vec<&str> = t.name.split('.').collect();
        let matrix =
            ["gate_proj", "w1", "up_proj", "w3", "down_proj", "w2"].iter().position(|m| *m == words[6]).unwrap();
        (words[2].parse().unwrap(), matrix / 4, words[5].parse::<usize>().unwrap() * 2 + matrix / 2 % 2)
    };
    parts.sort_by_key(|t| place(t));
    for t in parts {
        let (layer, down, matrix) = place(t);
        let name = format!("model.layers.{layer}.mlp.experts.{}", if down == 1 { "down_proj" } else { "gate_up_proj" });
        let (rows, columns) = (t.shape[0] * (2 - down), t.shape[1]);
        if all.last().is_none_or(|last| last.name != name) {
            all.push(Stored { name, dtype: t.dtype, shape: vec![0, rows, columns], bytes: Vec::new() });
        }
        let last = all.last_mut().unwrap();
        last.bytes.extend(&t.bytes);
        last.shape[0] = matrix / 2 + 1;
    }
    let others = tensors.iter().filter(|t| !t.name.contains(".experts.")).cloned();
    all.extend(others.map(|t| Stored { name: t.name.replace("block_sparse_moe", "mlp"), ..t }));
    all
}

/// Writes a folder: `config.json` and the tensors, in shards where there is to be more than one file.
pub fn write_folder(dir: &Path, config: &Value, tensors: &[Stored], shards: usize) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    if shards == 1 {
        write(&dir.join("model.safetensors"), tensors);
    } else {
        write_shards(dir, tensors, shards);
    }
}
