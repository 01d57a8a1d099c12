//! Targets as people point at them: files that are something else, pipes and links, names that stand twice, several stacks
//! of layers, parts of a whole, and headers made to break the reader.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::checkpoints::{
    Names, SIZES, Sizes, Stored, check, header, model, open, read_all, with_header, write, write_shards,
};
use sdmoe::checkpoint::{ExpertCheckpoint, load_tensors};
use serde_json::json;

/// What opening and reading says, on one line.
fn refused(path: &Path) -> String {
    let error = read_all(path).expect_err("no checkpoint").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn told(path: &Path, wanted: &[&str]) {
    let error = refused(path);
    wanted.iter().for_each(|w| assert!(error.contains(w), "expected `{w}` in: {error}"));
}

/// A file with this text as its header, and zeros as data.
fn with_text(path: &Path, header: &str, data: usize) {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat();
    fs::write(path, bytes).unwrap();
}

#[test]
fn files_that_are_something_else_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4665e0\nsize 987654321\n";
    for (content, wanted) in [
        (lfs.as_bytes(), "a Git LFS pointer that stands for a file of 987654321 bytes"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "a web page (HTML)"),
        (b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0", "a GGUF file"),
        (b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0archive/data.pkl\x80\x02}", "a PyTorch file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "a Python pickle"),
    ] {
        fs::write(&path, content).unwrap();
        // The file itself, its folder, and as one of this program's own.
        told(&path, &["model.safetensors", wanted]);
        told(dir.path(), &["model.safetensors", wanted]);
        let own = load_tensors(&path).unwrap_err().to_string();
        assert!(own.contains(wanted), "{own}");
    }
    write(&path, &[]);
    told(&path, &["a file without tensors"]);
    fs::remove_file(&path).unwrap();
    // The index is as often a pointer as a file is.
    fs::write(dir.path().join("model.safetensors.index.json"), lfs).unwrap();
    told(dir.path(), &["index.json", "expected an index with a `weight_map`, found a Git LFS pointer"]);
}

#[test]
fn a_folder_of_other_formats_says_which() {
    for (name, format) in [("pytorch_model.bin", "PyTorch"), ("q4.gguf", "GGUF"), ("tf_model.h5", "Keras")] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(dir.path().join(name), "x").unwrap();
        told(dir.path(), &["found no .safetensors file, only", name, format]);
    }
}

#[test]
fn a_name_that_stands_twice_is_refused_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let entry = |start: usize| format!(r#""a.b":{{"dtype":"F32","shape":[2],"data_offsets":[{start},{}]}}"#, start + 8);
    for second in [0, 8] {
        with_text(&path, &format!("{{{},{}}}", entry(0), entry(second)), second + 8);
        told(&path, &["x.safetensors", "the name `a.b` stands twice"]);
        assert!(load_tensors(&path).unwrap_err().to_string().contains("stands twice"));
    }
    // As another spelling of the same name.
    with_text(&path, &format!("{{{},{}}}", entry(0), entry(8).replace("a.b", "a\\u002eb")), 16);
    told(&path, &["the name `a.b` stands twice"]);
    with_text(&path, &format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{}}}"#, entry(0)), 8);
    told(&path, &["the name `k` stands twice"]);
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map":{"a.b":"x.safetensors","a.b":"y.safetensors"}}"#).unwrap();
    told(&index, &["index.json", "the name `a.b` stands twice"]);
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_links_to_nowhere_are_refused_by_name_at_once() {
    use std::os::unix::fs::symlink;
    let start = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name);
    symlink("nowhere", here("dangling.safetensors")).unwrap();
    symlink("loop.safetensors", here("loop.safetensors")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(here("pipe.safetensors")).status().unwrap().success());
    for (name, wanted) in [
        ("dangling.safetensors", "a link to nowhere, which does not exist"),
        ("loop.safetensors", "a link that cannot be followed"),
        ("pipe.safetensors", "found a named pipe"),
    ] {
        told(&here(name), &[name, wanted]);
        let own = load_tensors(&here(name)).unwrap_err().to_string();
        assert!(own.contains(wanted), "{own}");
        // In the places where a folder's files are looked for.
        for place in ["model.safetensors", "model.safetensors.index.json"] {
            let folder = here(&format!("{name}.{place}"));
            fs::create_dir(&folder).unwrap();
            fs::rename(here(name), folder.join(place)).unwrap();
            if name.starts_with("loop") {
                fs::remove_file(folder.join(place)).unwrap();
                symlink(place, folder.join(place)).unwrap();
            }
            told(&folder, &[place, wanted]);
            fs::rename(folder.join(place), here(name)).unwrap();
            if name.starts_with("loop") {
                fs::remove_file(here(name)).unwrap();
                symlink("loop.safetensors", here(name)).unwrap();
            }
        }
        // A pipe for a configuration is none.
        let folder = here(&format!("{name}.config"));
        fs::create_dir(&folder).unwrap();
        write(&folder.join("model.safetensors"), &model(Names::Olmoe, "F32", SIZES));
        fs::rename(here(name), folder.join("config.json")).unwrap();
        check(&open(&folder), Names::Olmoe, 1);
        fs::rename(folder.join("config.json"), here(name)).unwrap();
    }
    told(Path::new("/dev/zero"), &["/dev/zero", "found a device"]);
    assert!(start.elapsed() < Duration::from_secs(20), "nothing may wait for a pipe");
}

/// `tensors` with another text before `layers.`.
fn under(stack: &str, tensors: Vec<Stored>) -> Vec<Stored> {
    let renamed = |mut t: Stored| {
        t.name = t.name.replace("model.", stack);
        t
    };
    tensors.into_iter().map(renamed).collect()
}

#[test]
fn stacks_of_layers_are_told_apart_by_what_stands_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let others = Sizes { layers: 2, dense: 1, experts: 3, d: 9, f: 2 };
    let main = model(Names::Qwen2Moe, "F32", SIZES);
    for (first, second) in [("model.", "mtp."), ("model.", "model_ema."), ("decoder.", "encoder."), ("model.", "")] {
        let mut tensors = under(first, main.clone());
        tensors.extend(
            under(second, model(Names::Qwen2Moe, "F32", others)).into_iter().filter(|t| t.name.contains("layers.")),
        );
        write(&path, &tensors);
        let checkpoint = open(&path);
        let labels: Vec<String> = checkpoint.stacks().iter().map(|s| s.label()).collect();
        let label = |prefix: &'static str| if prefix.is_empty() { "layers" } else { prefix.trim_end_matches('.') };
        assert_eq!(labels, [label(first), label(second)]);
        check(&checkpoint, Names::Qwen2Moe, 1);
        assert_eq!(checkpoint.coverage().matrices, 3 * (5 + 5 + 3));
        let other = checkpoint.with_stack(1).unwrap();
        assert!(checkpoint.with_stack(2).is_none());
        assert_eq!(other.layers().len(), 1);
        let layer = &other.layers()[0];
        assert_eq!((layer.number, layer.experts, layer.d_model, layer.d_expert), (1, 3, 9, 2));
        let read = other.matrix(layer, sdmoe::nn::config::ExpertMatrix::Up, 2).unwrap();
        assert_eq!(read, crate::common::checkpoints::weights(others, 1, sdmoe::nn::config::ExpertMatrix::Up, 2, true));
        assert_eq!(other.router(layer).unwrap().unwrap().len(), 27);
        assert!(checkpoint.gaps().is_empty() && other.gaps().is_empty());
    }
    // A copy is not the model, however many layers it has.
    let mut tensors = under("ema.model.", main.clone());
    let model = model(Names::Qwen2Moe, "F32", Sizes { layers: 2, ..SIZES });
    tensors.extend(model.into_iter().filter(|t| t.name.contains("layers.")));
    write(&path, &tensors);
    assert_eq!(open(&path).stacks().iter().map(|s| s.label()).collect::<Vec<_>>(), ["model", "ema.model"]);
    // Layers numbered after the model's own are another stack where the configuration says so.
    let stacks = |config: &str| {
        write(&dir.path().join("model.safetensors"), &main);
        fs::write(dir.path().join("config.json"), config).unwrap();
        let checkpoint = open(dir.path());
        checkpoint.stacks().iter().map(|s| (s.label(), s.layers.len())).collect::<Vec<_>>()
    };
    assert_eq!(stacks(r#"{"num_hidden_layers": 2, "num_nextn_predict_layers": 0}"#), [("model".into(), 2)]);
    assert_eq!(stacks(r#"{"num_hidden_layers": 2}"#), [("model".into(), 2)]);
    let later = "model (mtp, from layer 2)".into();
    assert_eq!(stacks(r#"{"num_hidden_layers": 2, "num_nextn_predict_layers": 1}"#), [("model".into(), 1), (later, 1)]);
    // A stack of which something is missing is no stack.
    let stray = "mtp.layers.0.mlp.experts.1.up_proj.weight";
    let tensors = [main, vec![Stored::zeros(stray, "F32", &[3, 7])]].concat();
    write(&path, &tensors);
    told(&path, &[stray, "expected `gate` of expert 0"]);
}

#[test]
fn a_part_of_a_whole_is_called_that() {
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name);
    let tensors = model(Names::Mixtral, "F32", SIZES);
    let gaps = |path: &Path| open(path).gaps();
    for name in ["model.safetensors", "model-00001-of-00001.safetensors", "a.safetensors"] {
        write(&here(name), &tensors);
        assert_eq!(gaps(&here(name)), [""; 0], "{name}");
    }
    write(&here("model-00002-of-00003.safetensors"), &tensors);
    assert_eq!(gaps(&here("model-00002-of-00003.safetensors")), ["this is one shard, number 2 of 3"]);
    // Whatever its name, where an index names it with others.
    let map = json!({ "x": "a.safetensors", "y": "b.safetensors" });
    fs::write(here("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(gaps(&here("a.safetensors")), ["this is one of the 2 files that model.safetensors.index.json names"]);
    assert_eq!(gaps(&here("model.safetensors")), [""; 0]);
    // All shards with their index are the whole.
    let whole = tempfile::tempdir().unwrap();
    write_shards(whole.path(), &tensors, 3);
    assert_eq!(gaps(whole.path()), [""; 0]);
    for config in [json!({ "num_local_experts": 5 }), json!({ "num_experts": null }), json!([]), json!("num_experts")] {
        fs::write(whole.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(gaps(whole.path()), [""; 0], "{config}");
    }
    for config in [json!({ "num_local_experts": 8 }), json!({ "text_config": { "n_routed_experts": 8 } })] {
        fs::write(whole.path().join("config.json"), config.to_string()).unwrap();
        assert_eq!(gaps(whole.path()), ["config.json has 8 experts a layer, layer 1 has 5"], "{config}");
    }
}

#[test]
fn names_that_look_like_experts_but_are_not_understood_are_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let mut tensors = model(Names::Olmoe, "F32", SIZES);
    tensors.push(Stored::zeros("model.visual.patch", "F32", &[3]));
    write(&path, &tensors);
    assert_eq!(open(&path).gaps(), [""; 0]);
    tensors.push(Stored::zeros("model.layers.2.mlp.experts.0.gate_proj.bias", "F32", &[3]));
    write(&path, &tensors);
    assert!(
        open(&path).gaps()[0]
            .starts_with("1 tensor whose name looks like an expert\u{2019}s is left out (model.layers.2.")
    );
    let long = format!("model.layers.9.feed_forward.experts.{}", "7".repeat(5000));
    tensors.push(Stored::zeros(&long, "F32", &[3, 7]));
    write(&path, &tensors);
    let checkpoint = open(&path);
    assert!(checkpoint.gaps()[0].starts_with("2 tensors whose names look like experts\u{2019} are left out"));
    assert!(checkpoint.gaps()[0].len() < 250);
    assert_eq!(checkpoint.coverage().unread_experts.len(), 2);
    // Where there is nothing else, the error names them.
    write(&path, &tensors[tensors.len() - 3..]);
    told(&path, &["found none among 3 (these look like experts: model.layers.2.mlp.experts.0.gate_proj.bias"]);
}

/// Opens whatever is there: it must end, in time, with a value or an error of one line that names the file.
fn survives(path: &Path, what: &str) -> bool {
    match ExpertCheckpoint::open(path).and_then(|_| read_all(path)) {
        Ok(()) => true,
        Err(e) => {
            let text = e.to_string();
            assert!(text.lines().count() == 1 && text.contains("x.safetensors"), "{what}: {text}");
            // A name may be as long as the header; the rest of a line is not.
            assert!(text.len() < 3000, "{what}: {} bytes", text.len());
            false
        }
    }
}

#[test]
fn headers_made_to_break_a_reader_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let name = "model.layers.0.mlp.experts.0.gate_proj.weight";
    let entry = |name: &str, shape: &str, offsets: &str| {
        format!(r#"{{"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let max = u64::MAX;
    for text in [
        String::new(),
        "{".into(),
        "null".into(),
        "[]".into(),
        "{}{}".into(),
        "\u{feff}{}".into(),
        r#"{"__metadata__":7}"#.into(),
        r#"{"__metadata__":{"sdmoe":"{}"}}"#.into(),
        r#"{"__metadata__":{"sdmoe":"{\"format\":\"sdmoe\"}"}}"#.into(),
        deep("[", "]"),
        deep(r#"{"a":"#, "}"),
        format!(r#"{{"{name}":{}}}"#, deep("[", "]")),
        format!(r#"{{"__metadata__":{}}}"#, deep(r#"{"a":"#, "}")),
        entry(name, "[4]", "[0,16]"),
        entry("", "[4]", "[0,16]"),
        entry(".", "[4]", "[0,16]"),
        entry("layers", "[4]", "[0,16]"),
        entry("layers.", "[4]", "[0,16]"),
        entry(".layers..", "[4]", "[0,16]"),
        entry("\\u0000\\u001b[2J", "[4]", "[0,16]"),
        entry(name, "[2,2]", "[0,15]"),
        entry(name, "[2,2]", "[1,17]"),
        entry(name, "[2,2]", "[16,0]"),
        entry(name, "[2,2]", &format!("[0,{max}]")),
        entry(name, "[2,2]", &format!("[{max},{max}]")),
        entry(name, "[2,2]", "[-16,0]"),
        entry(name, "[2,2]", "[0.0,16.0]"),
        entry(name, "[2,2]", "[0,16,32]"),
        entry(name, "[0,4]", "[0,0]"),
        entry(name, "[]", "[0,4]"),
        entry(name, &format!("[{max},{max},0]"), "[0,0]"),
        entry(name, &format!("[0,{max},{max}]"), "[0,0]"),
        entry(name, &format!("[{max},2]"), "[0,16]"),
        entry(name, "[4294967296,4294967296,4294967296]", "[0,16]"),
        entry(name, "[99999999999999999999999999]", "[0,16]"),
        entry(name, &format!("[{}4]", "1,".repeat(50_000)), "[0,16]"),
        entry("model.layers.0.mlp.experts.down_proj", "[1,2,2]", "[0,16]"),
        entry("model.layers.0.mlp.experts.gate_up_proj", "[1,2,2]", "[0,16]"),
        entry(&format!("model.layers.{max}.mlp.experts.{max}.up_proj.weight"), "[2,2]", "[0,16]"),
        entry(&format!("spectral.gate.{max}.w_c"), "[2,2]", "[0,16]"),
        entry("spectral.gate.0.u", "[4]", "[0,16]"),
    ] {
        with_text(&path, &text, 16);
        let what: String = text.chars().take(200).collect();
        assert!(!survives(&path, &what), "{what}");
    }
    // Two tensors in one place, overlapping ones, and a hole between two.
    for (first, second) in [("[0,16]", "[0,16]"), ("[0,16]", "[8,24]"), ("[0,16]", "[24,40]"), ("[16,32]", "[16,32]")] {
        let pair = [entry("a", "[2,2]", first), entry("b", "[2,2]", second)].map(|e| e[1..e.len() - 1].to_owned());
        with_text(&path, &format!("{{{}}}", pair.join(",")), 40);
        assert!(!survives(&path, &pair.join(",")));
    }
    // Lengths of the header.
    let whole = with_header(&header(&model(Names::Own, "F32", SIZES)), &model(Names::Own, "F32", SIZES));
    for length in [0, 1, 2, 7, 8, 1 << 20, 1 << 31, 1 << 32, 100_000_000, 100_000_001, 1 << 63, max - 7, max] {
        fs::write(&path, [&u64::to_le_bytes(length)[..], &whole[8..]].concat()).unwrap();
        assert!(!survives(&path, &format!("a header of {length}")));
    }
}

/// Bytes changed, taken away, doubled and exchanged at random, seeded: nothing panics, and nothing takes long.
#[test]
fn damage_at_random_places_ends_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    let sizes = Sizes { layers: 2, dense: 1, experts: 2, d: 3, f: 2 };
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut random = |n: usize| {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let start = Instant::now();
    let (mut good, mut tried) = (0, 0);
    for names in Names::ALL {
        let tensors = model(names, "F16", sizes);
        let whole = with_header(&header(&tensors), &tensors);
        let head = whole.len() - tensors.iter().map(|t| t.bytes.len()).sum::<usize>();
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                // Most of what is said is said by the header.
                let within = if random(4) == 0 { bytes.len() } else { head.min(bytes.len()) }.max(1);
                let (a, b) = (random(within), random(within));
                let (a, b) = (a.min(b), (a.max(b) + 1).min(bytes.len()));
                match random(6) {
                    0 => bytes[a] ^= 1 << random(8),
                    1 => bytes[a] = b"{}[]\",:0917\\e"[random(13)],
                    2 => bytes.truncate(a.max(1)),
                    3 => drop(bytes.drain(a..b.min(a + 9))),
                    4 => {
                        let part = bytes[a..b.min(a + 40)].to_vec();
                        bytes.splice(a..a, part);
                    }
                    _ => bytes.swap(a, b - 1),
                }
                if bytes.len() < 9 {
                    break;
                }
                if random(2) == 0 {
                    // With a length that fits again the damage is seen by what reads the header.
                    let grown = (bytes.len() + head).saturating_sub(whole.len() + 8);
                    bytes[..8].copy_from_slice(&(grown as u64).to_le_bytes());
                }
            }
            fs::write(&path, &bytes).unwrap();
            good += usize::from(survives(&path, &format!("{names:?}")));
            tried += 1;
        }
    }
    assert!(good < tried / 2, "{good} of {tried} are still good: too little damage");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
