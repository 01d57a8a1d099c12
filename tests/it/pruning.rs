//! Experts that are switched off, and the advice on which: a model without them computes the same, a copy is found and
//! costs nothing.

use std::fs;

use crate::common::families;
use crate::common::place::Place;
use crate::common::{download, gpu};
use crate::fixtures_support::root;
use pollster::block_on;
use sdmoe::analysis::jacobian::{Experts, JacobianOptions, jacobians};
use sdmoe::analysis::observe::observe;
use sdmoe::analysis::prune::{order, prune};
use sdmoe::analysis::record::{Analysis, PrunedLayer};
use sdmoe::analysis::saliency::saliency;
use sdmoe::autograd::Tape;
use sdmoe::data::Batch;
use sdmoe::data::sources::{self, SourceWindows};
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::{ExpertMatrix, ModelConfig, Preset, Score};
use sdmoe::nn::mask::ExpertMask;
use sdmoe::nn::model::Model;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::evaluate::evaluate;
use sdmoe::train::pretrained::Pretrained;

/// A model without the experts `off` of each layer that has experts, as many in each.
fn without(gpu: &Gpu, model: &Model, off: &[Vec<usize>]) -> Model {
    let mut config: ModelConfig = model.config().clone();
    let experts = config.moe.experts;
    config.moe.experts -= off[0].len();
    let layers = config.moe_layers();
    let smaller = Model::new(gpu, &config).unwrap();
    let gone = |name: &str| {
        let number: usize = name.split('.').nth(1).and_then(|n| n.parse().ok())?;
        layers.iter().position(|&l| l == number && name.contains(".moe.")).map(|place| &off[place])
    };
    // Parts of `size` numbers each, of which every `experts`-th belongs to the same expert.
    let keep = |all: Vec<f32>, size: usize, off: &[usize]| -> Vec<f32> {
        let parts = all.chunks(size).enumerate();
        parts.filter(|(i, _)| !off.contains(&(i % experts))).flat_map(|(_, part)| part.to_vec()).collect()
    };
    let value = |name: &str| model.params().iter().find(|p| p.name == name).map(|p| download(&p.value)).unwrap();
    let write = |name: &str, _: &[usize]| {
        let all = value(name);
        Ok(Some(match gone(name) {
            Some(off) if name.contains(".experts.") => keep(all.clone(), all.len() / experts, off),
            Some(off) if name.ends_with(".router") => keep(all, 1, off),
            _ => all,
        }))
    };
    smaller.params().write(write).unwrap();
    for ((name, state), (_, whole)) in smaller.state().iter().zip(model.state()) {
        state.write_f32(&keep(download(&whole), 1, gone(name).unwrap())).unwrap();
    }
    smaller
}

/// The logits, and each layer's choices.
fn forward(
    gpu: &Gpu,
    model: &Model,
    tokens: &[u32],
    seq: usize,
    mask: Option<&ExpertMask>,
) -> (Vec<f32>, Vec<Vec<u32>>) {
    let mut tape = Tape::new(gpu);
    let pass = with!(Pass<'_> { mask, ..Pass::plain(model.params(), seq, Mode::Inference) });
    let output = model.forward(&mut tape, &pass, &Tensor::from_u32(gpu, [tokens.len()], tokens).unwrap()).unwrap();
    let choices = output.routings.iter().map(|r| block_on(r.index.to_u32()).unwrap()).collect();
    (download(tape.value(output.logits)), choices)
}

/// Own models with softmax and sigmoid scores, and two published families.
fn models(gpu: &Gpu) -> Vec<(&'static str, Model)> {
    let mut config = RunConfig::preset(Preset::Tiny).model;
    (config.d_model, config.layers) = (32, 2);
    (config.heads, config.kv_heads, config.head_dim) = (2, 1, 16);
    (config.moe.experts, config.moe.d_expert, config.moe.d_shared) = (8, 24, 16);
    let mut sigmoid = config.clone();
    (sigmoid.moe.score, sigmoid.moe.choice_bias) = (Score::Sigmoid, true);
    let own = [("softmax", config), ("sigmoid", sigmoid)].map(|(name, config)| {
        let model = Model::new(gpu, &config).unwrap();
        model.init(5).unwrap();
        // Routers of a fresh model hardly tell tokens apart.
        for layer in 0..2 {
            let router = model.router(layer).unwrap();
            router.write_f32(&download(router).iter().map(|x| 40.0 * x).collect::<Vec<_>>()).unwrap();
        }
        for (_, bias) in model.state() {
            bias.write_f32(&(0..8).map(|e| 0.02 * e as f32).collect::<Vec<_>>()).unwrap();
        }
        (name, model)
    });
    let families = ["qwen2_moe", "deepseek_v3"]
        .map(|family| (family, Pretrained::open(&root().join("hf").join(family)).unwrap().load(gpu).unwrap()));
    own.into_iter().chain(families).collect()
}

#[test]
fn a_model_with_experts_switched_off_computes_what_one_without_them_does() {
    let (gpu, seq) = (gpu(), 24);
    let tokens: Vec<u32> = (0..2 * seq as u32).map(|i| (i * i * 7 + i * 13 + 5) % 251).collect();
    for (name, model) in models(&gpu) {
        let (moe, layers) = (&model.config().moe, model.config().moe_layers().len());
        // Of groups of experts one each, so that they stay of one size.
        let each = moe.experts / moe.groups;
        let off: Vec<Vec<usize>> = (0..layers)
            .map(|l| match moe.groups {
                1 => vec![l, l + 3],
                groups => (0..groups).map(|g| g * each + (g + l) % each).collect(),
            })
            .collect();
        let mask = ExpertMask::new(&gpu, moe.experts, moe.top_k, &off).unwrap();
        let (plain, before) = forward(&gpu, &model, &tokens, seq, None);
        let (masked, after) = forward(&gpu, &model, &tokens, seq, Some(&mask));
        for (l, off) in off.iter().enumerate() {
            let met = |choices: &[u32]| off.iter().filter(|e| choices.contains(&(**e as u32))).count();
            assert!(met(&before[l]) > 0 && met(&after[l]) == 0, "{name}, layer {l}: {off:?}");
        }
        let (smaller, choices) = forward(&gpu, &without(&gpu, &model, &off), &tokens, seq, None);
        for (l, off) in off.iter().enumerate() {
            let left: Vec<u32> = (0..moe.experts).filter(|e| !off.contains(e)).map(|e| e as u32).collect();
            let named: Vec<u32> = choices[l].iter().map(|&e| left[e as usize]).collect();
            assert_eq!(after[l], named, "{name}, layer {l}");
        }
        let largest = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(largest(&masked, &smaller) < 2e-5, "{name}: {}", largest(&masked, &smaller));
        assert!(largest(&masked, &plain) > 1e-3, "{name}: nothing changed");
        // All on: the same bits.
        let none = ExpertMask::new(&gpu, moe.experts, moe.top_k, &vec![vec![]; layers]).unwrap();
        assert_eq!(forward(&gpu, &model, &tokens, seq, Some(&none)).0, plain, "{name}");
        // No more than a token visits, in every group one: they are visited, whatever the groups.
        let few: Vec<usize> = match moe.groups {
            1 => (0..moe.top_k).collect(),
            _ => (0..moe.top_k).map(|g| g * each).collect(),
        };
        let rest: Vec<usize> = (0..moe.experts).filter(|e| !few.contains(e)).collect();
        let mask = ExpertMask::new(&gpu, moe.experts, moe.top_k, &vec![rest.clone(); layers]).unwrap();
        for choices in forward(&gpu, &model, &tokens, seq, Some(&mask)).1 {
            for token in choices.chunks(moe.top_k) {
                let mut token: Vec<usize> = token.iter().map(|e| *e as usize).collect();
                token.sort_unstable();
                assert_eq!(token, few, "{name}");
            }
        }
        let too_many: Vec<usize> = rest.into_iter().chain([few[0]]).collect();
        let refused =
            |off: &[usize]| ExpertMask::new(&gpu, moe.experts, moe.top_k, &[off.to_vec()]).unwrap_err().to_string();
        assert!(refused(&too_many).contains("expected to leave the"), "{}", refused(&too_many));
        assert!(refused(&[moe.experts]).contains("expected experts below"), "{}", refused(&[moe.experts]));
    }
}

/// A run of a second or two with one expert a token.
fn small(steps: u64) -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.d_model, config.model.layers) = (32, 2);
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 16);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (8, 24, 0);
    (config.model.moe.top_k, config.model.moe.renormalize) = (1, true);
    (config.train.steps, config.train.batch, config.train.seq, config.train.eval_every) = (steps, 4, 32, steps);
    config.optimizer.warmup_steps = 1;
    config.spectral.enabled = false;
    config.model.moe.balance_bias = 0.0;
    config.data.paths = vec!["text".into()];
    config
}

fn text() -> Place {
    let place = Place::new();
    let words = "the quick brown fox jumps over the lazy dog, and the sphinx of quartz judges its vow. ".repeat(40);
    place.write("text", words + &(0..600).map(|n| (n * n).to_string() + ", ").collect::<String>());
    place
}

/// A model whose experts matter much: their outputs and the logits of a fresh one are enlarged.
fn strong(gpu: &Gpu) -> Model {
    let model = Model::new(gpu, &small(1).model).unwrap();
    model.init(7).unwrap();
    let factor = |name: &str| match name {
        "embed.weight" => 20.0,
        name if name.ends_with(".router") => 40.0,
        name if name.ends_with(".experts.down") => 3.0,
        _ => 1.0,
    };
    for param in model.params().iter() {
        let scaled: Vec<f32> = download(&param.value).iter().map(|x| factor(&param.name) * x).collect();
        param.value.write_f32(&scaled).unwrap();
    }
    model
}

/// Next tokens drawn from the model itself: on such a text no other model has a lower loss, but for the luck of the draw.
fn own_text(gpu: &Gpu, model: &Model, seq: usize, windows: usize) -> SourceWindows {
    let mut state = 12_345u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64
    };
    let tokens: Vec<u32> = (0..windows * seq).map(|_| (uniform() * 256.0) as u32).collect();
    let (logits, _) = forward(gpu, model, &tokens, seq, None);
    let targets = logits.chunks(256).map(|row| {
        let powers: Vec<f64> = row.iter().map(|&x| f64::from(x).exp()).collect();
        let mut rest = uniform() * powers.iter().sum::<f64>();
        let drawn = powers.iter().position(|p| {
            rest -= p;
            rest < 0.0
        });
        drawn.unwrap_or(255) as u32
    });
    SourceWindows { batch: Batch { targets: targets.collect(), tokens }, source: vec![0; windows] }
}

#[test]
fn a_copy_of_an_expert_goes_first_and_costs_less_than_a_random_one() {
    let (gpu, seq) = (gpu(), 32);
    let model = strong(&gpu);
    // Expert 5 becomes a copy of expert 2 that half of that one's tokens go to.
    for layer in 0..2 {
        for matrix in ExpertMatrix::ALL {
            let bank = model.experts(layer, matrix).unwrap();
            let (mut all, size) = (download(bank), bank.numel() / 8);
            all.copy_within(2 * size..3 * size, 5 * size);
            bank.write_f32(&all).unwrap();
        }
        let router = model.router(layer).unwrap();
        let mut all = download(router);
        all.chunks_mut(8).enumerate().for_each(|(i, row)| row[5] = row[2] + if i % 2 == 0 { 1e-5 } else { -1e-5 });
        router.write_f32(&all).unwrap();
    }
    let windows = own_text(&gpu, &model, seq, 32);
    let seen = block_on(observe(&gpu, &model, seq, &windows, 0)).unwrap();
    let orders: Vec<PrunedLayer> = (0..2)
        .map(|layer| {
            let routed = seen.routed(layer);
            let x = Tensor::from_f32(&gpu, [8, 32], &routed.x[64 * 32..72 * 32]).unwrap();
            let [gate, up, down] = ExpertMatrix::ALL.map(|m| model.experts(layer, m).unwrap());
            let found = jacobians(&gpu, layer, Experts { gate, up, down }, &x, JacobianOptions::default());
            let outputs = saliency(layer, &seen.layers[layer], routed, 0.0);
            order(&block_on(found).unwrap().mean_of_cosines, &outputs)
        })
        .collect();
    for layer in &orders {
        let first = layer.redundancy[0];
        assert!([(2, Some(5)), (5, Some(2))].contains(&(first.expert, first.like)), "{first:?}");
        assert!(first.alignment.unwrap() > 0.9999, "{first:?}");
        let alignments: Vec<f64> = layer.redundancy.iter().filter_map(|r| r.alignment).collect();
        assert!(alignments.is_sorted_by(|a, b| a >= b) && layer.redundancy.len() == 8, "{alignments:?}");
    }
    let found = block_on(prune(&gpu, &model, (seq, &windows), orders, 1)).unwrap();
    assert_eq!(found.steps.iter().map(|s| s.off).collect::<Vec<_>>(), [1, 2, 4]);
    let step = &found.steps[0];
    let (cost, random) = (step.redundancy - found.loss, step.random_mean().unwrap() - found.loss);
    assert!(cost.abs() < 1e-4, "the copy computes the same: {cost}");
    assert!(random > 1e-2 && random > 10.0 * cost.abs(), "one at random costs {random}: {step:?}");
}

#[test]
fn the_program_says_what_pruning_costs_and_which_experts_to_keep() {
    let (place, gpu) = (text(), gpu());
    let mut config = small(4);
    (config.model.moe.top_k, config.model.moe.experts) = (5, 8);
    place.write("run.toml", config.to_toml().unwrap());
    place.runs("train --config run.toml --out run --quiet --report off");
    let said = place.runs("analyze run --data text --tokens 256 --out out --prune");
    assert!(said.contains("Loss added without 2 of 8, by redundancy"), "{said}");
    let record = |file: &str| serde_json::from_str::<Analysis>(&place.read(file)).unwrap();
    assert!(said.contains("\n4 of 8 experts off were left out: ") && said.contains("experts to keep: out/keep.json"));
    let whole = record("out/analysis.json");
    assert!(whole.outputs.iter().all(|o| o.shared_share.is_none() && o.routed_energy.is_some()), "no shared expert");
    let found = whole.pruning.unwrap();
    assert_eq!((found.experts, found.top_k, found.layers.len()), (8, 5, 2));
    assert_eq!(found.steps.iter().map(|s| s.off).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(found.left_out, ["4 of 8 experts off were left out: 4 would remain, and a token visits 5"]);
    // The losses are those of models without the experts.
    let model = Pretrained::open(&place.path("run")).unwrap().load(&gpu).unwrap();
    let batch = sources::windows(&sources::read(&[place.path("text")]).unwrap(), 8, 32).unwrap().batch;
    let loss = |model: &Model| f64::from(block_on(evaluate(&gpu, model, 32, [batch.clone()])).unwrap().loss);
    assert!((loss(&model) - found.loss).abs() < 1e-5);
    let keep: serde_json::Value = serde_json::from_str(&place.read("out/keep.json")).unwrap();
    assert_eq!((keep["experts"].as_u64(), keep["tokens"].as_u64()), (Some(8), Some(256)));
    let sets = keep["sets"].as_array().unwrap();
    assert_eq!(sets.len(), 4);
    for set in sets {
        let kept = |l: usize| -> Vec<usize> { serde_json::from_value(set["layers"][l]["keep"].clone()).unwrap() };
        let off: Vec<Vec<usize>> = (0..2).map(|l| (0..8).filter(|e| !kept(l).contains(e)).collect()).collect();
        assert!(off.iter().all(|off| off.len() as u64 == set["off"].as_u64().unwrap()), "{set}");
        let (want, got) = (loss(&without(&gpu, &model, &off)), set["loss"].as_f64().unwrap());
        assert!((want - got).abs() < 1e-5, "{want} for {set}");
        assert_eq!(set["random"].as_array().unwrap().len(), 3);
    }
    let page = place.read("out/report.html");
    assert!(page.contains("id=\"pruning-loss\"") && page.contains("4 would remain, and a token visits 5."));
    // A report that did not ask leaves no older answer behind.
    place.runs("analyze run --data text --tokens 64 --out out --layers 0");
    assert!(!place.path("out/keep.json").exists() && record("out/analysis.json").pruning.is_none());

    place.fails("analyze run --prune --out x", "--data");
    let folder = |name: &str, experts: usize, top_k: usize| {
        let config = families::config("mixtral", |c| {
            (c["num_local_experts"], c["num_experts_per_tok"]) = (experts.into(), top_k.into());
        });
        families::write_folder(&place.path(name), &config, &families::tensors(&config, "F32"), 1);
    };
    folder("one", 1, 1);
    place.fails(
        "analyze one --data text --prune --out x",
        "--prune: one: expected at least 2 experts in a layer, got 1",
    );
    // All experts for every token: none can go.
    folder("all", 4, 4);
    place.runs("analyze all --data text --prune --tokens 32 --out y");
    let found = record("y/analysis.json").pruning.unwrap();
    assert!(found.steps.is_empty() && found.left_out.len() == 2, "{found:?}");
    assert!(fs::read_to_string(place.path("y/report.html")).unwrap().contains("a token visits 4"));
}
