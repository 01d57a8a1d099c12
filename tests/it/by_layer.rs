//! Models run part by part: the bits of the whole model, in the memory of its largest part.

use std::path::Path;

use crate::common::families::{config, tensors, write_folder};
use crate::common::{download, gpu, own_gpu};
use sdmoe::analysis::Controls;
use sdmoe::analysis::data::{DataOptions, add_data};
use sdmoe::analysis::observe::Reading;
use sdmoe::analysis::spectra::SpectrumOptions;
use sdmoe::analysis::whole::{AnalysisOptions, analyze_weights};
use sdmoe::autograd::Tape;
use sdmoe::checkpoint::{ExpertCheckpoint, FamilyCheckpoint};
use sdmoe::data::Batch;
use sdmoe::data::sources::SourceWindows;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::{Groups, tile_rows};
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::nn::part::{ModelPart, ModelParts, Part};
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::ops::CrossEntropy;
use sdmoe::tensor::{DType, Tensor};
use sdmoe::train::by_layer::ByLayer;
use sdmoe::train::perplexity::{Window, perplexity};
use sdmoe::train::pretrained::{Pretrained, Purpose, WeightType};
use serde_json::{Value, json};

/// A folder of a family with some fields of its `config.json` changed.
fn folder(dir: &Path, family: &str, dtype: &'static str, fields: Value) -> FamilyCheckpoint {
    let config = config(family, |config| {
        config["rms_norm_eps"] = 1e-5.into();
        fields.as_object().unwrap().iter().for_each(|(name, value)| config[name] = value.clone());
    });
    write_folder(dir, &config, &tensors(&config, dtype), 2);
    FamilyCheckpoint::open(dir).unwrap()
}

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| i * i * 37 % 89).collect()
}

/// The logits of a text that passes through one part after the other.
fn logits(gpu: &Gpu, model: &ByLayer<'_>, tokens: &[u32], top_k: Option<usize>) -> Vec<f32> {
    let mut x = Tensor::from_u32(gpu, [tokens.len()], tokens).unwrap();
    for part in Part::all(model.config()) {
        let mut tape = Tape::new(gpu);
        let loaded = model.load(part).unwrap();
        let output = loaded.forward(&mut tape, tokens.len(), top_k, &x).unwrap();
        x = tape.value(output).clone();
    }
    download(&x)
}

#[test]
fn the_bits_are_those_of_the_whole_model() {
    let gpu = gpu();
    let cases = [
        // A window, and weights that stay in 16 bits.
        ("mixtral", "BF16", json!({ "sliding_window": 9, "tie_word_embeddings": true })),
        // A dense first layer, shared experts, another attention.
        ("deepseek_v2", "BF16", json!({})),
        // A window in one layer of two, a gated shared expert.
        ("qwen2_moe", "F32", json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": null })),
    ];
    for (family, dtype, fields) in cases {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = folder(dir.path(), family, dtype, fields);
        let whole = Pretrained::open(dir.path()).unwrap().load_for_inference(&gpu, WeightType::AsStored).unwrap();
        // Windows of two lengths make two batches, each with a passage of its own.
        let model = ByLayer::new(&gpu, &checkpoint, WeightType::AsStored).unwrap().with_states(1);
        let tokens = text(61);
        for top_k in [None, Some(1)] {
            let input = Tensor::from_u32(&gpu, [tokens.len()], &tokens).unwrap();
            let mut tape = Tape::new(&gpu);
            let pass = Pass { top_k, ..Pass::plain(whole.params(), tokens.len(), Mode::Inference) };
            let output = whole.forward(&mut tape, &pass, &input).unwrap();
            let want = download(tape.value(output.logits));
            assert!(want.iter().any(|x| x.abs() > 0.1), "{family}");
            let same = logits(&gpu, &model, &tokens, top_k).iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{family}, {top_k:?}");
        }
        let window = Window { context: 24, stride: 12 };
        let want = [None, Some(1)].map(|k| pollster::block_on(perplexity(&gpu, &whole, &tokens, window, k)).unwrap());
        let got = pollster::block_on(model.perplexity(&tokens, window, &[None, Some(1)])).unwrap();
        assert_eq!(got, want, "{family}");
        assert!(got[0].targets == 60 && got[0] != got[1], "{family}: {got:?}");
    }
}

#[test]
fn the_device_holds_the_largest_part_and_no_more() {
    let (d, f, tokens) = (256, 256, 4 * 16);
    let [(few, _), (many, whole)] = [2, 4].map(|layers| {
        let dir = tempfile::tempdir().unwrap();
        let fields = json!({ "num_hidden_layers": layers, "hidden_size": d, "intermediate_size": f });
        let checkpoint = folder(dir.path(), "mixtral", "BF16", fields);
        let gpu = own_gpu();
        let model = ByLayer::new(&gpu, &checkpoint, WeightType::AsStored).unwrap();
        let plan = model.memory().unwrap();
        assert!(plan.part_bytes(WeightType::F32) > plan.part_bytes(WeightType::AsStored), "{plan:?}");
        let before = gpu.counters().bytes_allocated;
        let window = Window { context: 16, stride: 8 };
        pollster::block_on(model.perplexity(&text(40), window, &[None])).unwrap();
        let (peak, after) = (gpu.counters().peak_bytes - before, gpu.counters().bytes_allocated - before);
        // Above the weights: the rows of the experts, in and out, and hidden, twice; and what is small.
        let rows = Groups::capacity(tokens * 2, 8, tile_rows(&gpu));
        let most = plan.part + 4 * (rows * (2 * d + 2 * f)) as u64 + (512 << 10);
        assert!(peak >= plan.part && peak <= most, "{peak} bytes for {}, at most {most}", plan.part);
        assert!(after < plan.part / 100, "{after} of {}", plan.part);
        (peak, plan.inference)
    });
    assert!(many == few && many < whole, "{few} and {many} bytes of {whole}");
}

/// Windows of `seq` tokens, of two sources.
fn windows(count: usize, seq: usize) -> SourceWindows {
    let all = text(count * seq + 1);
    let batch = Batch { tokens: all[..count * seq].to_vec(), targets: all[1..].to_vec() };
    SourceWindows { batch, source: (0..count).map(|window| (2 * window / count) as u32).collect() }
}

#[test]
fn gradients_that_come_back_part_by_part_are_those_of_the_whole() {
    let gpu = gpu();
    let cases = [
        ("mixtral", json!({ "tie_word_embeddings": true })),
        ("deepseek_v2", json!({})),
        ("qwen2_moe", json!({ "use_sliding_window": true, "sliding_window": 9, "layer_types": null })),
    ];
    for (family, fields) in cases {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = folder(dir.path(), family, "BF16", fields);
        // 513 windows of 8 tokens are two passes, of 4096 tokens and of 8.
        let (seq, text) = (8, windows(513, 8));
        let whole = Pretrained::open(dir.path()).unwrap().load(&gpu).unwrap();
        for (first, mode) in [(0..4096, Mode::Train), (4096..4104, Mode::Accumulate)] {
            let mut tape = Tape::new(&gpu);
            let tokens = Tensor::from_u32(&gpu, [first.len()], &text.batch.tokens[first.clone()]).unwrap();
            let targets = Tensor::from_u32(&gpu, [first.len()], &text.batch.targets[first.clone()]).unwrap();
            let output = whole.forward(&mut tape, &Pass::plain(whole.params(), seq, mode), &tokens).unwrap();
            let targets = tape.constant(&targets);
            let loss = tape.apply(CrossEntropy, &[output.logits, targets]).unwrap();
            let share = Tensor::from_f32(&gpu, [1], &[first.len() as f32 / 4104.0]).unwrap();
            tape.backward(&[(loss, share)]).unwrap();
        }
        let want = |name: &str| {
            let param = whole.params().iter().find(|p| p.name == name).unwrap();
            download(param.gradient.as_ref().unwrap())
        };
        let model = ByLayer::new(&gpu, &checkpoint, WeightType::F32).unwrap();
        let mut reading = Reading::new(model.config(), seq, &text, 0).unwrap();
        assert!(
            Reading::new(model.config(), 7, &text, 0).is_err_and(|e| e.to_string().contains("windows of 7 tokens"))
        );
        pollster::block_on(async {
            for part in Part::all(model.config()).filter(|&part| part != Part::Head) {
                let held = model.part(part, false).unwrap();
                let seen = reading.pass(&gpu, held.view()).await.unwrap();
                let has_experts = held.view().router().is_some();
                assert_eq!(seen.map(|view| view.x.len()), has_experts.then_some(4104 * model.config().d_model));
                held.let_go(&gpu).await.unwrap();
            }
            let layers = (0..model.config().layers).rev().map(Part::Layer);
            for part in std::iter::once(Part::Head).chain(layers) {
                let held = model.part(part, true).unwrap();
                reading.back(&gpu, held.view()).await.unwrap();
                let experts = ExpertMatrix::ALL.map(|matrix| held.view().expert_gradients(matrix).map(download));
                assert!(experts.into_iter().flatten().all(|g| g.iter().any(|x| *x != 0.0)), "{family}, {part:?}");
                for param in held.view().params().iter() {
                    // A tied head is the embedding, whose gradient has the tokens' share as well.
                    if param.name != "embed.weight" {
                        let (got, want) = (download(param.gradient.as_ref().unwrap()), want(&param.name));
                        let same = got.iter().zip(&want).all(|(x, y)| x.to_bits() == y.to_bits());
                        assert!(same && got.len() == want.len(), "{family}, {}", param.name);
                    }
                }
                held.let_go(&gpu).await.unwrap();
            }
            let held = model.part(Part::Head, true).unwrap();
            // The input of the first layer was used: there is nothing left to go back through.
            let message = reading.back(&gpu, held.view()).await.unwrap_err().to_string();
            assert!(message.contains("expected a part that was passed"), "{message}");
        });
    }
}

#[test]
fn an_analysis_holds_the_largest_part_and_finds_the_same_in_it() {
    let (d, f) = (128, 128);
    let [few, many] = [2, 4].map(|layers| {
        let dir = tempfile::tempdir().unwrap();
        let fields = json!({ "num_hidden_layers": layers, "hidden_size": d, "intermediate_size": f });
        let family = folder(dir.path(), "mixtral", "BF16", fields);
        let checkpoint = ExpertCheckpoint::open(dir.path()).unwrap();
        let gpu = own_gpu();
        let found = |gpu: &Gpu, model: &dyn ModelParts| {
            let options = AnalysisOptions::default().spectrum(SpectrumOptions::default().directions(true));
            let (mut controls, windows) = (Controls::default(), windows(8, 16));
            let names = ["a".to_owned(), "b".to_owned()];
            let (seq, label, jacobians) = (16, "text", 4);
            let text =
                DataOptions { seq, windows: &windows, names: &names, label, jacobians, trace: None, prune: true };
            pollster::block_on(async {
                let silent = |_: sdmoe::analysis::whole::Event<'_>| {};
                let mut found =
                    analyze_weights(gpu, dir.path(), &checkpoint, &options, &mut controls, &silent).await.unwrap();
                gpu.trim().unwrap();
                gpu.finish().await.unwrap();
                let before = gpu.counters().bytes_allocated;
                add_data(gpu, model, &checkpoint, &text, &options, &mut controls, &silent, &mut found).await.unwrap();
                (serde_json::to_value(&found.analysis).unwrap(), before)
            })
        };
        let model = ByLayer::new(&gpu, &family, WeightType::F32).unwrap();
        let (by_layer, before) = found(&gpu, &model);
        let plan = model.memory().unwrap();
        let peak = gpu.counters().peak_bytes - before;
        assert!(peak >= plan.part_bytes(Purpose::Gradients), "{peak} bytes, {plan:?}");
        let whole = Pretrained::open(dir.path()).unwrap().load(&gpu).unwrap();
        let (want, _) = found(&gpu, &whole);
        for part in ["similarity", "spectra", "load", "routed_pca", "jacobians", "outputs", "activations", "pruning"] {
            assert!(by_layer[part] == want[part] && !want[part].is_null(), "{part} by layer is not that of the whole");
        }
        assert_eq!(by_layer, want);
        (peak, plan.bytes(Purpose::Gradients))
    });
    assert!(many.0 <= few.0 * 11 / 10 && many.1 > few.1 * 3 / 2, "peak and whole, bytes: {few:?}, {many:?}");
}

#[test]
fn a_part_that_is_not_there_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = folder(dir.path(), "mixtral", "BF16", json!({}));
    let gpu = gpu();
    let model = ByLayer::new(&gpu, &checkpoint, WeightType::AsStored).unwrap();
    let message = model.load(Part::Layer(2)).unwrap_err().to_string();
    assert!(message.contains("layer: expected a layer below 2, as the model has so many, got 2"), "{message}");
    let part = model.load(Part::Embedding).unwrap();
    assert_eq!(part.params().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["embed.weight"]);
    let tokens = Tensor::from_u32(&gpu, [7], &text(7)).unwrap();
    let message = part.forward(&mut Tape::new(&gpu), 3, None, &tokens).unwrap_err().to_string();
    assert!(message.contains("model part: expected sequences of 3 tokens"), "{message}");
    // A part of another model.
    let mut other = checkpoint.config().clone();
    other.vocab += 4;
    let part = ModelPart::for_inference_in(&gpu, &other, Part::Embedding, |_| DType::F32).unwrap();
    let message = checkpoint.load_part(&part).unwrap_err().to_string();
    assert!(message.contains("expected a model with `embed.weight` of shape [256, 64]"), "{message}");
    let window = Window { context: 4, stride: 2 };
    let message = pollster::block_on(model.perplexity(&text(7), window, &[Some(99)])).unwrap_err().to_string();
    assert!(message.contains("top-k: expected at least 1 and at most the "), "{message}");
}
