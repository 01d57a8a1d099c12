//! `config.json` of published families: the model that each describes, its tensors, and what is refused by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::fixtures_support::{entries, root};
use sdmoe::nn::config::{GroupScore, ModelConfig, Pairing, QkNorm, Score, SharedGate, YarnConfig};
use sdmoe::nn::families::{Family, FamilyModel, Layout, TensorMap};
use serde_json::{Value, json};

/// The folders of whole models: those that are found, never none.
fn models() -> Vec<PathBuf> {
    let group = root().join("hf");
    let found = entries(&group, true).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.len() >= 6, "found only {found:?}");
    found.iter().map(|name| group.join(name)).collect()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn parse(config: &Value) -> FamilyModel {
    FamilyModel::parse(&config.to_string()).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(config: &Value) -> String {
    let error = FamilyModel::parse(&config.to_string()).expect_err("a bad config").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

/// The config of a fixture with some fields set.
fn changed(family: &str, fields: Value) -> Value {
    let mut config = json(root().join("hf").join(family).join("config.json"));
    let fields = fields.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(fields);
    config
}

#[test]
fn a_config_means_the_same_as_published_and_as_transformers_5_writes_it() {
    for folder in models() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let (old, new) = (parse(&json(folder.join("config.json"))), parse(&json(folder.join("config_v5.json"))));
        assert_eq!(old.config, new.config, "{name}");
        assert_eq!((old.family, old.context, old.eos), (new.family, new.context, new.eos), "{name}");
        assert_eq!(old.family.name(), name);
        assert_eq!(old.dtype.as_deref(), Some("float32"));
        assert_eq!((old.unknown, new.unknown), (vec![], vec![]), "{name}");
        assert!(old.ignored.iter().any(|f| f == "use_cache"), "{:?}", old.ignored);
        old.config.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn the_tensors_of_each_family_are_those_that_files_have() {
    for folder in models() {
        let model = parse(&json(folder.join("config.json")));
        let files = json(folder.join("manifest.json"))["files"].clone();
        let stored = files["model.safetensors"]["meta"]["tensors"].as_object().unwrap();
        let shape = |shape: &Value| shape.as_array().unwrap().iter().map(|s| s.as_u64().unwrap() as usize).collect();
        let stored: BTreeMap<&str, Vec<usize>> = stored.iter().map(|(n, s)| (n.as_str(), shape(s))).collect();
        let map = TensorMap::new(model.family, &model.config, Layout::PerExpert);
        let ours: BTreeMap<&str, Vec<usize>> = map.tensors.iter().map(|t| (t.name.as_str(), t.shape.clone())).collect();
        assert_eq!(ours, stored, "{}", folder.display());
        covers(&map);
        let fused = TensorMap::new(model.family, &model.config, Layout::Fused);
        covers(&fused);
        assert_eq!(fused.parameters, map.parameters);
        let trained = json(folder.join("expected.json"))["n_params"].as_u64().unwrap() as usize;
        assert_eq!(map.numel(), trained, "{}", folder.display());
    }
}

/// Every number of every parameter, and of every tensor, is in one piece.
fn covers(map: &TensorMap) {
    let mut filled: Vec<Vec<(usize, usize)>> = vec![Vec::new(); map.parameters.len()];
    for tensor in &map.tensors {
        let mut at = 0;
        for piece in &tensor.pieces {
            assert_eq!(piece.first, at, "{}", tensor.name);
            at += piece.rows * piece.columns;
            filled[piece.parameter].push((piece.offset, piece.rows * piece.columns));
        }
        assert_eq!(at, tensor.shape.iter().product::<usize>(), "{}", tensor.name);
    }
    for (parameter, mut pieces) in map.parameters.iter().zip(filled) {
        pieces.sort();
        let end = pieces.iter().fold(0, |at, (offset, numel)| {
            assert_eq!(*offset, at, "{}", parameter.name);
            at + numel
        });
        assert_eq!(end, parameter.numel(), "{}", parameter.name);
    }
}

#[test]
fn each_setting_of_a_family_is_the_one_that_its_model_computes_with() {
    let qwen = parse(&changed("qwen2_moe", json!({ "mlp_only_layers": [0], "eos_token_id": [7, 9] })));
    assert_eq!(qwen.eos, [7, 9]);
    let c = &qwen.config;
    assert_eq!((c.vocab, c.d_model, c.layers, c.heads, c.kv_heads, c.head_dim), (256, 64, 2, 4, 2, 16));
    assert_eq!((&c.dense_layers[..], c.d_dense, c.tied_head), (&[0][..], 96, false));
    assert!(c.attention.qkv_bias && !c.attention.output_bias && !c.moe.renormalize);
    assert_eq!((c.moe.experts, c.moe.top_k, c.moe.d_expert, c.moe.d_shared), (8, 2, 48, 96));
    assert_eq!((c.moe.shared_gate, c.moe.balance_loss, c.moe.z_loss), (SharedGate::Sigmoid, 0.01, 0.0));

    let mixtral = parse(&changed("mixtral", json!({ "sliding_window": 12 }))).config;
    assert_eq!((mixtral.attention.window_of(0), mixtral.attention.window_of(1)), (Some(12), Some(12)));
    assert!(mixtral.moe.renormalize);
    assert_eq!((mixtral.rope_theta, mixtral.norm_eps, mixtral.moe.d_expert, mixtral.d_dense), (1e6, 1e-5, 80, 0));

    let olmoe = parse(&changed("olmoe", json!({ "clip_qkv": 8.0 }))).config;
    assert_eq!((olmoe.attention.qk_norm, olmoe.attention.clip_qkv), (QkNorm::Whole, Some(8.0)));

    let qwen3 = parse(&changed("qwen3_moe", json!({ "decoder_sparse_step": 2 }))).config;
    assert_eq!((qwen3.attention.qk_norm, qwen3.head_dim, &qwen3.dense_layers[..]), (QkNorm::Head, 24, &[0][..]));
    assert!(qwen3.moe.renormalize && qwen3.moe.d_shared == 0);

    let groups = json!({ "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "q_lora_rank": 24 });
    let v2 = parse(&changed("deepseek_v2", groups)).config;
    let latent = v2.attention.latent.unwrap();
    assert_eq!((latent.q_rank, latent.kv_rank, latent.rope_dim, latent.value_dim), (Some(24), 32, 8, 16));
    assert_eq!((v2.head_dim, v2.attention.rope_pairs, latent.norm_eps), (24, Pairing::Neighbours, 1e-6));
    assert_eq!((v2.moe.groups, v2.moe.groups_kept, v2.moe.group_score), (4, 2, GroupScore::Largest));
    assert_eq!((v2.moe.scaling, v2.moe.d_shared, v2.moe.shared_gate), (2.5, 96, SharedGate::None));
    assert_eq!((&v2.dense_layers[..], v2.d_dense, v2.moe.balance_loss), (&[0][..], 96, 0.0));
    let greedy = parse(&changed("deepseek_v2", json!({ "n_group": 4, "topk_group": 2 }))).config;
    assert_eq!(greedy.moe.groups, 1);

    let v3 = parse(&changed("deepseek_v3", json!({ "num_nextn_predict_layers": 2 })));
    assert_eq!(v3.later_layers, 2);
    let moe = &v3.config.moe;
    assert_eq!((moe.score, moe.groups, moe.groups_kept), (Score::Sigmoid, 3, 2));
    assert_eq!((moe.choice_bias, moe.group_score, moe.renormalize), (true, GroupScore::TwoLargest, true));
}

#[test]
fn windows_are_in_the_layers_that_have_them() {
    let windows = |family: &str, fields: Value| {
        let config = parse(&changed(family, fields)).config;
        (0..config.layers).map(|l| config.attention.window_of(l)).collect::<Vec<_>>()
    };
    let on = json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": null });
    assert_eq!(windows("qwen2_moe", on.clone()), [Some(9), None]);
    assert_eq!(windows("qwen3_moe", on), [Some(9), Some(9)]);
    let types = json!(["full_attention", "sliding_attention"]);
    let listed = json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": types });
    assert_eq!(windows("qwen2_moe", listed), [None, Some(9)]);
    assert_eq!(windows("qwen2_moe", json!({ "sliding_window": 9 })), [None, None]);
    let mut dense = dense("qwen2");
    for (field, value) in
        [("use_sliding_window", json!(true)), ("sliding_window", json!(5)), ("max_window_layers", json!(1))]
    {
        dense[field] = value;
    }
    let config = parse(&dense).config;
    assert_eq!((config.attention.window_of(0), config.attention.window_of(1)), (None, Some(5)));
    for (fields, wanted) in [
        (json!({ "layer_types": types }), "layer_types: expected no `sliding_attention`"),
        (json!({ "use_sliding_window": true, "layer_types": types }), "sliding_window: expected a whole number from 1"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types: expected num_hidden_layers = 2 of them, got 1"),
        (json!({ "layer_types": ["full_attention", "chunked_attention"] }), "got `chunked_attention`"),
    ] {
        let error = refused(&changed("qwen2_moe", fields));
        assert!(error.contains(wanted), "expected `{wanted}` in: {error}");
    }
}

#[test]
fn yarn_has_the_factors_of_the_fixtures() {
    let mut cases = 0;
    for folder in models() {
        let expected = json(folder.join("expected.json"));
        let Some(yarn) = expected.get("yarn") else { continue };
        let mut flat = json(folder.join("config.json"));
        let mut inner = yarn.clone();
        inner.as_object_mut().unwrap().remove("rope_theta");
        let kind = inner.as_object_mut().unwrap().remove("rope_type").unwrap();
        inner["type"] = kind;
        flat["rope_scaling"] = inner;
        let mut v5 = json(folder.join("config_v5.json"));
        v5["rope_parameters"] = yarn.clone();
        let config = parse(&flat).config;
        assert_eq!(config, parse(&v5).config);
        let got = config.attention.yarn.unwrap();
        assert_eq!((got.factor, got.original_context, got.beta_fast, got.beta_slow), (8.0, 32, 32.0, 1.0));
        let close = |got: f64, field: &str| {
            let wanted = expected[field].as_f64().unwrap();
            assert!((got - wanted).abs() < 1e-6, "{field}: {got}, expected {wanted}");
        };
        close(f64::from(got.rotary_factor), "yarn_cis_scaling");
        close(f64::from(got.score_factor) / (config.head_dim as f64).sqrt(), "yarn_softmax_scaling");
        cases += 1;
    }
    assert!(cases >= 2);
    // A family without a factor on its scores: 0.1 ln(4) + 1 on cosines and sines.
    let mut dense = dense("qwen2");
    dense["rope_scaling"] = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 });
    let mut wanted = YarnConfig::new(4.0, 32);
    wanted.rotary_factor = 1.138_629_4;
    assert_eq!(parse(&dense).config.attention.yarn, Some(wanted));
}

/// A dense family's config, as published.
fn dense(family: &str) -> Value {
    json!({
        "architectures": [format!("{family}ForCausalLM")], "model_type": family, "vocab_size": 256, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "rope_theta": 10000.0, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "use_cache": true,
        "attention_dropout": 0.0, "initializer_range": 0.02,
    })
}

#[test]
fn dense_families_have_no_layer_with_experts() {
    for (family, biases, norm) in [
        ("llama", (false, false), QkNorm::None),
        ("qwen2", (true, false), QkNorm::None),
        ("qwen3", (false, false), QkNorm::Head),
    ] {
        let model = parse(&dense(family));
        assert!(!model.family.has_experts() && model.config.tied_head);
        assert_eq!((model.bos, &model.eos[..]), (Some(1), &[2][..]));
        let c: &ModelConfig = &model.config;
        assert_eq!((&c.dense_layers[..], c.d_dense, c.moe_layers().len()), (&[0, 1][..], 96, 0), "{family}");
        assert_eq!((c.attention.qkv_bias, c.attention.output_bias), biases, "{family}");
        assert_eq!(c.attention.qk_norm, norm);
        c.validate().unwrap();
        let map = TensorMap::new(model.family, c, Layout::PerExpert);
        assert!(map.tensors.iter().all(|t| t.name != "lm_head.weight" && !t.name.contains("experts")));
        assert_eq!(map.active(c), map.numel());
        covers(&map);
    }
    let mut biased = dense("llama");
    biased["attention_bias"] = json!(true);
    let model = parse(&biased);
    let map = TensorMap::new(Family::Llama, &model.config, Layout::PerExpert);
    assert!(map.tensors.iter().any(|t| t.name == "model.layers.1.self_attn.o_proj.bias" && t.shape == [64]));
}

#[test]
fn published_configs_are_understood() {
    for (text, family, layers, parameters, active) in PUBLISHED {
        let model = FamilyModel::parse(text).unwrap_or_else(|e| panic!("{family:?}: {e}"));
        assert_eq!((model.family, model.unknown.len()), (family, 0), "{:?}", model.unknown);
        assert_eq!(model.config.layers, layers);
        let map = TensorMap::new(family, &model.config, Layout::PerExpert);
        let billions = |n: usize| (n as f64 / 1e7).round() / 100.0;
        assert_eq!((billions(map.numel()), billions(map.active(&model.config))), (parameters, active), "{family:?}");
    }
}

/// `config.json` of models on the hub, what does not matter left out: family, layers, billions of parameters and of active ones.
const PUBLISHED: [(&str, Family, usize, f64, f64); 5] = [
    // Qwen/Qwen1.5-MoE-A2.7B
    (
        r#"{"architectures": ["Qwen2MoeForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
        "max_position_embeddings": 8192, "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408,
        "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 16, "output_router_logits": false, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.39.0.dev0",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 151936}"#,
        Family::Qwen2Moe,
        24,
        14.32,
        2.69,
    ),
    // mistralai/Mixtral-8x7B-v0.1
    (
        r#"{"architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": false,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0", "use_cache": true,
        "vocab_size": 32000}"#,
        Family::Mixtral,
        32,
        46.7,
        12.88,
    ),
    // deepseek-ai/DeepSeek-V2-Lite
    (
        r#"{"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"}, "aux_loss_alpha": 0.001, "bos_token_id": 100000,
        "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 10944, "kv_lora_rank": 512, "max_position_embeddings": 163840,
        "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64,
        "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16, "num_experts_per_tok": 6,
        "num_hidden_layers": 27, "num_key_value_heads": 16, "pretraining_tp": 1, "q_lora_rank": null, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
        "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": true,
        "tie_word_embeddings": false, "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1", "use_cache": true, "v_head_dim": 128, "vocab_size": 102400}"#,
        Family::DeepseekV2,
        27,
        15.71,
        2.66,
    ),
    // Qwen/Qwen3-30B-A3B
    (
        r#"{"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
        "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
        "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": true,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151936}"#,
        Family::Qwen3Moe,
        48,
        30.53,
        3.35,
    ),
    // deepseek-ai/DeepSeek-V3 without its quantization_config, as copies in bf16 have it
    (
        r#"{"architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "bos_token_id": 0, "eos_token_id": 1,
        "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
        "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
        "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
        "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": false,
        "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1",
        "use_cache": true, "v_head_dim": 128, "vocab_size": 129280}"#,
        Family::DeepseekV3,
        61,
        671.03,
        37.55,
    ),
];

#[test]
fn a_field_that_changes_the_computation_and_is_not_supported_is_named() {
    for (family, fields, wanted) in [
        ("qwen2_moe", json!({ "model_type": "gpt2" }), "model_type: expected one of qwen2_moe, "),
        ("qwen2_moe", json!({ "model_type": null }), "model_type: expected one of"),
        ("qwen2_moe", json!({ "architectures": ["Qwen2MoeForSequenceClassification"] }), "architectures: expected"),
        ("qwen2_moe", json!({ "hidden_act": "gelu" }), "hidden_act: only \"silu\" is supported, got gelu"),
        ("qwen2_moe", json!({ "hidden_size": null }), "hidden_size: expected a whole number from 1 to"),
        ("qwen2_moe", json!({ "hidden_size": "64" }), "hidden_size: expected a whole number from 1 to 1048576, got 64"),
        ("qwen2_moe", json!({ "hidden_size": -64 }), "hidden_size: expected a whole number"),
        (
            "qwen2_moe",
            json!({ "num_hidden_layers": 1e12 as u64 }),
            "num_hidden_layers: expected a whole number from 1 to",
        ),
        (
            "qwen2_moe",
            json!({ "num_attention_heads": 6 }),
            "num_attention_heads: expected a divisor of hidden_size = 64",
        ),
        ("qwen2_moe", json!({ "num_key_value_heads": 3 }), "num_key_value_heads: expected a divisor of num_attention"),
        ("qwen2_moe", json!({ "num_experts_per_tok": 9 }), "num_experts_per_tok: expected at most the number of"),
        (
            "qwen2_moe",
            json!({ "num_local_experts": 9 }),
            "num_local_experts: expected the value of num_experts, 8, got 9",
        ),
        (
            "qwen2_moe",
            json!({ "mlp_only_layers": [2] }),
            "mlp_only_layers: expected layers below num_hidden_layers = 2",
        ),
        (
            "qwen2_moe",
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }),
            "rope_scaling.rope_type: only",
        ),
        ("qwen2_moe", json!({ "rope_scaling": { "type": "yarn" , "factor": 0.5 } }), "rope_scaling.factor: expected"),
        ("qwen2_moe", json!({ "rope_scaling": { "type": "yarn" , "x": 1 } }), "rope_scaling.x: expected no such field"),
        (
            "qwen2_moe",
            json!({ "rope_scaling": { "type": "yarn", "rope_type": "default" } }),
            "rope_scaling.type: expected",
        ),
        ("qwen2_moe", json!({ "rope_scaling": [] }), "rope_scaling: expected an object, got []"),
        (
            "qwen2_moe",
            json!({ "rope_parameters": { "rope_theta": 5.0 } }),
            "rope_parameters.rope_theta: expected the value of",
        ),
        ("qwen2_moe", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor: only 1.0 is supported, got 0.5"),
        ("qwen2_moe", json!({ "rope_theta": 0 }), "rope_theta: expected a number of at least 1"),
        ("qwen2_moe", json!({ "rms_norm_eps": 0 }), "rms_norm_eps: expected a number above 0"),
        (
            "qwen2_moe",
            json!({ "torch_dtype": "float16", "dtype": "bfloat16" }),
            "torch_dtype: expected the value of dtype",
        ),
        ("qwen2_moe", json!({ "quantization_config": { "bits": 4 } }), "quantization_config: expected no such field"),
        ("qwen2_moe", json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping: expected no such field"),
        (
            "qwen2_moe",
            json!({ "num_hidden_layers": 4096, "num_experts": 1024, "layer_types": null }),
            "num_experts: expected at most 65536",
        ),
        ("deepseek_v2", json!({ "attention_bias": true }), "attention_bias: only false is supported, got true"),
        (
            "deepseek_v2",
            json!({ "scoring_func": "sigmoid" }),
            "scoring_func: only \"softmax\" is supported, got sigmoid",
        ),
        ("deepseek_v2", json!({ "norm_topk_prob": true }), "norm_topk_prob: only false is supported"),
        ("deepseek_v2", json!({ "topk_method": "noaux_tc" }), "topk_method: only `greedy` and"),
        ("deepseek_v2", json!({ "moe_layer_freq": 2 }), "moe_layer_freq: only 1 is supported, got 2"),
        ("deepseek_v2", json!({ "qk_head_dim": 16 }), "qk_head_dim: only 24 is supported, got 16"),
        (
            "deepseek_v2",
            json!({ "first_k_dense_replace": 9 }),
            "first_k_dense_replace: expected at most num_hidden_layers",
        ),
        ("deepseek_v2", json!({ "num_key_value_heads": 2 }), "num_key_value_heads: only 4 is supported, got 2"),
        ("deepseek_v3", json!({ "n_group": 5 }), "n_group: expected a divisor of the number of experts, 12, got 5"),
        ("deepseek_v3", json!({ "n_group": 12, "topk_group": 3 }), "n_group: expected groups of at least two"),
        ("deepseek_v3", json!({ "topk_group": 4 }), "topk_group: expected at most n_group = 3, got 4"),
        ("deepseek_v3", json!({ "num_experts_per_tok": 9 }), "num_experts_per_tok: expected at most the 8 experts of"),
        ("olmoe", json!({ "clip_qkv": -1.0 }), "clip_qkv: expected a number above 0"),
        ("mixtral", json!({ "sliding_window": 0 }), "sliding_window: expected a whole number from 1"),
        ("mixtral", json!({ "router_aux_loss_coef": -1 }), "router_aux_loss_coef: expected a number of at least 0"),
    ] {
        let error = refused(&changed(family, fields));
        assert!(error.starts_with("config: ") && error.contains(wanted), "expected `{wanted}` in: {error}");
    }
    for (text, wanted) in [("", "expected a JSON object"), ("[1]", "expected an object, got [1]"), ("{}", "model_type")]
    {
        let error = FamilyModel::parse(text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_field_that_changes_nothing_is_listed() {
    let model = parse(&changed(
        "qwen2_moe",
        json!({ "note": "hello", "attention_dropout": 0.1, "some_bias": false, "logit_scale": null, "extra": {} }),
    ));
    assert_eq!(model.unknown, ["note"]);
    for wanted in ["attention_dropout = 0.1 (training goes without it)", "some_bias", "extra", "initializer_range"] {
        assert!(model.ignored.iter().any(|f| f == wanted), "expected `{wanted}` in {:?}", model.ignored);
    }
    assert!(!model.ignored.iter().any(|f| f == "logit_scale"));
}
