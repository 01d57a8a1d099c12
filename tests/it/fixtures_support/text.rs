//! Groups `tokenizer/` and `checkpoints/`, and `perplexity.json` of `hf/`: what a user of a Hugging Face folder meets, files to text.

use std::fs;
use std::path::Path;

use pollster::block_on;
use sdmoe::autograd::Tape;
use sdmoe::data::hub_tokenizer::{HubTokenizer, Message};
use sdmoe::gpu::Gpu;
use sdmoe::nn::generate::Generator;
use sdmoe::nn::model::Model;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::nn::sample::Sampling;
use sdmoe::tensor::Tensor;
use sdmoe::train::perplexity::{Window, perplexity};
use sdmoe::train::pretrained::{Pretrained, WeightType};
use serde_json::Value;

use super::{entries, tensors};

/// Logits of order 1 to 5, absolute.
const FORWARD: f64 = 2e-5;

fn json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what}: {got:?}, expected {want:?}")) }
}

/// Runs every text and chat of a tokenizer; returns their number.
pub fn tokenizer(folder: &Path) -> Result<usize, String> {
    let hub = HubTokenizer::of_folder(folder).map_err(text)?.ok_or("no tokenizer.json")?;
    let told = json(&folder.join("tokenizer_cases.json"))?;
    same("vocabulary", &(hub.vocab() as u64), &told["vocab_size"].as_u64().unwrap_or(0))?;
    let (cases, chats) = (told["cases"].as_array().ok_or("no cases")?, told["chats"].as_array().ok_or("no chats")?);
    for case in cases {
        let input = case["text"].as_str().ok_or("no text")?;
        let all = ids(&case["ids"]);
        same("ids", &hub.encode(input, true).map_err(text)?, &all)?;
        same("ids without special tokens", &hub.encode(input, false).map_err(text)?, &ids(&case["ids_no_special"]))?;
        let decoded = |skip| hub.decode(&all, skip).map_err(text);
        same("decoded", &decoded(false)?.as_str(), &case["decoded"].as_str().unwrap_or("?"))?;
        let want = case["decoded_skip_special"].as_str().unwrap_or("?");
        same("decoded without special tokens", &decoded(true)?.as_str(), &want)?;
        let mut stream = hub.stream();
        let mut streamed = String::new();
        for &id in &all {
            streamed += &stream.push(id).map_err(text)?;
        }
        streamed += &stream.finish().map_err(text)?;
        same("streamed", &streamed.as_str(), &want)?;
    }
    for chat in chats {
        let message = |m: &Value| {
            let part = |key: &str| m[key].as_str().unwrap_or_default().to_owned();
            Message { role: part("role"), content: part("content") }
        };
        let messages: Vec<Message> = chat["messages"].as_array().ok_or("no messages")?.iter().map(message).collect();
        let answer = chat["add_generation_prompt"].as_bool().unwrap_or(false);
        let rendered = hub.chat_text(&messages, answer).map_err(text)?;
        same("chat", &rendered.as_str(), &chat["text"].as_str().unwrap_or("?"))?;
        same("ids of a chat", &hub.chat(&messages, answer).map_err(text)?, &ids(&chat["ids"]))?;
    }
    Ok(cases.len() + chats.len())
}

/// Loads a checkpoint as it would be downloaded, in f32 and with its 16 bits as they are, and compares its logits and, where they
/// are told, its continuations.
pub fn checkpoint(gpu: &Gpu, folder: &Path) -> Result<(), String> {
    let opened = Pretrained::open(folder).map_err(text)?;
    [WeightType::F32, WeightType::AsStored].into_iter().try_for_each(|weights| {
        let model = opened.load_for_inference(gpu, weights).map_err(text)?;
        computes(gpu, folder, &opened, &model).map_err(|e| format!("{weights:?}: {e}"))
    })
}

fn computes(gpu: &Gpu, folder: &Path, opened: &Pretrained, model: &Model) -> Result<(), String> {
    let expected = tensors(&folder.join("expected.safetensors"))?;
    let input = &expected["input_ids"];
    let tokens = Tensor::from_u32(gpu, [input.data.len()], &input.to_u32()).map_err(text)?;
    let mut tape = Tape::new(gpu);
    let pass = Pass::plain(model.params(), input.cols(), Mode::Inference);
    let output = model.forward(&mut tape, &pass, &tokens).map_err(text)?;
    let logits = block_on(tape.value(output.logits).to_f32()).map_err(text)?;
    let worst = logits.iter().zip(&expected["logits"].data).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if worst > FORWARD || logits.len() != expected["logits"].data.len() {
        return Err(format!("logits: off by {worst:e}"));
    }
    let told = folder.join("generate.json");
    if !told.exists() {
        return Ok(());
    }
    let tokenizer = opened.tokenizer().map_err(text)?;
    let stops = opened.stops(&tokenizer);
    for case in json(&told)?["cases"].as_array().ok_or("no cases")? {
        let prompt =
            tokenizer.encode(case["prompt_text"].as_str().unwrap_or_default().as_bytes(), true).map_err(text)?;
        same("prompt", &prompt, &ids(&case["prompt_ids"]))?;
        let want = ids(&case["new_ids"]);
        let mut generator = Generator::new(gpu, model, &prompt, 256).map_err(text)?;
        let mut printer = tokenizer.stream();
        let mut shown = String::new();
        for _ in 0..40 {
            let token = block_on(generator.next(&Sampling::greedy(), 0.0)).map_err(text)?;
            shown += &printer.push(token).map_err(text)?;
            if stops.contains(&token) {
                break;
            }
        }
        shown += &printer.finish().map_err(text)?;
        same("continuation", &generator.text()[prompt.len()..].to_vec(), &want)?;
        same("its text", &shown.as_str(), &case["new_text"].as_str().unwrap_or("?"))?;
    }
    Ok(())
}

/// Compares the perplexity of a model by a sliding window; says whether there is one.
pub fn sliding_window(gpu: &Gpu, folder: &Path) -> Result<bool, String> {
    let (path, weights) = (folder.join("perplexity.json"), folder.join("model.safetensors"));
    if !path.exists() || !weights.exists() {
        return Ok(false);
    }
    let told = json(&path)?;
    // The folder has the weights in both layouts.
    let copy = tempfile::tempdir().map_err(text)?;
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder.join(file), copy.path().join(file)).map_err(text)?;
    }
    let model = Pretrained::open(copy.path()).map_err(text)?.load(gpu).map_err(text)?;
    let size = |key: &str| told[key].as_u64().unwrap_or(0) as usize;
    let bytes: Vec<u32> = told["text"].as_str().unwrap_or_default().bytes().map(u32::from).collect();
    let window = Window { context: size("context"), stride: size("stride") };
    let found = block_on(perplexity(gpu, &model, &bytes, window, None)).map_err(text)?;
    same("targets", &found.targets, &told["targets"].as_u64().unwrap_or(0))?;
    let want = told["mean_nll"].as_f64().unwrap_or(0.0);
    if (found.mean() - want).abs() > 1e-5 {
        return Err(format!("mean: {}, expected {want}", found.mean()));
    }
    Ok(true)
}

/// The folders of a group, in order.
pub fn folders(group: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    Ok(entries(group, true)?.into_iter().map(|name| group.join(name)).collect())
}
