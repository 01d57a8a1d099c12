//! Training on from a published model: from its folder or a decoupled one, whole or in parts, and back to a folder.

use std::fs;
use std::path::{Path, PathBuf};

use pollster::block_on;
use sdmoe::data::Batch;
use sdmoe::linalg::random::fill_normal;
use sdmoe::nn::config::SpectralConfig;
use sdmoe::optim::CommonPart;
use sdmoe::tensor::Tensor;
use sdmoe::train::begin::begin_from;
use sdmoe::train::config::RunConfig;
use sdmoe::train::decouple::decouple;
use sdmoe::train::pretrained::{HostParameter, Pretrained};
use sdmoe::train::trainer::Trainer;
use serde_json::Value;

use crate::common::place::Place;

fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hf").join(family)
}

/// A place with the folder `model`, a copy of `from` without what belongs to other tests, and a text.
fn copied(from: &Path) -> Place {
    let place = Place::new();
    fs::create_dir(place.path("model")).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let other = ["expected", "manifest", "generate.", "perplexity", "grads", "model_fused", "config_v5"];
        if !other.iter().any(|start| name.starts_with(start)) {
            fs::copy(&path, place.path("model").join(name)).unwrap();
        }
    }
    place.write("text", &include_str!("from.rs")[..6000]);
    place
}

/// A place with the folder of a family, whose model reads bytes.
fn place(family: &str) -> Place {
    copied(&fixture(family))
}

fn open(path: &Path) -> Pretrained {
    Pretrained::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn json(place: &Place, path: &str) -> Value {
    serde_json::from_str(&place.read(path)).unwrap()
}

fn settings(source: &Pretrained, change: impl FnOnce(&mut RunConfig)) -> RunConfig {
    let mut config = source.run_config();
    (config.train.batch, config.train.seq, config.train.steps) = (2, 16, 4);
    (config.optimizer.warmup_steps, config.optimizer.lr) = (0, 1e-3);
    change(&mut config);
    config
}

/// A step, and the loss before it.
fn step(trainer: &mut Trainer) -> f32 {
    let token = |i: usize| ((i * 37 + 11) % 251) as u32;
    let batch = Batch { tokens: (0..32).map(token).collect(), targets: (1..33).map(token).collect() };
    trainer.step(&[batch]).unwrap_or_else(|e| panic!("{e}"));
    block_on(trainer.reports(true)).unwrap_or_else(|e| panic!("{e}"))[0].loss
}

/// All parameters of a trainer.
fn weights(trainer: &Trainer) -> Vec<(String, Vec<f32>)> {
    let params = trainer.model().params().iter();
    params.map(|p| (p.name.clone(), block_on(p.value.to_f32()).unwrap())).collect()
}

fn plain(all: Vec<HostParameter>) -> Vec<(String, Vec<f32>)> {
    all.into_iter().filter(|p| !p.state).map(|p| (p.name, p.values)).collect()
}

fn sorted(mut all: Vec<(String, Vec<f32>)>) -> Vec<(String, Vec<f32>)> {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_published_model_is_decoupled_trained_resumed_and_given_back() {
    // In shards, in bf16, with a tokenizer.
    let place = copied(&fixture("../checkpoints/qwen2_moe.bf16"));
    let shown = place.runs("decouple model --rank 4 --out parts");
    let matrices: Vec<&str> = shown.lines().skip(1).take_while(|line| !line.starts_with('(')).collect();
    let gap = |line: &&str| line.split_whitespace().last().unwrap().parse::<f64>().unwrap();
    assert_eq!(matrices.len(), 3 * open(&place.path("model")).config().moe_layers().len(), "{shown}");
    assert!(matrices.iter().map(gap).all(|gap| gap > 1.0), "{shown}");
    // At once: what was read, to the bit, with all that the config said.
    place.runs("export parts --out same");
    let weights = |folder: &str| fs::read(place.path(folder).join("model.safetensors")).unwrap();
    place.runs("export model --out copy");
    assert!(weights("same") == weights("copy"));
    let read = |folder: &str| sorted(plain(open(&place.path(folder)).read().unwrap()));
    assert!(read("same") == read("model"));
    let mut config = json(&place, "model/config.json");
    place.runs("export parts --out narrow --dtype bf16 --fused");
    assert_eq!(json(&place, "narrow/config.json"), config);
    config["torch_dtype"] = "float32".into();
    assert_eq!(json(&place, "same/config.json"), config);
    for file in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(place.read(&format!("same/{file}")), place.read(&format!("model/{file}")));
    }

    place.runs("train --from parts --data text --batch 2 --seq 32 --report off --steps 2 --out run");
    let settings = RunConfig::from_file(&place.path("run/config.toml"), None).unwrap();
    assert_eq!((&settings.model, settings.spectral.rank), (open(&place.path("model")).config(), 4));
    place.runs("train --resume run --data text --steps 3 --report off --quiet");
    place.runs("export run --out trained");
    assert!(weights("trained") != weights("same"));
    assert_eq!(json(&place, "trained/config.json"), config);
    let eval = |model: &str| place.runs(&format!("eval --model {model} --data text --context 64 --stride 32"));
    let shown = eval("run");
    assert!(shown == eval("trained") && shown.contains("nats per token"), "{shown}");
    assert!(place.runs("inspect parts").contains("a run of this program"));
    assert!(place.runs("generate --model parts --prompt ab --tokens 4 --temperature 0").starts_with("ab"));
}

#[test]
fn beginning_with_a_model_leaves_it_as_it_is_and_takes_its_parts_over() {
    let gpu = crate::common::gpu();
    let place = place("deepseek_v3");
    let source = open(&place.path("model"));
    let spectral = with!(SpectralConfig { rank: 3, layers: vec![2], ..SpectralConfig::default() });
    let decoupled = block_on(decouple(&gpu, &source, &spectral, 1)).unwrap();
    assert!(decoupled.matrices().iter().all(|m| m.layer == 2) && decoupled.matrices().len() == 3);
    decoupled.save(&place.path("parts")).unwrap();
    let parts = open(&place.path("parts"));
    assert_eq!(source.context(), parts.context());
    let own = sorted(plain(source.read().unwrap()));
    let mut trainer = begin_from(&gpu, &settings(&parts, |_| ()), &parts).unwrap();
    assert!(sorted(weights(&trainer)) == own, "decoupled");
    for (name, state) in trainer.state().unwrap() {
        if let Some(m) = decoupled.matrices().iter().find(|m| name == format!("spectral.{}.2.w_c", m.matrix.name())) {
            assert_eq!(block_on(state.to_f32()).unwrap(), m.common.w_c, "{name}");
        }
        if name.ends_with("balance_bias") {
            let stored = source.read().unwrap().into_iter().find(|p| p.name == name).unwrap();
            assert_eq!(block_on(state.to_f32()).unwrap(), stored.values, "{name}");
        }
    }
    let mut merged = begin_from(&gpu, &settings(&parts, |c| c.spectral.enabled = false), &parts).unwrap();
    assert!(sorted(weights(&merged)) == own, "merged");
    // The same function; and the parts that a trainer makes itself move as those that were taken over.
    let spectral = settings(&parts, |_| ()).spectral;
    let mut direct = begin_from(&gpu, &settings(&source, |c| c.spectral = spectral), &source).unwrap();
    let losses = [&mut trainer, &mut direct].map(|t| [step(t), step(t)]);
    let close = |a: f32, b: f32| (a - b).abs() < 1e-5 * a;
    assert!(close(losses[0][0], step(&mut merged)), "{losses:?}");
    assert!(close(losses[0][0], losses[1][0]) && close(losses[0][1], losses[1][1]), "{losses:?}");
    let error = begin_from(&gpu, &settings(&parts, |c| c.spectral.rank = 2), &parts).err().unwrap().to_string();
    assert_eq!(error, "config: spectral.rank: expected the checkpoint's 3, got 2");
}

#[test]
fn a_common_part_in_a_flat_spectrum_is_almost_as_near_as_can_be() {
    let gpu = crate::common::gpu();
    let (m, n, k) = (96, 130, 8);
    let mean = Tensor::empty_f32(&gpu, [1, m, n]).unwrap();
    fill_normal(&mean, 5, 0, 1.0).unwrap();
    let config = with!(SpectralConfig { rank: k, ..SpectralConfig::default() });
    let part = CommonPart::of(&mean, &config, 1).unwrap();
    let read = |x: &Tensor| {
        nalgebra::DMatrix::from_row_iterator(m, n, block_on(x.to_f32()).unwrap().into_iter().map(f64::from))
    };
    let (mean, w_c) = (read(&mean), read(&part.w_c));
    let mut all: Vec<f64> = mean.clone().svd(false, false).singular_values.iter().copied().collect();
    all.sort_by(|a, b| b.total_cmp(a));
    assert!(all[k - 1] / all[k] < 1.05, "{:?}", &all[..10]);
    let best = all[k..].iter().map(|s| s * s).sum::<f64>().sqrt();
    let got = (mean - w_c).norm();
    assert!(got < 1.001 * best, "{got}, the least is {best}");
}

#[test]
fn what_is_frozen_stays_to_the_bit_and_layers_are_decoupled_by_choice() {
    let gpu = crate::common::gpu();
    let source = Pretrained::open(&fixture("qwen3_moe")).unwrap();
    let before = weights(&begin_from(&gpu, &settings(&source, |_| ()), &source).unwrap());
    let spectral = with!(SpectralConfig { rank: 3, refresh_every: 2, ..SpectralConfig::default() });
    let moved = |freeze: &[&str], layers: &[usize]| {
        let config = settings(&source, |c| {
            c.optimizer.freeze = freeze.iter().map(|&f| f.to_owned()).collect();
            c.spectral = with!(SpectralConfig { layers: layers.to_vec(), ..spectral.clone() });
        });
        let mut trainer = begin_from(&gpu, &config, &source).unwrap();
        let parts = |t: &Trainer| -> Vec<(String, Vec<f32>)> {
            let state = t.state().unwrap().into_iter();
            state.map(|(name, tensor)| (name, block_on(tensor.to_f32()).unwrap())).collect()
        };
        let began = parts(&trainer);
        for _ in 0..3 {
            step(&mut trainer);
        }
        let changed: Vec<String> =
            weights(&trainer).into_iter().zip(&before).filter(|(a, b)| a != *b).map(|(a, _)| a.0).collect();
        let changed_parts: Vec<String> =
            parts(&trainer).into_iter().zip(began).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
        (changed, changed_parts)
    };
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    let (all, parts) = moved(&[], &[]);
    assert_eq!(all, names);
    assert!(
        parts.iter().any(|name| name == "spectral.up.1.w_c")
            && !parts.iter().any(|n| n.starts_with("adam.layers.1.moe.experts"))
    );
    // One layer's experts, decoupled, and the attention of all.
    let freeze = ["layers.0.moe.experts", "layers.*.attn", "*norm", "embed"];
    let (some, parts) = moved(&freeze, &[]);
    let wanted: Vec<&str> = names
        .iter()
        .copied()
        .filter(|n| {
            !n.starts_with("layers.0.moe.experts") && !n.contains("norm") && !n.contains("attn") && *n != "embed.weight"
        })
        .collect();
    assert_eq!(some, wanted);
    assert!(wanted.len() > 4, "{wanted:?}");
    assert!(!parts.iter().any(|n| n.starts_with("spectral.gate.0") || n.contains(".attn.")), "{parts:?}");
    assert!(parts.iter().any(|n| n == "spectral.gate.1.w_c"));
    // Decoupled in the second layer only.
    let (all, parts) = moved(&[], &[1]);
    assert_eq!(all, names);
    assert!(!parts.iter().any(|n| n.starts_with("spectral.gate.0")), "{parts:?}");
    assert!(
        parts.iter().any(|n| n == "spectral.gate.1.u") && parts.iter().any(|n| n == "adam.layers.0.moe.experts.up.m")
    );
    let error = begin_from(&gpu, &settings(&source, |c| c.optimizer.freeze = vec!["attention".into()]), &source);
    let error = error.err().unwrap().to_string();
    assert!(
        error.starts_with("config: optimizer.freeze: expected patterns of parameters' names, got `attention`"),
        "{error}"
    );
    assert!(error.contains("layers.*.attn.wq"), "{error}");
    let error = begin_from(&gpu, &settings(&source, |c| c.optimizer.freeze = vec!["*".into()]), &source);
    assert!(error.err().unwrap().to_string().contains("expected something that moves"));
}

#[test]
fn a_layer_that_is_frozen_or_left_out_changes_nothing_in_how_the_others_move() {
    let gpu = crate::common::gpu();
    let source = Pretrained::open(&fixture("qwen3_moe")).unwrap();
    let spectral = with!(SpectralConfig { rank: 3, refresh_every: 2, ..SpectralConfig::default() });
    // Without clipping each part moves by its own gradient: one step from the same weights.
    let after = |freeze: &[&str], layers: &[usize]| {
        let config = settings(&source, |c| {
            c.optimizer.freeze = freeze.iter().map(|&f| f.to_owned()).collect();
            c.optimizer.clip = 0.0;
            c.spectral = with!(SpectralConfig { layers: layers.to_vec(), ..spectral.clone() });
        });
        let mut trainer = begin_from(&gpu, &config, &source).unwrap();
        step(&mut trainer);
        weights(&trainer)
    };
    let (all, others) = (after(&[], &[]), [after(&["layers.0", "head"], &[]), after(&[], &[1])]);
    for other in &others {
        for ((name, a), (_, b)) in all.iter().zip(other).filter(|((name, _), _)| name.starts_with("layers.1.")) {
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // A step is 1e-3.
            assert!(worst < 1e-6, "{name}: {worst:e}");
        }
    }
}

#[test]
fn what_was_frozen_goes_on_when_a_run_is_resumed_without() {
    let place = place("olmoe");
    let few = "--data text --batch 2 --seq 32 --report off";
    place.runs(&format!(
        "train --from model {few} --steps 2 --freeze embed attn --spectral on --spectral-layers 1 --out run"
    ));
    let read = |run: &str| sorted(plain(open(&place.path(run)).read().unwrap()));
    let same = |a: &[(String, Vec<f32>)], b: &[(String, Vec<f32>)]| -> Vec<String> {
        a.iter().zip(b).filter(|(a, b)| a == b).map(|(a, _)| a.0.clone()).collect()
    };
    let (began, first) = (read("model"), read("run"));
    let frozen = same(&began, &first);
    assert!(
        frozen.contains(&"embed.weight".to_owned()) && frozen.contains(&"layers.1.attn.wq".to_owned()),
        "{frozen:?}"
    );
    assert!(frozen.iter().all(|name| name.contains("attn.") || name == "embed.weight"), "{frozen:?}");
    place.runs("train --resume run --data text --steps 3 --report off --quiet --freeze");
    assert_eq!(same(&first, &read("run")), Vec::<String>::new());
}

#[test]
fn what_cannot_be_begun_with_or_decoupled_is_one_line() {
    let place = place("mixtral");
    let train = "train --quiet --data text --steps 1 --report off --from";
    place.fails(
        "decouple model --rank 0 --out d",
        "spectral.rank: expected at least 1 and at most min(d_model, d_expert) = 64, got 0",
    );
    place.fails(
        "decouple model --rank 65 --out d",
        "spectral.rank: expected at most min(d_model, d_expert) = 64, got 65",
    );
    place.fails("decouple model --rank 2 --layers 2 --out d", "spectral.layers: expected layers below 2");
    place.fails("decouple model --rank 2 --out text", "text: expected no file or folder of this name yet, found one");
    place.fails("decouple nowhere --rank 2 --out d", "nowhere: expected a checkpoint folder, found none");
    place.fails(&format!("{train} nowhere"), "nowhere: expected a checkpoint folder, found none");
    place.fails(&format!("{train} model --preset tiny"), "'--preset <NAME>'");
    place.fails(&format!("{train} model --resume model"), "'--resume <DIR>'");
    place.fails(&format!("{train} model --freeze embed heads"), "got `heads`, which none of them has (embed.weight, ");
    place
        .fails(&format!("{train} model --spectral on --spectral-layers 7"), "spectral.layers: expected layers below 2");
    place.write("run.toml", "[model]\nd_model = 32\n");
    place.fails(&format!("{train} model --config run.toml"), "model.d_model: expected the checkpoint's 64, got 32");
    let config = place.read("model/config.json");
    place.write("model/config.json", config.replace("\"hidden_size\": 64", "\"hidden_size\": 32"));
    place.fails("decouple model --rank 2 --out d", "expected shape");
    place.fails(&format!("{train} model"), "expected shape");
    place.write("model/config.json", &config);
    place.write("model/tokenizer.json", "{}");
    place.fails("decouple model --rank 2 --out d", "tokenizer.json: expected a tokenizer");
    fs::remove_file(place.path("model/tokenizer.json")).unwrap();
    let whole = fs::read(place.path("model/model.safetensors")).unwrap();
    // The last number of the file is one of a norm or a head.
    let broken = [&whole[..whole.len() - 4], &f32::NAN.to_le_bytes()].concat();
    place.write("model/model.safetensors", broken);
    place.fails("decouple model --rank 2 --out d", "expected finite numbers, got NaN");
    place.fails(&format!("{train} model --out r"), "expected finite numbers, got NaN");
    place.write("model/model.safetensors", &whole[..whole.len() - 4]);
    place.fails("decouple model --rank 2 --out d", "truncated");
    place.fails(&format!("{train} model --out r"), "truncated");
    assert!(!place.path("d").exists() && !place.path("r").exists());
}

#[test]
fn a_dense_model_trains_merged_and_has_nothing_to_decouple() {
    let place = Place::new();
    place.write("text", &include_str!("from.rs")[..6000]);
    place.write(
        "run.toml",
        "[model]\nlayers = 1\ndense_layers = [0]\nd_dense = 32\nd_model = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\n[spectral]\nenabled = false\n",
    );
    place.runs("train --config run.toml --data text --steps 1 --batch 2 --seq 32 --report off --out run");
    place.runs("export run --out hub --family llama");
    place.runs("train --from hub --data text --steps 1 --batch 2 --seq 32 --report off --out more");
    place.fails("decouple hub --rank 2 --out d", "expected a model with experts, found a dense one");
}
