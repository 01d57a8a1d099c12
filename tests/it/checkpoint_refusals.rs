//! Checkpoints that do not fit: each is an error that names file and tensor, and none is a panic.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use crate::common::checkpoints::{
    Names, SIZES, Sizes, Stored, check, header, model, open, read_all, with_header, write, write_shards,
};
use sdmoe::checkpoint::ExpertCheckpoint;
use sdmoe::nn::config::ExpertMatrix;
use serde_json::{Value, json};

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
    let doubled = "model.layers.2.block_sparse_moe.experts.0.w3.weight";
    told(Qwen2Moe, &add(doubled, &[3, 7]), &[doubled, "the only `up` of expert 0 in layer 2", "`model.layers.2.mlp."]);
    told(Qwen2Moe, &add("model.layers.2.block_sparse_moe.gate.weight", &[5, 7]), &["the only router of layer 2"]);
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
        let parts = [("w_c", vec![7, 3]), ("u", vec![7, 2]), ("v", vec![3, 2])];
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
    let error = replaced("spectral.up.1.w_c", &[3, 7]);
    assert!(error.contains("expected shape [7, 3], got [3, 7]"), "{error}");
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
    assert!(message(&dir.path().join("b.safetensors")).contains("found a file without tensors"));
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(message(dir.path()).contains("expected a file, found a folder"));
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
    assert!(message(&shard).contains("this is one shard, number 1 of 2: give their folder"));
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
        let read = checkpoint.read(layer, ExpertMatrix::Up, experts, &mut vec![0.0; length]);
        assert!(matches!(read, Err(sdmoe::Error::Shape { .. })));
    }
    checkpoint.read(layer, ExpertMatrix::Up, 2..2, &mut []).unwrap();
}
