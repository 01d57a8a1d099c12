//! Folders of published families, read into this program's parameters: every number in its place, and every folder that does
//! not fit refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::checkpoints::{Stored, header, with_header};
use crate::common::families::{config, fused, tensors, value, write_folder};
use crate::fixtures_support::{entries, root};
use safetensors::SafeTensors;
use sdmoe::checkpoint::FamilyCheckpoint;
use sdmoe::nn::families::Layout;
use sdmoe::nn::model::Model;
use serde_json::{Value, json};

const FAMILIES: [&str; 6] = ["deepseek_v2", "deepseek_v3", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"];

fn open(path: &Path) -> FamilyCheckpoint {
    FamilyCheckpoint::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Every parameter, with its shape; each number must come once.
fn read(checkpoint: &FamilyCheckpoint) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let empty = |n: usize| vec![f32::NAN; n];
    let mut all: BTreeMap<String, (Vec<usize>, Vec<f32>)> =
        (checkpoint.map().parameters.iter()).map(|p| (p.name.clone(), (p.shape.clone(), empty(p.numel())))).collect();
    let coverage = checkpoint
        .read(|parameter, first, values| {
            let (_, into) = all.get_mut(&parameter.name).unwrap();
            for (x, value) in into[first..first + values.len()].iter_mut().zip(values) {
                assert!(x.is_nan(), "{} comes twice", parameter.name);
                *x = *value;
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(coverage.used + coverage.skipped.len(), coverage.tensors);
    assert!(
        all.iter().all(|(name, (_, values))| values.iter().all(|x| x.is_finite()) || panic!("{name} is not whole"))
    );
    all
}

/// The tensor of the hub that belongs to a parameter, and whether it is transposed there; of a bank that of expert `e`.
fn hub(family: &str, parameter: &str, e: usize) -> (String, bool) {
    let fixed = match parameter {
        "embed.weight" => Some(("model.embed_tokens.weight", false)),
        "final_norm.weight" => Some(("model.norm.weight", false)),
        "head.weight" => Some(("lm_head.weight", true)),
        _ => None,
    };
    if let Some((name, transposed)) = fixed {
        return (name.into(), transposed);
    }
    let mut words = parameter.splitn(3, '.');
    let (_, layer, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let block = if family == "mixtral" { "block_sparse_moe" } else { "mlp" };
    let shared = if family == "qwen2_moe" { "mlp.shared_expert" } else { "mlp.shared_experts" };
    let matrix = |own: &str| match (family, own) {
        ("mixtral", "gate") => "w1",
        ("mixtral", "up") => "w3",
        ("mixtral", "down") => "w2",
        (_, "gate") => "gate_proj",
        (_, "up") => "up_proj",
        (_, "down") => "down_proj",
        _ => panic!("{own}"),
    };
    let (name, transposed) = match rest {
        "attn_norm.weight" => ("input_layernorm.weight".into(), false),
        "moe_norm.weight" | "ffn_norm.weight" => ("post_attention_layernorm.weight".into(), false),
        "attn.bq" | "attn.bk" | "attn.bv" => (format!("self_attn.{}_proj.bias", &rest[6..]), false),
        "attn.q_norm.weight" | "attn.k_norm.weight" => (format!("self_{rest}"), false),
        "attn.q_a_norm.weight" => ("self_attn.q_a_layernorm.weight".into(), false),
        "attn.kv_a_norm.weight" => ("self_attn.kv_a_layernorm.weight".into(), false),
        "attn.wkv_a" => ("self_attn.kv_a_proj_with_mqa.weight".into(), true),
        "moe.router" => (format!("{block}.gate.weight"), true),
        "moe.balance_bias" => ("mlp.gate.e_score_correction_bias".into(), false),
        "moe.shared_gate" => ("mlp.shared_expert_gate.weight".into(), true),
        _ => {
            let last = rest.rsplit('.').next().unwrap();
            let name = match rest.rsplit_once('.').unwrap().0 {
                "attn" if last.contains('_') => {
                    format!("self_attn.{}_{}_proj.weight", &last[1..last.len() - 2], &last[last.len() - 1..])
                }
                "attn" => format!("self_attn.{}_proj.weight", &last[1..]),
                "ffn" => format!("mlp.{}.weight", matrix(last)),
                "moe.shared" => format!("{shared}.{}.weight", matrix(last)),
                "moe.experts" => format!("{block}.experts.{e}.{}.weight", matrix(last)),
                _ => panic!("{rest}"),
            };
            (name, true)
        }
    };
    (format!("model.layers.{layer}.{name}"), transposed)
}

/// Checks every number of every parameter against `number(hub name, element)`.
fn check(family: &str, all: &BTreeMap<String, (Vec<usize>, Vec<f32>)>, number: impl Fn(&str, usize) -> f32) {
    for (name, (shape, values)) in all {
        let (banks, into, out) = match shape[..] {
            [n] => (1, 1, n),
            [into, out] => (1, into, out),
            [e, into, out] => (e, into, out),
            _ => panic!("{name}: {shape:?}"),
        };
        for e in 0..banks {
            let (stored, transposed) = hub(family, name, e);
            for (i, o) in (0..into).flat_map(|i| (0..out).map(move |o| (i, o))) {
                let at = if transposed { o * into + i } else { i * out + o };
                let (got, wanted) = (values[(e * into + i) * out + o], number(&stored, at));
                assert_eq!(
                    got.to_bits(),
                    wanted.to_bits(),
                    "{family} {name} [{e}, {i}, {o}] from {stored}: {got}, {wanted}"
                );
            }
        }
    }
}

#[test]
fn every_number_of_every_family_finds_its_place_in_each_type_and_layout() {
    for family in FAMILIES {
        let config = config(family, |_| ());
        for (dtype, shards) in [("F32", 1), ("BF16", 3), ("F16", 1)] {
            let dir = tempfile::tempdir().unwrap();
            let stored = tensors(&config, dtype);
            write_folder(&dir.path().join("plain"), &config, &stored, shards);
            write_folder(&dir.path().join("fused"), &config, &fused(&stored), shards);
            let checkpoint = open(&dir.path().join("plain"));
            assert_eq!((checkpoint.layout(), checkpoint.files()), (Layout::PerExpert, shards));
            assert_eq!(checkpoint.coverage().to_string(), format!("{0} of {0} tensors used", stored.len()));
            assert_eq!(checkpoint.bytes(), stored.iter().map(|t| t.bytes.len() as u64).sum::<u64>());
            let all = read(&checkpoint);
            check(family, &all, value);
            let v5 = open(&dir.path().join("fused"));
            assert_eq!(v5.layout(), Layout::Fused);
            assert!(read(&v5) == all, "{family} {dtype}");
        }
    }
}

#[test]
fn the_published_layouts_of_the_fixtures_are_read_to_the_bit() {
    let root = root();
    let (mut found, mut fused) = (0, 0);
    for group in ["hf", "checkpoints"] {
        let group = root.join(group);
        for folder in entries(&group, true).unwrap() {
            let dir = group.join(&folder);
            let checkpoint = open(&dir);
            let all = read(&checkpoint);
            let family = checkpoint.model().family.name();
            let mut files = BTreeMap::new();
            for file in
                entries(&dir, false).unwrap().into_iter().filter(|f| f.starts_with("model") && !f.contains("fused"))
            {
                let bytes = fs::read(dir.join(file)).unwrap();
                let whole = SafeTensors::deserialize(&bytes).unwrap();
                for (name, view) in whole.tensors() {
                    let pairs = |widen: fn(u16) -> f32| {
                        view.data()
                            .as_chunks::<2>()
                            .0
                            .iter()
                            .map(|b| widen(u16::from_le_bytes(*b)))
                            .collect::<Vec<f32>>()
                    };
                    let values = match view.dtype() {
                        safetensors::Dtype::BF16 => pairs(|b| half::bf16::from_bits(b).to_f32()),
                        safetensors::Dtype::F16 => pairs(|b| half::f16::from_bits(b).to_f32()),
                        _ => bytemuck::pod_collect_to_vec(view.data()),
                    };
                    files.insert(name, values);
                }
            }
            check(family, &all, |name, i| files[name][i]);
            found += 1;
            if dir.join("model_fused_v5.safetensors").exists() {
                let copy = tempfile::tempdir().unwrap();
                for (from, to) in
                    [("config_v5.json", "config.json"), ("model_fused_v5.safetensors", "model.safetensors")]
                {
                    fs::copy(dir.join(from), copy.path().join(to)).unwrap();
                }
                assert!(read(&open(copy.path())) == all, "{folder}");
                fused += 1;
            }
        }
    }
    // Those of the repository; the folder that SDMOE_FIXTURES names has more.
    assert!(found >= 7 && fused >= 1, "{found} {fused}");
}

#[test]
fn a_model_gets_every_parameter_from_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let config = config("mixtral", |_| ());
    write_folder(dir.path(), &config, &tensors(&config, "BF16"), 2);
    let checkpoint = open(dir.path());
    for gpu in crate::common::tiers() {
        let model = Model::new(&gpu, checkpoint.config()).unwrap();
        let coverage = checkpoint.load_into(&model).unwrap();
        assert_eq!(coverage.used, coverage.tensors);
        let all: BTreeMap<_, _> = (model.params().iter())
            .map(|p| {
                let values = pollster::block_on(p.value.to_f32()).unwrap();
                (p.name.clone(), (p.value.dims().to_vec(), values))
            })
            .collect();
        check("mixtral", &all, value);
        assert!(checkpoint.eos().is_empty());
        let mut other = checkpoint.config().clone();
        other.moe.d_expert = 96;
        let other = Model::new(&gpu, &other).unwrap();
        let error = checkpoint.load_into(&other).unwrap_err().to_string();
        assert!(error.contains("`layers.0.moe.experts.gate` of shape [8, 64, 80], got [8, 64, 96]"), "{error}");
    }
}

#[test]
fn the_tokens_that_end_a_text_are_those_of_the_generation_config_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config("mixtral", |c| c["eos_token_id"] = json!(5));
    write_folder(dir.path(), &config, &tensors(&config, "BF16"), 1);
    for (text, wanted) in
        [("", &[5][..]), ("{}", &[5]), (r#"{"eos_token_id": [7, 8]}"#, &[7, 8]), (r#"{"eos_token_id": 9}"#, &[9])]
    {
        fs::write(dir.path().join("generation_config.json"), text).unwrap();
        assert_eq!(open(dir.path()).eos(), wanted, "{text}");
    }
}

#[test]
fn what_is_known_and_not_needed_is_passed_over_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config("deepseek_v3", |c| {
        (c["tie_word_embeddings"], c["num_nextn_predict_layers"]) = (json!(true), json!(1));
    });
    let mut stored = tensors(&config, "F32");
    let used = stored.len();
    assert!(stored.iter().all(|t| t.name != "lm_head.weight"));
    let extra = [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.3.eh_proj.weight",
        "mtp.layers.0.mlp.gate.weight",
    ];
    stored.extend(extra.map(|name| Stored::zeros(name, "F32", &[4])));
    stored.push(Stored::zeros("lm_head.weight", "F32", &[256, 64]));
    write_folder(dir.path(), &config, &stored, 1);
    let coverage = open(dir.path()).coverage();
    assert_eq!((coverage.used, coverage.tensors, coverage.skipped.len()), (used, used + 4, 4));
    assert!(coverage.to_string().contains("tensors used; not needed: lm_head.weight and 3 others"), "{coverage}");
}

/// What opening and reading a changed folder of Qwen2-MoE says, on one line.
fn refused(change: impl FnOnce(&Path, &mut Value, &mut Vec<Stored>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("qwen2_moe", |_| ());
    let mut stored = tensors(&config, "F32");
    change(dir.path(), &mut config, &mut stored);
    if !dir.path().join("model.safetensors").exists() {
        write_folder(dir.path(), &config, &stored, 1);
    }
    let read = FamilyCheckpoint::open(dir.path()).and_then(|c| c.read(|_, _, _| Ok(())).map(|_| ()));
    let error = read.expect_err("a bad folder").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

const UP: &str = "model.layers.1.mlp.experts.3.up_proj.weight";

/// The place of the tensor `name`.
fn find(tensors: &[Stored], name: &str) -> usize {
    tensors.iter().position(|t| t.name == name).unwrap()
}

#[test]
fn folders_that_do_not_fit_are_refused_by_name() {
    type Change = dyn Fn(&Path, &mut Value, &mut Vec<Stored>);
    let cases: [(&Change, &str); 11] = [
        (
            &|_, _, t| t.retain(|t| t.name != UP),
            "expected tensor `model.layers.1.mlp.experts.3.up_proj.weight` of shape [48, 64]",
        ),
        (
            &|_, _, t| t.retain(|t| !t.name.contains("norm")),
            ", as a qwen2_moe model has it, found it missing and 4 others",
        ),
        (
            &|_, _, t| t.push(Stored::zeros("model.layers.2.mlp.x", "F32", &[1])),
            "`model.layers.2.mlp.x`: expected no such tensor",
        ),
        (
            &|_, _, t| t.push(Stored::zeros("lm_head.bias", "F32", &[1])),
            "`lm_head.bias`: expected no such tensor in a qwen2_moe model",
        ),
        (
            &|_, _, t| {
                let i = find(t, UP);
                t[i] = Stored::zeros(UP, "F32", &[64, 48]);
            },
            "up_proj.weight`: expected shape [48, 64], as config.json has it, got [64, 48]",
        ),
        (
            &|_, _, t| {
                let i = find(t, UP);
                t[i] = Stored::zeros(UP, "I32", &[48, 64]);
            },
            "up_proj.weight`: expected F32, F16 or BF16, got I32",
        ),
        (
            &|_, _, t| {
                let i = find(t, UP);
                t[i].bytes[4 * (5 * 64 + 7)..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
            },
            "up_proj.weight`: expected finite numbers, got NaN at [5, 7]",
        ),
        (
            &|_, c, _| c["moe_intermediate_size"] = json!(64),
            "expected shape [64, 64], as config.json has it, got [48, 64]",
        ),
        (&|_, c, _| c["num_experts"] = json!(9), "expected shape [9, 64], as config.json has it, got [8, 64]"),
        (&|_, c, _| c["hidden_act"] = json!("gelu"), "config.json: hidden_act: only \"silu\" is supported, got gelu"),
        (&|_, c, _| *c = json!([]), "config.json: expected an object, got []"),
    ];
    for (change, wanted) in cases {
        let error = refused(change);
        assert!(error.starts_with("checkpoint ") && error.contains(wanted), "expected `{wanted}` in: {error}");
    }
    // Each number of 16 bits is looked at, too.
    for (dtype, bits) in [("BF16", 0x7f80u16), ("F16", 0xfc00)] {
        let error = refused(|_, c, t| {
            *t = tensors(c, dtype);
            let i = find(t, UP);
            t[i].bytes[2 * (47 * 64 + 63)..].copy_from_slice(&bits.to_le_bytes());
        });
        assert!(error.contains("finite numbers, got ") && error.ends_with("inf at [47, 63]"), "{error}");
    }
    let tied = refused(|_, c, t| {
        c["tie_word_embeddings"] = json!(true);
        let i = find(t, "lm_head.weight");
        t[i] = Stored::zeros("lm_head.weight", "F32", &[64, 256]);
    });
    assert!(tied.contains("`lm_head.weight`: expected shape [256, 64]"), "{tied}");
}

#[test]
fn damaged_files_are_refused_before_anything_is_allocated() {
    let file = |bytes: &dyn Fn(&[Stored]) -> Vec<u8>| {
        refused(|dir, config, stored| {
            fs::write(dir.join("config.json"), config.to_string()).unwrap();
            fs::write(dir.join("model.safetensors"), bytes(stored)).unwrap();
        })
    };
    let whole = |t: &[Stored]| with_header(&header(t), t);
    let cut = file(&|t| whole(t)[..whole(t).len() - 1].to_vec());
    assert!(cut.contains("truncated: expected "), "{cut}");
    let long = file(&|_| [&(1u64 << 20).to_le_bytes()[..], b"{}"].concat());
    assert!(long.contains("truncated: expected a header of 1048576 bytes, got 2"), "{long}");
    let overlapping = file(&|t| {
        let mut header = header(t);
        let first = header[&t[0].name]["data_offsets"].clone();
        header[&t[1].name]["data_offsets"] = first;
        with_header(&header, t)
    });
    assert!(overlapping.contains("bytes from"), "{overlapping}");
    let large = file(&|t| {
        let mut header = header(t);
        header[UP]["shape"] = json!([160_000, 160_000]);
        with_header(&header, t)
    });
    assert!(large.contains("expected 102400000000 bytes from"), "{large}");
    let pointer = file(&|_| b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 987654321\n".to_vec());
    assert!(pointer.contains("a Git LFS pointer that stands for a file of 987654321 bytes"), "{pointer}");
    let dir = tempfile::tempdir().unwrap();
    let config = config("qwen2_moe", |_| ());
    write_folder(dir.path(), &config, &tensors(&config, "F32"), 3);
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    let shard = FamilyCheckpoint::open(dir.path()).unwrap_err().to_string();
    assert!(shard.contains("names the shard model-00002-of-00003.safetensors"), "{shard}");
    let one = FamilyCheckpoint::open(&dir.path().join("model-00001-of-00003.safetensors")).unwrap_err().to_string();
    assert!(one.contains("expected a whole model: this is one shard, number 1 of 3; give their folder"), "{one}");
    fs::remove_file(dir.path().join("config.json")).unwrap();
    write_folder(&dir.path().join("x"), &config, &tensors(&config, "F32"), 1);
    fs::remove_file(dir.path().join("x/config.json")).unwrap();
    let none = FamilyCheckpoint::open(&dir.path().join("x")).unwrap_err().to_string();
    assert!(none.contains("x/config.json: expected a config.json, which says what the model is, found none"), "{none}");
}
