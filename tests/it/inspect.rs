//! `sdmoe inspect`: what it says of good folders, and of what is wrong with bad ones. No device is opened.

use std::fs;

use crate::common::checkpoints::{Names, SIZES, Stored, header, model, with_header, write};
use crate::common::families::{config, fused, tensors, write_folder};
use crate::common::place::{Place, failed};
use serde_json::{Value, json};

/// A folder `m` of Qwen2-MoE, with its config and tensors changed.
fn folder(change: impl FnOnce(&mut Value, &mut Vec<Stored>)) -> Place {
    let place = Place::new();
    let mut config = config("qwen2_moe", |_| ());
    let mut stored = tensors(&config, "BF16");
    change(&mut config, &mut stored);
    write_folder(&place.path("m"), &config, &stored, 3);
    place
}

fn told(text: &str, wanted: &[&str]) {
    wanted.iter().for_each(|w| assert!(text.contains(w), "expected `{w}` in:\n{text}"));
}

#[test]
fn a_good_folder_is_described_and_written_as_json() {
    let place = folder(|_, _| ());
    let text = place.runs("inspect m --json m.json");
    told(
        &text,
        &[
            "family       qwen2_moe (a Hugging Face folder)\n",
            "layers       2: 2 with experts, 0 dense\n",
            "experts      8 a layer, 2 a token, hidden width 48; shared: hidden width 96, with a gate\n",
            "attention    4 heads of 16 (2 for keys and values)\n",
            "model        width 64, vocabulary 256, context 256\n",
            "stack        model: 8 experts of 64 x 48 in 2 layers, 0-1\n",
            "parameters   243,392, 132,800 active a token\n",
            "tensors      79 (79 BF16), in 3 files; experts per expert\n",
            "bytes        486,784\n",
            "bytes of weights (973,568 in f32), 512 a token of keys and values\n",
            "to train: 3,894,272 of weights, gradients and AdamW's moments in f32",
            "by layer: 211,200 at a time to evaluate, 842,240 to analyse with a text\n",
            "all are finite\n",
            "none is zero, and no two of a layer are equal\n",
            "ignored      config.json: attention_dropout; ",
        ],
    );
    let found: Value = serde_json::from_str(&place.read("m.json")).unwrap();
    assert_eq!(found["parameters"], json!(243_392));
    assert_eq!(found["model"]["moe"]["top_k"], json!(2));
    // Vectors and the shared expert's gate, of one column, are f32, the rest bf16.
    let (weights, buffers) = (&found["memory"]["inference"], &found["memory"]["buffers"]);
    assert!((486_784..500_000).contains(&weights.as_u64().unwrap()), "{weights}");
    assert_eq!(buffers[0][1], json!(2 * 8 * 64 * 48));
    let bytes: u64 = found["parts"].as_array().unwrap().iter().map(|p| p["bytes"].as_u64().unwrap()).sum();
    assert_eq!(bytes, 486_784);
    assert!(found["missing"].as_array().unwrap().is_empty());
}

#[test]
fn every_family_and_layout_is_inspected() {
    for family in ["deepseek_v2", "deepseek_v3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"] {
        let place = Place::new();
        let config = config(family, |_| ());
        let stored = tensors(&config, "F32");
        write_folder(&place.path("m"), &config, &stored, 1);
        write_folder(&place.path("f"), &config, &fused(&stored), 1);
        let all = place.runs("inspect m");
        told(&all, &[&format!("family       {family} "), "experts per expert", "no two of a layer are equal"]);
        assert!(!all.contains("others"), "a tensor of no kind:\n{all}");
        told(&place.runs("inspect f"), &["experts fused", "all are finite", "no two of a layer are equal"]);
    }
}

#[test]
fn experts_that_are_zero_or_equal_are_found() {
    let place = folder(|_, t| {
        let expert = |t: &Stored, e: usize| t.name.contains(&format!("layers.1.mlp.experts.{e}."));
        let of =
            |t: &[Stored], e: usize| t.iter().filter(|t| expert(t, e)).map(|t| t.bytes.clone()).collect::<Vec<_>>();
        let second = of(t, 2);
        for e in [5, 6] {
            t.iter_mut().filter(|t| expert(t, e)).zip(second.clone()).for_each(|(t, bytes)| t.bytes = bytes);
        }
        // One bit apart is not equal.
        t.iter_mut().rfind(|t| expert(t, 6)).unwrap().bytes[100] ^= 1;
        t.iter_mut().filter(|t| expert(t, 4)).for_each(|t| t.bytes.fill(0));
    });
    let text = place.runs("inspect m");
    told(&text, &["zero         experts 4 of layer 1 (model)\n", "equal        experts 2, 5 of layer 1 (model)\n"]);
}

#[test]
fn what_does_not_fit_is_listed_and_ends_with_an_error() {
    const UP: &str = "model.layers.1.mlp.experts.3.up_proj.weight";
    let find = |t: &[Stored], name: &str| t.iter().position(|t| t.name == name).unwrap();
    let bad = |place: &Place, wanted: &[&str], error: &str| {
        let output = place.command("inspect m").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), message.trim_end().lines().count()), (Some(2), 1), "{message}");
        told(&message, &[error]);
        told(&String::from_utf8_lossy(&output.stdout), wanted);
    };
    let place = folder(|_, t| {
        let (up, norm) = (find(t, UP), find(t, "model.norm.weight"));
        t[up].bytes[2 * 7..][..4].copy_from_slice(&[0xc0, 0x7f, 0x80, 0xff]);
        t[norm].bytes[2..4].copy_from_slice(&[0x80, 0x7f]);
    });
    let list = format!("not finite   2 of `{UP}`, the first at 7; 1 of `model.norm.weight`, the first at 1\n");
    bad(&place, &[&list], &format!("error: checkpoint m: not finite: {UP} and 1 other"));
    let place = folder(|_, t| {
        t.retain(|t| t.name != UP);
        t.push(Stored::zeros("lm_head.bias", "BF16", &[3]));
    });
    bad(&place, &[&format!("missing      {UP}\n"), "unknown      lm_head.bias\n"], "missing: ");
    let place = folder(|c, _| c["hidden_size"] = json!(32));
    bad(
        &place,
        &["unfit        model.embed_tokens.weight: expected shape [256, 32], as config.json has it, got [256, 64]"],
        "unfit: ",
    );
}

#[test]
fn own_checkpoints_and_foreign_families_are_inspected_as_far_as_they_are_understood() {
    let place = Place::new();
    fs::create_dir(place.path("x")).unwrap();
    write(&place.path("x/model.safetensors"), &model(Names::Qwen2Moe, "F16", SIZES));
    let text = place.runs("inspect x");
    told(
        &text,
        &["family       qwen2_moe", "5 experts of 7 x 3 in 2 layers, 1-2", "cannot run", "expected a config.json"],
    );
    place.write("x/config.json", r#"{"model_type": "other_moe"}"#);
    told(
        &place.runs("inspect x"),
        &["family       other_moe", "model_type: expected one of qwen2_moe, ", "got `other_moe`"],
    );
    let mut config = config("qwen2_moe", |c| c["hidden_act"] = json!("gelu"));
    write_folder(&place.path("g"), &config, &tensors(&crate::common::families::config("qwen2_moe", |_| ()), "F32"), 1);
    told(&place.runs("inspect g"), &["cannot run", "hidden_act: only \"silu\" is supported, got gelu"]);
    config["head_dim"] = json!(0);
    let own = place.path("own/checkpoint");
    fs::create_dir_all(&own).unwrap();
    let settings = sdmoe::RunConfig::preset(sdmoe::Preset::Tiny).to_toml().unwrap();
    let entries = std::collections::BTreeMap::from([("config".to_owned(), settings), ("step".into(), "7".into())]);
    let shapes = sdmoe::Model::shapes(&sdmoe::Preset::Tiny.model());
    let values: Vec<Vec<f32>> = (shapes.iter().enumerate())
        .map(|(t, (_, shape))| (0..shape.iter().product()).map(|i: usize| ((i * 31 + t) % 251) as f32).collect())
        .collect();
    let saved: Vec<_> = (shapes.iter().zip(&values))
        .map(|((name, shape), values)| sdmoe::checkpoint::TensorToSave::f32(name, shape, values))
        .collect();
    sdmoe::checkpoint::save_tensors(&own.join("model.safetensors"), &saved, &entries).unwrap();
    let text = place.runs("inspect own");
    told(&text, &["family       sdmoe (a run of this program)", "8 a layer, 2 a token", "all are finite"]);
}

#[test]
fn folders_that_cannot_be_read_end_in_one_line() {
    let place = folder(|_, _| ());
    place.fails(
        "inspect nowhere",
        "expected a run, a checkpoint, a Hugging Face folder or a .safetensors file, found nothing",
    );
    place.fails("inspect m --json no/where.json", "--json: expected a file in a folder that exists");
    let shard = place.path("m/model-00002-of-00003.safetensors");
    let whole = fs::read(&shard).unwrap();
    fs::write(&shard, &whole[..whole.len() - 2]).unwrap();
    place.fails("inspect m", "model-00002-of-00003.safetensors: truncated: expected");
    fs::write(&shard, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    place.fails("inspect m", "not a safetensors file, or damaged");
    fs::remove_file(&shard).unwrap();
    place.fails("inspect m", "names the shard model-00002-of-00003.safetensors");
    let stored =
        [Stored::zeros("model.embed_tokens.weight", "F32", &[4]), Stored::zeros("model.norm.weight", "F32", &[4])];
    for (name, change) in [
        ("overlapping", ("model.norm.weight", "data_offsets", json!([0, 16]))),
        ("large", ("model.norm.weight", "shape", json!([160_000, 160_000]))),
    ] {
        let (tensor, field, value) = change;
        let mut header = header(&stored);
        header[tensor][field] = value;
        place.write(&format!("{name}/model.safetensors"), with_header(&header, &stored));
        let output = place.command(&format!("inspect {name}")).output().unwrap();
        failed(name, &output, "bytes from");
    }
}
