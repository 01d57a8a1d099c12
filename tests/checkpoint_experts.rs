//! Reading the experts of checkpoints of all known families: what was written comes back bit for bit, and what does not fit
//! is an error that names file and tensor.

#[path = "common/checkpoints.rs"]
mod checkpoints;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use checkpoints::{
    Names, SIZES, Sizes, Stored, header, model, routes, shape, weights, with_header, write, write_shards,
};
use safetensors::SafeTensors;
use sdmoe::checkpoint::experts::Source;
use sdmoe::checkpoint::{ExpertCheckpoint, Weights, load_tensors};
use sdmoe::data::Corpus;
use sdmoe::nn::config::{ExpertMatrix, Preset};
use sdmoe::train::Plan;
use sdmoe::train::config::RunConfig;
use sdmoe::train::progress::Display;
use sdmoe::train::run::run;
use sdmoe::train::run_folder::RunFolder;
use serde_json::{Value, json};

fn open(path: &Path) -> ExpertCheckpoint {
    ExpertCheckpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Opens and reads all there is.
fn read_all(path: &Path) -> sdmoe::Result<()> {
    let checkpoint = ExpertCheckpoint::open(path)?;
    for layer in checkpoint.layers() {
        checkpoint.router(layer)?;
        for matrix in ExpertMatrix::ALL {
            let mut out = vec![0.0; layer.experts * layer.numel()];
            checkpoint.read(layer, matrix, Weights::Merged, 0..layer.experts, &mut out)?;
        }
    }
    Ok(())
}

/// Checks every number of a model of [`SIZES`].
fn check(checkpoint: &ExpertCheckpoint, names: Names, dense: usize) {
    let numbers: Vec<usize> = checkpoint.layers().iter().map(|l| l.number).collect();
    assert_eq!(numbers, (dense..SIZES.layers).collect::<Vec<_>>(), "{names:?}");
    for layer in checkpoint.layers() {
        assert_eq!((layer.experts, layer.d_model, layer.d_expert), (SIZES.experts, SIZES.d, SIZES.f));
        assert_eq!(layer.transposed, names != Names::Own);
        for matrix in ExpertMatrix::ALL {
            let (m, n) = shape(SIZES, matrix);
            let stored = layer.shape(matrix);
            let wanted = if stored.transposed { (n, m) } else { (m, n) };
            assert_eq!((stored.rows, stored.columns), wanted, "{names:?}");
            assert_eq!(if layer.rows_are_model(matrix) { SIZES.d } else { SIZES.f }, stored.rows);
            let one = |e| weights(SIZES, layer.number, matrix, e, stored.transposed);
            let mut out = vec![0.0; 3 * layer.numel()];
            checkpoint.read(layer, matrix, Weights::Merged, 1..4, &mut out).unwrap();
            assert_eq!(out, (1..4).flat_map(one).collect::<Vec<_>>(), "{names:?} {matrix:?}");
            for e in 0..SIZES.experts {
                assert_eq!(checkpoint.matrix(layer, matrix, Weights::Merged, e).unwrap(), one(e), "{names:?} {e}");
            }
        }
        let routers: Vec<f32> =
            (0..SIZES.experts).flat_map(|e| (0..SIZES.d).map(move |i| routes(layer.number, e, i))).collect();
        assert_eq!(checkpoint.router(layer).unwrap().unwrap(), routers, "{names:?}");
    }
}

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
        checkpoint.read(layer, matrix, Weights::Merged, 0..2, &mut out).unwrap();
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
    let Some(root) = std::env::var_os("SDMOE_FIXTURES") else {
        eprintln!("SDMOE_FIXTURES is not set: only the synthetic checkpoints were read");
        return;
    };
    let mut fused = 0;
    for entry in fs::read_dir(Path::new(&root).join("hf")).unwrap() {
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
                let got = checkpoint.matrix(layer, matrix, Weights::Merged, e).unwrap();
                let end = [["gate_proj", "w1"], ["up_proj", "w3"], ["down_proj", "w2"]][matrix as usize];
                let ends = end.map(|end| format!("layers.{}.mlp.experts.{e}.{end}.weight", layer.number));
                let ends = ends.map(|s| if family == "mixtral" { s.replace("mlp", "block_sparse_moe") } else { s });
                let (_, view) = whole.iter().find(|(name, _)| ends.iter().any(|end| name.ends_with(end))).unwrap();
                assert_eq!(bytemuck::cast_slice::<f32, u8>(&got), view.data(), "{family} {l} {matrix:?} {e}");
                if let Some(v5) = &v5 {
                    assert_eq!(v5.matrix(&v5.layers()[l], matrix, Weights::Merged, e).unwrap(), got, "{family}");
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
    let plan = Plan { config, corpus, folder: RunFolder::create(&dir).unwrap(), resume: None };
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
        assert_eq!((coverage.matrices, coverage.spectral, coverage.unknown.len()), (18, 16, 0), "{coverage:?}");
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
                checkpoint.read(layer, matrix, Weights::Merged, 0..3, &mut got).unwrap();
                assert_eq!(got, w);
                let common = checkpoint.common(layer, matrix).unwrap();
                assert_eq!(layer.rank(matrix), (matrix != ExpertMatrix::Up).then_some(2));
                assert_eq!(common.is_some(), matrix != ExpertMatrix::Up);
                let Some(common) = common else {
                    let error = checkpoint.read(layer, matrix, Weights::Unique, 0..3, &mut got).unwrap_err();
                    assert!(error.to_string().contains("`up` without W_u"), "{error}");
                    continue;
                };
                let name = |part: &str| format!("spectral.{}.{}.{part}", matrix.name(), layer.number);
                for (values, part) in [(&common.w_c, "w_c"), (&common.u, "u"), (&common.v, "v")] {
                    assert_eq!(*values, state.get_f32(&name(part)).unwrap().1);
                }
                checkpoint.read(layer, matrix, Weights::Unique, 0..3, &mut got).unwrap();
                assert_eq!(got, state.get_f32(&name("w_u")).unwrap().1);
                assert_eq!(checkpoint.matrix(layer, matrix, Weights::Unique, 2).unwrap(), got[2 * layer.numel()..]);
                // The merge is one rounded addition.
                let sum = got.iter().enumerate().map(|(i, x)| x + common.w_c[i % layer.numel()]);
                sum.zip(&w).for_each(|(sum, w)| assert!((sum - w).abs() <= f32::EPSILON * w.abs(), "{sum} {w}"));
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

/// What opening and reading a changed model says.
fn refused(names: Names, change: impl FnOnce(&mut Vec<Stored>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    let mut tensors = model(names, "F32", SIZES);
    change(&mut tensors);
    write(&path, &tensors);
    let error = read_all(&path).expect_err("a bad checkpoint").to_string();
    assert!(error.contains("bad.safetensors"), "names the file: {error}");
    error
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"))
}

const UP: &str = "model.layers.2.mlp.experts.3.up_proj.weight";

#[test]
fn experts_that_do_not_fit_are_refused() {
    let replace = |name: &'static str, dtype: &'static str, shape: &'static [usize]| {
        move |t: &mut Vec<Stored>| *find(t, name) = Stored::zeros(name, dtype, shape)
    };
    let remove = |part: &'static str| move |t: &mut Vec<Stored>| t.retain(|t| !t.name.contains(part));
    let add = |name: &'static str, shape: &'static [usize]| {
        move |t: &mut Vec<Stored>| t.push(Stored::zeros(name, "F32", shape))
    };
    let told = |names: Names, change: &dyn Fn(&mut Vec<Stored>), wanted: &[&str]| {
        let error = refused(names, change);
        wanted.iter().for_each(|w| assert!(error.contains(w), "expected `{w}` in: {error}"));
    };
    use Names::{DeepseekV2, Fused, Mixtral, Own, Qwen2Moe};
    told(
        Qwen2Moe,
        &replace(UP, "F32", &[7, 3]),
        &[UP, "expected 7 inputs and 3 outputs", "got 3 inputs and 7 outputs"],
    );
    told(Qwen2Moe, &replace(UP, "F32", &[21]), &[UP, "expected shape [out, in], got [21]"]);
    told(Qwen2Moe, &replace(UP, "F32", &[1, 3, 7]), &[UP, "got [1, 3, 7]"]);
    told(Qwen2Moe, &replace(UP, "F32", &[0, 7]), &[UP, "expected sizes of at least 1, got shape [0, 7]"]);
    told(Qwen2Moe, &replace(UP, "F8_E4M3", &[3, 7]), &[UP, "expected F32, F16 or BF16, got F8_E4M3"]);
    told(
        DeepseekV2,
        &remove("layers.2.mlp.experts.3."),
        &["layer 2: expected `gate` of expert 3", "experts.4.down_proj"],
    );
    told(
        DeepseekV2,
        &remove("layers.2.mlp.experts.4."),
        &["layers.2.mlp.gate.weight", "[4, 7], to fit 4 experts, got [5, 7]"],
    );
    told(Qwen2Moe, &remove(UP), &["layer 2: expected `up` of expert 3"]);
    told(Mixtral, &remove(".w2."), &["layer 1: expected `down` of expert 0", "experts.4.w"]);
    let doubled = "layers.2.mlp.experts.0.up_proj.weight";
    told(Qwen2Moe, &add(doubled, &[3, 7]), &[doubled, "the only `up` of expert 0 in layer 2", "`model.layers.2."]);
    told(Qwen2Moe, &add("layers.2.mlp.gate.weight", &[5, 7]), &["the only router of layer 2"]);
    let far = "model.layers.2.mlp.experts.4000000000.up_proj.weight";
    told(Qwen2Moe, &add(far, &[3, 7]), &["expected `gate` of expert 5", far]);
    let other = "model.layers.9.mlp.experts.gate_up_proj";
    told(Fused, &add(other, &[1, 6, 8]), &["layer 9: expected `down` of expert 0", other]);
    let wide = |t: &mut Vec<Stored>| {
        add(other, &[1, 6, 8])(t);
        add("model.layers.9.mlp.experts.down_proj", &[1, 8, 3])(t);
    };
    told(Fused, &wide, &[other, "expected the model width 7 that layer 1 has, got 8"]);
    told(
        Fused,
        &replace("model.layers.1.mlp.experts.gate_up_proj", "F32", &[5, 7, 7]),
        &["[experts, 2 f, d], got [5, 7, 7]"],
    );
    // Llama 4's and gpt-oss's layout under the same names.
    told(
        Fused,
        &replace("model.layers.1.mlp.experts.gate_up_proj", "F32", &[5, 14, 3]),
        &["layers.1.mlp.experts.down_proj"],
    );
    let many = "model.layers.1.mlp.experts.down_proj";
    told(Fused, &replace(many, "F32", &[2_000_000, 1, 1]), &[many, "at most 1048576 experts"]);
    let half = "expected shape [experts, in, out], got [15, 7]";
    let own = |t: &mut Vec<Stored>| {
        *t = model(Own, "F32", Sizes { dense: 0, ..SIZES });
        replace("layers.0.moe.experts.gate", "F32", &[15, 7])(t);
    };
    told(Own, &own, &["layers.0.moe.experts.gate", half]);
    told(Qwen2Moe, &remove(".experts."), &["expected tensors of experts", "found none among"]);
    let wrong = "model.layers.2.mlp.gate.weight";
    told(Qwen2Moe, &replace(wrong, "F32", &[7, 5]), &[wrong, "expected shape [5, 7]"]);
    told(Qwen2Moe, &replace(wrong, "I32", &[5, 7]), &[wrong, "expected F32, F16 or BF16, got I32"]);
}

#[test]
fn decoupled_parts_that_do_not_fit_are_refused() {
    let state = |change: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = model(Names::Own, "F32", Sizes { dense: 0, ..SIZES });
        let parts = [("w_c", vec![7, 3]), ("w_u", vec![5, 7, 3]), ("u", vec![7, 2]), ("v", vec![3, 2])];
        tensors.extend(parts.map(|(part, shape)| Stored::zeros(format!("spectral.up.1.{part}"), "F32", &shape)));
        change(&mut tensors);
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("x.safetensors"), &tensors);
        let opened = ExpertCheckpoint::open(&dir.path().join("x.safetensors"));
        opened.map(|c| c.layers()[1].rank(ExpertMatrix::Up)).map_err(|e| e.to_string())
    };
    assert_eq!(state(&|_| {}).unwrap(), Some(2));
    let replaced = |part: &'static str, shape: &'static [usize]| {
        state(&move |t| *find(t, part) = Stored::zeros(part, "F32", shape)).unwrap_err()
    };
    let error = replaced("spectral.up.1.v", &[3, 1]);
    assert!(error.contains("`spectral.up.1.v`: expected shape [3, 2], got [3, 1]"), "{error}");
    let error = replaced("spectral.up.1.w_u", &[4, 7, 3]);
    assert!(error.contains("expected shape [5, 7, 3], got [4, 7, 3]"), "{error}");
    let error = state(&|t| t.retain(|t| t.name != "spectral.up.1.u")).unwrap_err();
    assert!(error.contains("`spectral.up.1.u`: expected one, found none"), "{error}");
    let error = state(&|t| t.retain(|t| !t.name.starts_with("layers.1.moe.experts"))).unwrap_err();
    assert!(error.contains("spectral.up.1.") && error.contains("expected experts in layer 1"), "{error}");
}

#[test]
fn numbers_that_are_not_finite_are_found_with_their_place() {
    for (names, name, at, place) in [
        (Names::Qwen2Moe, UP, 8, "[1, 1]"),
        (Names::Fused, "model.layers.1.mlp.experts.gate_up_proj", 2 * 42 + 3 * 7 + 6, "[2, 3, 6]"),
        (Names::Own, "layers.2.moe.experts.down", 104, "[4, 2, 6]"),
        (Names::Mixtral, "model.layers.1.block_sparse_moe.gate.weight", 0, "[0, 0]"),
    ] {
        for (dtype, bad) in [("F32", f32::NAN), ("F32", f32::INFINITY), ("F16", f32::NEG_INFINITY), ("BF16", f32::NAN)]
        {
            let error = refused(names, |t| {
                *t = model(names, dtype, Sizes { dense: 0, ..SIZES });
                let shape = find(t, name).shape.clone();
                let mut values = vec![0.5; shape.iter().product()];
                values[at] = bad;
                *find(t, name) = Stored::new(name, dtype, &shape, &values);
            });
            let wanted = format!("tensor `{name}`: expected finite numbers, got {bad} at {place}");
            assert!(error.contains(&wanted), "expected `{wanted}` in: {error}");
        }
    }
}

#[test]
fn wrong_indices_and_missing_shards_are_refused() {
    let told = |change: &dyn Fn(&Path, &mut Value), wanted: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let path = write_shards(dir.path(), &model(Names::Qwen2Moe, "F32", SIZES), 3);
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(dir.path(), &mut index);
        fs::write(&path, index.to_string()).unwrap();
        let error = read_all(dir.path()).expect_err("a bad index").to_string();
        wanted.iter().for_each(|w| assert!(error.contains(w), "expected `{w}` in: {error}"));
    };
    const SECOND: &str = "model-00002-of-00003.safetensors";
    let set =
        |name: &'static str, file: Value| move |_: &Path, index: &mut Value| index["weight_map"][name] = file.clone();
    told(
        &set("lm_head.weight", json!("nowhere.safetensors")),
        &["index.json", "nowhere.safetensors", "`lm_head.weight`", "missing"],
    );
    told(&set("ghost.weight", json!(SECOND)), &["index.json", "`ghost.weight` is in", SECOND, "does not hold it"]);
    told(&set("a", json!("../model.safetensors")), &["files in its own folder, got `../model.safetensors`"]);
    told(&set("a", json!("/etc/passwd")), &["files in its own folder"]);
    told(&set("a", json!("")), &["files in its own folder"]);
    told(&set("a", json!(7)), &["expected an index with a `weight_map`"]);
    told(&|_, index| *index = json!([]), &["expected an index with a `weight_map`"]);
    told(&|dir, _| fs::remove_file(dir.join(SECOND)).unwrap(), &["names the shard", SECOND, "which is missing"]);
    told(&|dir, _| fs::write(dir.join(SECOND), "").unwrap(), &[SECOND, "truncated or empty"]);
}

#[test]
fn a_tensor_beyond_the_index_is_taken_and_a_doubled_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_shards(dir.path(), &model(Names::Qwen2Moe, "F32", SIZES), 3);
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let file = index["weight_map"].as_object_mut().unwrap().remove(UP).unwrap();
    fs::write(&path, index.to_string()).unwrap();
    check(&open(dir.path()), Names::Qwen2Moe, 1);
    // A fourth shard that the index names for one tensor also holds UP.
    let extra = [Stored::zeros(UP, "F32", &[3, 7]), Stored::zeros("model.norm.bias", "F32", &[7])];
    write(&dir.path().join("z.safetensors"), &extra);
    index["weight_map"]["model.norm.bias"] = json!("z.safetensors");
    fs::write(&path, index.to_string()).unwrap();
    let error = read_all(dir.path()).unwrap_err().to_string();
    assert!(error.contains("z.safetensors") && error.contains(UP) && error.contains(file.as_str().unwrap()), "{error}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| read_all(path).expect_err("no checkpoint").to_string();
    assert!(message(&dir.path().join("no")).contains("found nothing"));
    assert!(message(dir.path()).contains("found no .safetensors file at all"));
    let file = dir.path().join("weights.safetensors");
    write(&file, &model(Names::Olmoe, "F32", SIZES));
    assert!(message(dir.path()).contains("found only weights.safetensors, which can be given itself"));
    write(&dir.path().join("b.safetensors"), &[]);
    assert!(message(dir.path()).contains("found b.safetensors and 1 others without an index"));
    assert!(message(&dir.path().join("b.safetensors")).contains("found none among 0"));
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(message(dir.path()).contains("expected a file of tensors"));
    fs::write(&file, "a text, and nothing but a text").unwrap();
    assert!(message(&file).contains("not a safetensors file"));
    // Lengths of headers that no machine can hold, or that lie beyond the file.
    for (length, wanted) in
        [(u64::MAX, "not a safetensors file"), (1 << 47, "not a safetensors file"), (99, "truncated")]
    {
        fs::write(&file, [&u64::to_le_bytes(length)[..], b"{}      "].concat()).unwrap();
        assert!(message(&file).contains(wanted), "{length}: {}", message(&file));
    }
    // One shard of several.
    let shard = dir.path().join("model-00001-of-00002.safetensors");
    let mut tensors = model(Names::Olmoe, "F32", SIZES);
    tensors.retain(|t| !t.name.contains("experts.4.down"));
    write(&shard, &tensors);
    assert!(message(&shard).contains("one shard of several: give their folder"));
}

#[test]
fn places_that_do_not_fit_their_shapes_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let tensors = model(Names::Qwen2Moe, "F32", SIZES);
    let told = |change: &dyn Fn(&mut Value), wanted: &str| {
        let mut header = header(&tensors);
        change(&mut header);
        fs::write(&path, with_header(&header, &tensors)).unwrap();
        let error = read_all(&path).expect_err("a bad header").to_string();
        assert!(error.contains(wanted), "expected `{wanted}` in: {error}");
    };
    told(&|h| h[UP]["shape"] = json!([3, 8]), &format!("tensor `{UP}`, F32 [3, 8]: expected 96 bytes"));
    told(&|h| h[UP]["shape"] = json!([u64::MAX, u64::MAX]), &format!("tensor `{UP}`"));
    told(&|h| h[UP]["shape"] = json!([-1]), &format!("tensor `{UP}`"));
    told(&|h| h[UP]["dtype"] = json!("F33"), &format!("tensor `{UP}`: unknown variant `F33`"));
    told(&|h| h[UP]["data_offsets"] = json!([8, 4]), &format!("tensor `{UP}`"));
    told(&|h| h[UP]["data_offsets"] = json!([0, u64::MAX]), &format!("tensor `{UP}`"));
    told(&|h| h[UP] = json!("here"), &format!("tensor `{UP}`"));
    told(&|h| drop(h.as_object_mut().unwrap().remove("lm_head.weight")), "bytes from");
}

#[test]
fn no_truncation_and_no_flipped_bit_of_a_header_panics() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let sizes = Sizes { layers: 1, dense: 0, experts: 2, d: 3, f: 2 };
    for names in [Names::Fused, Names::Mixtral, Names::Own] {
        let tensors = model(names, "BF16", sizes);
        let whole = with_header(&header(&tensors), &tensors);
        // In place: a file that is replaced is flushed first by some file systems.
        fs::write(&path, &whole).unwrap();
        let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut put = |at: usize, byte: u8| {
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[byte]).unwrap();
        };
        let head = whole.len() - tensors.iter().map(|t| t.bytes.len()).sum::<usize>();
        let mut refused = 0;
        for (i, byte) in whole.iter().enumerate().take(head) {
            put(i, byte ^ 1 << (i % 7));
            // Some flips only rename a tensor.
            refused += usize::from(read_all(&path).is_err());
            put(i, *byte);
        }
        read_all(&path).unwrap();
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            let error = read_all(&path).expect_err("a truncated file").to_string();
            assert!(error.contains("x.safetensors"), "{error}");
        }
        assert!(refused > head / 3, "{refused} of {head}");
    }
}

#[test]
fn ranges_and_lengths_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    write(&path, &model(Names::Olmoe, "F32", SIZES));
    let checkpoint = open(&path);
    let layer = &checkpoint.layers()[0];
    for (experts, length) in [(4..6, 42), (0..2, 41), (0..2, 43), (0..0, 1), (usize::MAX - 1..usize::MAX, 21)] {
        let read = checkpoint.read(layer, ExpertMatrix::Up, Weights::Merged, experts, &mut vec![0.0; length]);
        assert!(matches!(read, Err(sdmoe::Error::Shape { .. })));
    }
    checkpoint.read(layer, ExpertMatrix::Up, Weights::Merged, 2..2, &mut []).unwrap();
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
    let up = checkpoint.matrix(&checkpoint.layers()[0], ExpertMatrix::Up, Weights::Merged, experts - 1).unwrap();
    assert_eq!((up[d * f - 1], up[..d * f - 1].iter().sum::<f32>()), (1.0, 0.0));
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 1_500_000, "{peak} kB");
}

/// `cargo test --release --test checkpoint_experts -- --ignored --nocapture`: speed of reading one layer of
/// Qwen1.5-MoE-A2.7B's shapes, 1.04 GB, from the page cache.
#[test]
#[ignore = "a measurement; writes 1 GB"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    checkpoints::write_large(&path);
    let checkpoint = open(&path);
    let layer = &checkpoint.layers()[0];
    let mut all = vec![0.0; layer.experts * layer.numel()];
    let gigabytes = checkpoint.bytes() as f64 / 1e9;
    for round in 0..5 {
        let start = Instant::now();
        std::process::Command::new("sh").args(["-c", "cat \"$0\" > /dev/null"]).arg(&path).status().unwrap();
        let cat = start.elapsed().as_secs_f64();
        let start = Instant::now();
        std::process::Command::new("sh").args(["-c", "cat \"$0\" | cat > /dev/null"]).arg(&path).status().unwrap();
        let pipe = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for matrix in ExpertMatrix::ALL {
            checkpoint.read(layer, matrix, Weights::Merged, 0..layer.experts, &mut all).unwrap();
        }
        let stack = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for matrix in ExpertMatrix::ALL {
            for e in 0..layer.experts {
                let out = &mut all[..layer.numel()];
                checkpoint.read(layer, matrix, Weights::Merged, e..e + 1, out).unwrap();
            }
        }
        let single = start.elapsed().as_secs_f64();
        let rate = |seconds: f64| gigabytes / seconds;
        println!(
            "round {round}: cat {:.2} GB/s, cat | cat {:.2} GB/s, by layer {:.2} GB/s, by matrix {:.2} GB/s",
            rate(cat),
            rate(pipe),
            rate(stack),
            rate(single)
        );
    }
}
