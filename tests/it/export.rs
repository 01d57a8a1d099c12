//! Writing models as Hugging Face folders: what is read back is what was written, to the bit, and nothing is half-written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::checkpoints::Stored;
use crate::common::families::{config, fused, tensors, write_folder};
use safetensors::SafeTensors;
use sdmoe::checkpoint::{ExportOptions, ExportType, FamilyCheckpoint, export};
use sdmoe::nn::config::{ModelConfig, Preset, QkNorm, SharedGate};
use sdmoe::nn::families::{Family, FamilyModel, Layout};
use serde_json::{Value, json};

const FAMILIES: [&str; 6] = ["deepseek_v2", "deepseek_v3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"];

/// All parameters of a folder.
fn read(dir: &Path) -> (FamilyModel, BTreeMap<String, Vec<f32>>) {
    let checkpoint = FamilyCheckpoint::open(dir).unwrap_or_else(|e| panic!("{e}"));
    let mut all: BTreeMap<String, Vec<f32>> =
        checkpoint.map().parameters.iter().map(|p| (p.name.clone(), vec![0.0; p.numel()])).collect();
    let read = checkpoint.read(|parameter, first, values| {
        all.get_mut(&parameter.name).unwrap()[first..first + values.len()].copy_from_slice(values);
        Ok(())
    });
    read.unwrap_or_else(|e| panic!("{e}"));
    (checkpoint.model().clone(), all)
}

fn write(
    dir: &Path,
    model: &FamilyModel,
    options: &ExportOptions,
    all: &BTreeMap<String, Vec<f32>>,
) -> sdmoe::Result<()> {
    export(dir, model, options, |parameter, first, out| {
        out.copy_from_slice(&all[&parameter.name][first..first + out.len()]);
        Ok(())
    })
}

/// Every tensor of a folder: type, shape, bytes.
fn stored(dir: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(&path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                all.insert(name, (view.dtype().to_string(), view.shape().to_vec(), view.data().to_vec()));
            }
        }
    }
    all
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_read_is_written_to_the_bit_in_each_family_layout_and_type() {
    for family in FAMILIES {
        let config = config(family, |_| ());
        for (dtype, own) in [("F32", ExportType::F32), ("BF16", ExportType::Bf16)] {
            let dir = tempfile::tempdir().unwrap();
            let plain: Vec<Stored> = tensors(&config, dtype);
            // State stays f32.
            let bias = |t: &Stored| t.name.ends_with("e_score_correction_bias");
            let plain: Vec<Stored> = plain
                .into_iter()
                .zip(tensors(&config, "F32"))
                .map(|(t, whole)| if bias(&t) { whole } else { t })
                .collect();
            write_folder(&dir.path().join("plain"), &config, &plain, 2);
            write_folder(&dir.path().join("fused"), &config, &fused(&plain), 1);
            let (model, all) = read(&dir.path().join("plain"));
            for (name, layout) in [("plain", Layout::PerExpert), ("fused", Layout::Fused)] {
                let out = dir.path().join(format!("{name}.out"));
                let options = with!(ExportOptions { dtype: own, layout, ..ExportOptions::default() });
                write(&out, &model, &options, &all).unwrap();
                assert_eq!(names(&out), ["config.json", "model.safetensors"]);
                assert!(stored(&out) == stored(&dir.path().join(name)), "{family} {dtype} {name}");
                let (again, values) = read(&out);
                assert!(values == all);
                assert_eq!(
                    (again.config, again.context, again.eos),
                    (model.config.clone(), model.context, model.eos.clone())
                );
            }
        }
    }
}

#[test]
fn large_models_are_written_in_shards_with_an_index_and_copies_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = config("qwen2_moe", |_| ());
    write_folder(&dir.path().join("in"), &config, &tensors(&config, "F32"), 1);
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let (model, all) = read(&dir.path().join("in"));
    let options = with!(ExportOptions {
        shard_bytes: 400_000,
        copies: vec![dir.path().join("tokenizer.json")],
        ..ExportOptions::default()
    });
    let out = dir.path().join("out");
    write(&out, &model, &options, &all).unwrap();
    let shard = |i| format!("model-0000{i}-of-00003.safetensors");
    let wanted = [&shard(1), &shard(2), &shard(3), "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(names(&out)[1..], wanted.map(str::to_owned));
    assert!(read(&out).1 == all);
    let index: Value = serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], json!(4 * 243_392));
}

#[test]
fn a_failed_export_leaves_nothing_and_an_existing_folder_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let config = config("mixtral", |_| ());
    write_folder(&dir.path().join("in"), &config, &tensors(&config, "F32"), 1);
    let (model, mut all) = read(&dir.path().join("in"));
    let error = write(&dir.path().join("in"), &model, &ExportOptions::default(), &all).unwrap_err().to_string();
    assert!(error.contains("expected no file or folder of this name yet, found one"), "{error}");
    all.get_mut("layers.1.moe.experts.up").unwrap()[3 * 64 * 80 + 81] = 3.4e38;
    let out = dir.path().join("out");
    write(&out, &model, &ExportOptions::default(), &all).unwrap();
    fs::remove_dir_all(&out).unwrap();
    let narrow = with!(ExportOptions { dtype: ExportType::Bf16, ..ExportOptions::default() });
    // Beyond the largest bf16.
    let error = write(&out, &model, &narrow, &all).unwrap_err().to_string();
    let wanted = "`model.layers.1.block_sparse_moe.experts.3.w3.weight`: expected finite numbers in BF16, got 34";
    assert!(error.contains(wanted) && error.ends_with("at element 65"), "{error}");
    assert_eq!(names(dir.path()), ["in"]);
}

#[test]
fn a_config_is_written_so_that_it_is_read_as_it_was() {
    let yarn = json!({ "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.9,
        "mscale_all_dim": 0.7, "beta_fast": 30 });
    for (family, change) in [
        ("deepseek_v2", json!({ "rope_scaling": yarn, "eos_token_id": [1, 2], "q_lora_rank": 24 })),
        ("deepseek_v2", json!({ "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2 })),
        ("deepseek_v3", json!({ "rope_scaling": yarn, "rope_interleave": false, "n_shared_experts": null })),
        (
            "qwen2_moe",
            json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": null, "qkv_bias": false }),
        ),
        ("qwen2_moe", json!({ "mlp_only_layers": [1], "norm_topk_prob": true, "tie_word_embeddings": true })),
        ("qwen3_moe", json!({ "use_sliding_window": true, "sliding_window": 9, "decoder_sparse_step": 2 })),
        ("mixtral", json!({ "sliding_window": 12, "rms_norm_eps": 3e-6, "rope_theta": 12345.5 })),
        ("olmoe", json!({ "clip_qkv": 8.5, "attention_bias": true })),
    ] {
        let config = config(family, |c| c.as_object_mut().unwrap().extend(change.as_object().unwrap().clone()));
        let model = FamilyModel::parse(&config.to_string()).unwrap();
        let text = model.to_json().unwrap_or_else(|e| panic!("{family}: {e}"));
        let again = FamilyModel::parse(&text).unwrap();
        assert_eq!(again.config, model.config, "{family} {change}");
        assert_eq!((again.family, again.context, again.eos), (model.family, model.context, model.eos));
        assert!(again.unknown.is_empty(), "{:?}", again.unknown);
    }
    let eps: Value =
        serde_json::from_str(&FamilyModel::parse(&config("qwen2_moe", |_| ()).to_string()).unwrap().to_json().unwrap())
            .unwrap();
    assert_eq!(eps["rms_norm_eps"].to_string(), "1e-6");
    for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
        let mut config: ModelConfig = Preset::Tiny.model();
        (config.dense_layers, config.d_dense) = ((0..config.layers).collect(), 96);
        config.attention.qkv_bias = family == Family::Qwen2;
        config.attention.qk_norm = if family == Family::Qwen3 { QkNorm::Head } else { QkNorm::None };
        FamilyModel::new(family, &config, 128).unwrap_or_else(|e| panic!("{family:?}: {e}"));
    }
}

#[test]
fn a_setting_that_a_family_does_not_have_is_named() {
    let own = Preset::Tiny.model();
    let refused = |family, config: &ModelConfig| FamilyModel::new(family, config, 128).unwrap_err().to_string();
    assert!(
        refused(Family::Mixtral, &own)
            .starts_with("config: model.moe.d_shared: a mixtral model would have 0 in its place")
    );
    let gate = refused(Family::Qwen2Moe, &own);
    assert!(
        gate.contains("model.moe.shared_gate: a qwen2_moe model would have \"sigmoid\" in its place, got \"none\""),
        "{gate}"
    );
    let mut qwen = own.clone();
    qwen.moe.shared_gate = SharedGate::Sigmoid;
    FamilyModel::new(Family::Qwen2Moe, &qwen, 128).unwrap();
    let mut mixtral = own;
    mixtral.moe.d_shared = 0;
    let model = FamilyModel::new(Family::Mixtral, &mixtral, 128).unwrap();
    assert_eq!(model.config, mixtral);
    mixtral.dense_layers = vec![1];
    mixtral.d_dense = 64;
    assert!(refused(Family::Mixtral, &mixtral).contains("model.d_dense"), "{}", refused(Family::Mixtral, &mixtral));
}
