//! Models run part by part: the bits of the whole model, in the memory of its largest part.

use std::path::Path;

use crate::common::families::{config, tensors, write_folder};
use crate::common::{download, gpu, own_gpu};
use sdmoe::autograd::Tape;
use sdmoe::checkpoint::FamilyCheckpoint;
use sdmoe::gpu::Gpu;
use sdmoe::low_level::kernels::grouped::{Groups, tile_rows};
use sdmoe::nn::part::{ModelPart, Part};
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::tensor::{DType, Tensor};
use sdmoe::train::by_layer::ByLayer;
use sdmoe::train::perplexity::{Window, perplexity};
use sdmoe::train::pretrained::{Pretrained, WeightType};
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
