//! Reading the experts of checkpoints of all known families: what was written comes back bit for bit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::AtomicBool;

use crate::common::checkpoints::{
    Names, SIZES, Sizes, Stored, check, model, open, read_all, weights, with_header, write, write_shards,
};
use crate::fixtures_support::root;
use safetensors::SafeTensors;
use sdmoe::checkpoint::experts::Source;
use sdmoe::checkpoint::load_tensors;
use sdmoe::data::Corpus;
use sdmoe::data::text_tokenizer::TextTokenizer;
use sdmoe::nn::config::{ExpertMatrix, Preset};
use sdmoe::train::Plan;
use sdmoe::train::config::RunConfig;
use sdmoe::train::progress::Display;
use sdmoe::train::run::run;
use sdmoe::train::run_folder::RunFolder;
use serde_json::json;

#[test]
fn every_family_in_every_type_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a model.safetensors");
    for names in Names::ALL {
        for (dtype, bytes) in [("F32", 4), ("F16", 2), ("BF16", 2)] {
            let dense = if names == Names::Own { 0 } else { 1 };
            let tensors = model(names, dtype, Sizes { dense, ..SIZES });
            write(&path, &tensors);
            let checkpoint = open(&path);
            assert_eq!((checkpoint.family().name(), checkpoint.source()), (names.family(), Source::Safetensors));
            check(&checkpoint, names, dense);
            let layers = SIZES.layers - dense;
            let (matrices, coverage) = (3 * SIZES.experts * layers, checkpoint.coverage());
            assert_eq!(coverage.matrices, matrices);
            assert_eq!(checkpoint.bytes(), (matrices * SIZES.d * SIZES.f * bytes) as u64);
            assert_eq!((coverage.routers, coverage.unknown.len()), (layers, 0), "{:?}", coverage.unknown);
            assert_eq!(coverage.expert_tensors + coverage.routers + coverage.other, tensors.len());
        }
    }
}

#[test]
fn shards_give_what_one_file_gives() {
    for names in Names::ALL {
        let dir = tempfile::tempdir().unwrap();
        let index = write_shards(dir.path(), &model(names, "BF16", Sizes { dense: 0, ..SIZES }), 4);
        for path in [dir.path(), &index] {
            let checkpoint = open(path);
            assert_eq!(checkpoint.source(), Source::HuggingFace);
            check(&checkpoint, names, 0);
        }
        // With the whole file beside them, that one is taken, as transformers does.
        fs::remove_file(dir.path().join("model-00001-of-00004.safetensors")).unwrap();
        write(&dir.path().join("model.safetensors"), &model(names, "F32", Sizes { dense: 0, ..SIZES }));
        check(&open(dir.path()), names, 0);
    }
}

#[test]
fn tensors_larger_than_a_chunk_are_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let sizes = Sizes { layers: 1, dense: 0, experts: 2, d: 611, f: 509 };
    write(&path, &model(Names::Fused, "F16", sizes));
    let checkpoint = open(&path);
    let layer = &checkpoint.layers()[0];
    for matrix in ExpertMatrix::ALL {
        let mut out = vec![0.0; 2 * layer.numel()];
        checkpoint.read(layer, matrix, 0..2, &mut out).unwrap();
        let wanted: Vec<f32> = (0..2).flat_map(|e| weights(sizes, 0, matrix, e, true)).collect();
        assert!(out == wanted, "{matrix:?}");
    }
}

#[test]
fn names_that_are_not_understood_are_listed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut tensors = model(Names::Qwen2Moe, "F32", SIZES);
    // A router without experts is nobody's.
    tensors.push(Stored::zeros("model.layers.0.mlp.gate.weight", "F32", &[SIZES.experts, SIZES.d]));
    let known = tensors.len();
    let odd =
        ["model.layers.1.mlp.experts.0.gate_proj.bias", "vision.patch", "model.layers.1.mlp.experts.0.zip.weight"];
    tensors.extend(odd.map(|name| Stored::zeros(name, "U8", &[1])));
    write(&path, &tensors);
    let checkpoint = open(&path);
    let coverage = checkpoint.coverage();
    assert_eq!(coverage.unknown, [odd[0], odd[2], odd[1]]);
    assert_eq!(coverage.expert_tensors + coverage.routers + coverage.other, known);
    check(&checkpoint, Names::Qwen2Moe, 1);
}

#[test]
fn the_family_is_the_configs_or_else_told_by_names() {
    let dir = tempfile::tempdir().unwrap();
    let family = |names: Names, change: fn(&mut Vec<Stored>), config: Option<&str>| {
        let mut tensors = model(names, "F32", Sizes { dense: 0, ..SIZES });
        change(&mut tensors);
        write(&dir.path().join("model.safetensors"), &tensors);
        let _ = fs::remove_file(dir.path().join("config.json"));
        if let Some(text) = config {
            fs::write(dir.path().join("config.json"), text).unwrap();
        }
        open(dir.path()).family().name().to_owned()
    };
    let same: fn(&mut Vec<Stored>) = |_| {};
    assert_eq!(family(Names::Fused, same, Some(r#"{"model_type": "mixtral"}"#)), "mixtral");
    assert_eq!(family(Names::Olmoe, same, Some(r#"{"model_type": "qwen3_moe"}"#)), "qwen3_moe");
    assert_eq!(family(Names::Own, same, Some(r#"{"model_type": "qwen3_moe"}"#)), "sdmoe");
    assert_eq!(family(Names::Olmoe, same, Some("{}")), "olmoe");
    assert_eq!(family(Names::Mixtral, same, Some("{ this is no JSON")), "mixtral");
    // Qwen3 normalises each head.
    let heads = |t: &mut Vec<Stored>| {
        t.iter_mut()
            .filter(|t| t.name.ends_with("q_norm.weight"))
            .for_each(|t| *t = Stored::zeros(&t.name, "F32", &[1]));
    };
    assert_eq!(family(Names::Olmoe, heads, None), "unknown");
    let third = |t: &mut Vec<Stored>| {
        t.push(Stored::zeros("model.layers.1.mlp.gate.e_score_correction_bias", "F32", &[SIZES.experts]));
    };
    assert_eq!(family(Names::DeepseekV2, third, None), "unknown");
}

#[test]
fn published_layouts_of_the_fixtures_agree_to_the_bit() {
    let mut fused = 0;
    for entry in fs::read_dir(root().join("hf")).unwrap() {
        let dir = entry.unwrap().path();
        let checkpoint = open(&dir);
        let family = dir.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!((checkpoint.family().name(), checkpoint.source()), (&*family, Source::HuggingFace));
        assert!(checkpoint.coverage().unknown.is_empty(), "{family}: {:?}", checkpoint.coverage().unknown);
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let whole = SafeTensors::deserialize(&bytes).unwrap();
        let v5 = dir.join("model_fused_v5.safetensors");
        let v5 = v5.exists().then(|| open(&v5));
        fused += usize::from(v5.is_some());
        let mut seen = 0;
        for (l, layer) in checkpoint.layers().iter().enumerate() {
            for (matrix, e) in ExpertMatrix::ALL.into_iter().flat_map(|m| (0..layer.experts).map(move |e| (m, e))) {
                let got = checkpoint.matrix(layer, matrix, e).unwrap();
                let end = [["gate_proj", "w1"], ["up_proj", "w3"], ["down_proj", "w2"]][matrix as usize];
                let ends = end.map(|end| format!("layers.{}.mlp.experts.{e}.{end}.weight", layer.number));
                let ends = ends.map(|s| if family == "mixtral" { s.replace("mlp", "block_sparse_moe") } else { s });
                let (_, view) = whole.iter().find(|(name, _)| ends.iter().any(|end| name.ends_with(end))).unwrap();
                assert_eq!(bytemuck::cast_slice::<f32, u8>(&got), view.data(), "{family} {l} {matrix:?} {e}");
                if let Some(v5) = &v5 {
                    assert_eq!(v5.matrix(&v5.layers()[l], matrix, e).unwrap(), got, "{family}");
                    assert_eq!(v5.family(), checkpoint.family());
                }
                seen += 1;
            }
        }
        assert_eq!(seen, whole.names().iter().filter(|name| name.contains(".experts.")).count(), "{family}");
    }
    assert!(fused >= 1);
}

#[test]
fn a_run_is_read_with_its_decoupled_parts() {
    let temp = tempfile::tempdir().unwrap();
    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.d_model, config.model.layers) = (24, 2);
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 8);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (3, 20, 12);
    (config.train.steps, config.train.batch, config.train.seq) = (2, 1, 16);
    (config.spectral.rank, config.spectral.oversampling) = (2, 3);
    config.spectral.matrices = vec![ExpertMatrix::Gate, ExpertMatrix::Down];
    config.data.paths = vec!["text".into()];
    let dir = temp.path().join("run");
    let corpus = Corpus::from_bytes(b"one and two and three. ".repeat(90), 0.1, "a text".into());
    let folder = RunFolder::create(&dir).unwrap();
    let plan = Plan { config, corpus, tokenizer: TextTokenizer::Bytes, folder, resume: None, from: None };
    pollster::block_on(run(plan, Display::Quiet, &AtomicBool::new(false))).unwrap_or_else(|e| panic!("{e}"));

    let model = load_tensors(&dir.join("checkpoint/model.safetensors")).unwrap();
    let state = load_tensors(&dir.join("checkpoint/optimizer.safetensors")).unwrap();
    for (path, source) in [
        (dir.clone(), Source::Run),
        (dir.join("checkpoint"), Source::Checkpoint),
        (dir.join("checkpoint/model.safetensors"), Source::Safetensors),
    ] {
        let checkpoint = open(&path);
        assert_eq!((checkpoint.source(), checkpoint.family().name()), (source, "sdmoe"));
        assert_eq!(checkpoint.step(), Some(2));
        let coverage = checkpoint.coverage();
        assert_eq!((coverage.matrices, coverage.spectral, coverage.unknown.len()), (18, 12, 0), "{coverage:?}");
        let all = model.names().len() + state.names().len();
        assert_eq!(coverage.expert_tensors + coverage.routers + coverage.spectral + coverage.other, all);
        for layer in checkpoint.layers() {
            let at = format!("layers.{}.moe", layer.number);
            let (_, router) = model.get_f32(&format!("{at}.router")).unwrap();
            let vectors = checkpoint.router(layer).unwrap().unwrap();
            (0..24).for_each(|i| (0..3).for_each(|e| assert_eq!(vectors[e * 24 + i], router[i * 3 + e])));
            for matrix in ExpertMatrix::ALL {
                let (_, w) = model.get_f32(&format!("{at}.experts.{}", matrix.name())).unwrap();
                let mut got = vec![0.0; w.len()];
                checkpoint.read(layer, matrix, 0..3, &mut got).unwrap();
                assert_eq!(got, w);
                let common = checkpoint.common(layer, matrix).unwrap();
                assert_eq!(layer.rank(matrix), (matrix != ExpertMatrix::Up).then_some(2));
                assert_eq!(common.is_some(), matrix != ExpertMatrix::Up);
                let Some(common) = common else { continue };
                let name = |part: &str| format!("spectral.{}.{}.{part}", matrix.name(), layer.number);
                for (values, part) in [(&common.w_c, "w_c"), (&common.u, "u"), (&common.v, "v")] {
                    assert_eq!(*values, state.get_f32(&name(part)).unwrap().1);
                }
                common.remove_from(&mut got).unwrap();
                let size = layer.numel();
                got.iter().enumerate().for_each(|(i, x)| assert_eq!(*x, w[i] - common.w_c[i % size]));
                let error = common.remove_from(&mut got[1..]).unwrap_err();
                assert!(error.to_string().contains(&format!("matrices of {size} numbers")), "{error}");
            }
        }
    }
    // The state of another step is not this model's.
    let other = temp.path().join("other");
    fs::create_dir(&other).unwrap();
    let metadata = BTreeMap::from([("step".to_owned(), "1".to_owned())]);
    sdmoe::checkpoint::save_tensors(&other.join("optimizer.safetensors"), &[], &metadata).unwrap();
    fs::copy(dir.join("checkpoint/model.safetensors"), other.join("model.safetensors")).unwrap();
    let error = read_all(&other).unwrap_err().to_string();
    assert!(
        error.contains("optimizer.safetensors: expected the state of the model, that of step 2, got that of step 1")
    );
}

/// A file of 36 GB, nearly all of it a hole: opening and reading one expert must touch neither the rest nor the memory for it.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_larger_than_the_memory_is_read_a_matrix_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let (experts, d, f) = (1000, 3000, 2000);
    let bytes = experts * 2 * d * f * 2;
    let header = json!({
        "model.layers.0.mlp.experts.gate_up_proj":
            { "dtype": "BF16", "shape": [experts, 2 * f, d], "data_offsets": [0, bytes] },
        "model.layers.0.mlp.experts.down_proj":
            { "dtype": "BF16", "shape": [experts, d, f], "data_offsets": [bytes, bytes + bytes / 2] },
    });
    let head = with_header(&header, &[]);
    let mut file = fs::File::create(&path).unwrap();
    file.set_len((head.len() + bytes + bytes / 2) as u64).unwrap();
    file.write_all(&head).unwrap();
    // 1.0 in the last element of the last expert's up.
    file.seek(SeekFrom::Start((head.len() + bytes - 2) as u64)).unwrap();
    file.write_all(&0x3f80u16.to_le_bytes()).unwrap();
    drop(file);
    let checkpoint = open(&path);
    assert_eq!(checkpoint.bytes(), 36_000_000_000);
    let up = checkpoint.matrix(&checkpoint.layers()[0], ExpertMatrix::Up, experts - 1).unwrap();
    assert_eq!((up[d * f - 1], up[..d * f - 1].iter().sum::<f32>()), (1.0, 0.0));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // Of all tests of this process and of the devices that they share; read as a whole, the file alone would be 36 GB.
    assert!(peak < 12_000_000, "{peak} kB");
}
