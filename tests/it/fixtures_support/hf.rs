//! Group `hf/`: models of published families against transformers: logits, hidden states, routers, losses, gradients, training.

use std::collections::BTreeMap;
use std::path::Path;

use pollster::block_on;
use sdmoe::autograd::check::compare;
use sdmoe::autograd::{Array, Tape};
use sdmoe::data::Batch;
use sdmoe::gpu::Gpu;
use sdmoe::nn::config::ModelConfig;
use sdmoe::nn::families::{Family, FamilyModel, Layout, TensorMap};
use sdmoe::nn::generate::Generator;
use sdmoe::nn::model::Model;
use sdmoe::nn::params::Group;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::nn::sample::Sampling;
use sdmoe::ops::CrossEntropy;
use sdmoe::optim::SpectralInit;
use sdmoe::tensor::Tensor;
use sdmoe::train::config::RunConfig;
use sdmoe::train::trainer::Trainer;
use serde_json::Value;

use super::entries;

/// Hidden states and logits of order 1 to 5 behind two or three layers, absolute.
const FORWARD: f64 = 2e-5;
/// Relative to the largest gradient of a tensor.
const BACKWARD: f64 = 1e-4;

type Tensors = BTreeMap<String, Array>;

/// A model of a family with its expected results.
pub struct Stored {
    pub name: String,
    family: Family,
    config: ModelConfig,
    config_text: String,
    files: BTreeMap<String, Tensors>,
    expected: Value,
    generate: Option<Value>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The models whose weights are there; each folder of the group names one.
pub fn stored(group: &Path) -> Result<Vec<Stored>, String> {
    let mut found = Vec::new();
    for name in entries(group, true)? {
        let folder = group.join(&name);
        if !folder.join("model.safetensors").exists() {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).map_err(text);
        let config_text = read("config.json")?;
        let parsed = FamilyModel::parse(&config_text).map_err(text)?;
        let mut files = BTreeMap::new();
        for file in entries(&folder, false)? {
            let tensors = super::tensors(&folder.join(&file))?;
            files.insert(file.trim_end_matches(".safetensors").to_owned(), tensors);
        }
        let expected = serde_json::from_str(&read("expected.json")?).map_err(text)?;
        let generate = read("generate.json").ok().map(|text| serde_json::from_str(&text).unwrap());
        found.push(Stored {
            name,
            family: parsed.family,
            config: parsed.config,
            config_text,
            files,
            expected,
            generate,
        });
    }
    Ok(found)
}

/// The values of all parameters of ours, from the hub's.
fn parameters(map: &TensorMap, hub: &Tensors) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let mut values: Vec<Vec<f32>> = map.parameters.iter().map(|p| vec![0.0; p.numel()]).collect();
    for tensor in &map.tensors {
        let stored = hub.get(&tensor.name).ok_or_else(|| format!("no tensor {}", tensor.name))?;
        for piece in &tensor.pieces {
            for (r, c) in (0..piece.rows).flat_map(|r| (0..piece.columns).map(move |c| (r, c))) {
                let at = if piece.transposed { c * piece.rows + r } else { r * piece.columns + c };
                values[piece.parameter][piece.offset + at] = stored.data[piece.first + r * piece.columns + c] as f32;
            }
        }
    }
    Ok(map.parameters.iter().map(|p| p.name.clone()).zip(values).collect())
}

impl Stored {
    fn file(&self, name: &str) -> Result<&Tensors, String> {
        self.files.get(name).ok_or_else(|| format!("no {name}.safetensors"))
    }

    fn expected(&self, name: &str) -> Result<&Array, String> {
        self.file("expected")?.get(name).ok_or_else(|| format!("no {name} in expected.safetensors"))
    }

    fn model(&self, gpu: &Gpu, config: &ModelConfig) -> Result<Model, String> {
        let model = Model::new(gpu, config).map_err(text)?;
        let map = TensorMap::new(self.family, config, Layout::PerExpert);
        let mut values = parameters(&map, self.file("model")?)?;
        let take = |name: &str, _: &[usize]| Ok(values.remove(name));
        model.params().write(take).map_err(text)?;
        for (name, tensor) in model.state() {
            tensor.write_f32(&values.remove(&name).ok_or("no state")?).map_err(text)?;
        }
        if values.is_empty() { Ok(model) } else { Err(format!("parameters left over: {:?}", values.keys())) }
    }

    fn tokens(&self) -> Result<(Vec<u32>, usize), String> {
        let ids = self.expected("input_ids")?;
        Ok((ids.to_u32(), ids.cols()))
    }

    /// Targets of all tokens but the last of each sequence.
    fn batch(&self) -> Result<Batch, String> {
        let (tokens, seq) = self.tokens()?;
        let target = |i: usize| if (i + 1).is_multiple_of(seq) { u32::MAX } else { tokens[i + 1] };
        Ok(Batch { targets: (0..tokens.len()).map(target).collect(), tokens })
    }
}

/// Compares every intermediate result of a forward pass.
pub fn forward(gpu: &Gpu, stored: &Stored) -> Result<(), String> {
    let model = stored.model(gpu, &stored.config)?;
    let (tokens, seq) = stored.tokens()?;
    let mut tape = Tape::new(gpu).keeping();
    let pass = Pass::plain(model.params(), seq, Mode::Inference);
    let tokens = Tensor::from_u32(gpu, [tokens.len()], &tokens).map_err(text)?;
    let output = model.forward(&mut tape, &pass, &tokens).map_err(text)?;
    let close = |name: &str, var| -> Result<(), String> {
        let got = block_on(tape.value(var).to_f32()).map_err(text)?;
        let want = stored.expected(name)?;
        if got.len() != want.data.len() {
            return Err(format!("{name}: {} numbers, expected {}", got.len(), want.data.len()));
        }
        let worst = got.iter().zip(&want.data).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        if worst <= FORWARD { Ok(()) } else { Err(format!("{name}: off by {worst:e}")) }
    };
    let moe = stored.config.moe_layers();
    for (l, layer) in output.layers.iter().enumerate() {
        close(&format!("layer{l}.mlp_in"), layer.ffn_input)?;
        if let Some(i) = moe.iter().position(|&number| number == l) {
            close(&format!("layer{l}.router_logits"), output.experts[i].logits)?;
            let got = block_on(output.routings[i].index.to_u32()).map_err(text)?;
            let weights = block_on(tape.value(output.experts[i].weights).to_f32()).map_err(text)?;
            let index = stored.expected(&format!("layer{l}.topk_index"))?;
            let want = stored.expected(&format!("layer{l}.topk_weights"))?;
            choices(l, index.cols(), (&got, &weights), (&index.to_u32(), &want.data))?;
        }
        close(&format!("layer{l}.mlp_out"), layer.ffn_output)?;
        close(&format!("layer{l}.out"), layer.output)?;
    }
    close("logits", output.logits)
}

/// Compares chosen experts and their weights as sets: DeepSeek's are not sorted there.
fn choices(layer: usize, k: usize, got: (&[u32], &[f32]), want: (&[u32], &[f64])) -> Result<(), String> {
    for (t, (a, b)) in got.0.chunks(k).zip(want.0.chunks(k)).enumerate() {
        for (j, expert) in b.iter().enumerate() {
            let Some(found) = a.iter().position(|e| e == expert) else {
                return Err(format!("layer {layer}, token {t}: experts {a:?}, expected {b:?}"));
            };
            let difference = (f64::from(got.1[t * k + found]) - want.1[t * k + j]).abs();
            if difference > FORWARD {
                return Err(format!("layer {layer}, token {t}, expert {expert}: weight off by {difference:e}"));
            }
        }
    }
    Ok(())
}

/// Compares the loss and the gradients of all parameters, without and with the auxiliary loss.
pub fn gradients(gpu: &Gpu, stored: &Stored) -> Result<bool, String> {
    if !stored.files.contains_key("grads") {
        return Ok(false);
    }
    check_gradients(gpu, stored, "grads", "lm_loss", 0.0)?;
    if let Some(coefficient) = stored.expected["router_aux_loss_coef"].as_f64() {
        check_gradients(gpu, stored, "grads_total", "total_loss", coefficient as f32)?;
    }
    Ok(true)
}

fn check_gradients(gpu: &Gpu, stored: &Stored, case: &str, loss: &str, balance: f32) -> Result<(), String> {
    let mut config = stored.config.clone();
    config.moe.balance_loss = balance;
    let model = stored.model(gpu, &config)?;
    let (batch, seq) = (stored.batch()?, stored.tokens()?.1);
    let upload = |x: &[u32]| Tensor::from_u32(gpu, [x.len()], x).map_err(text);
    let mut tape = Tape::new(gpu);
    let output = model.forward(&mut tape, &Pass::plain(model.params(), seq, Mode::Train), &upload(&batch.tokens)?);
    let output = output.map_err(text)?;
    let targets = tape.constant(&upload(&batch.targets)?);
    let lm = tape.apply(CrossEntropy, &[output.logits, targets]).map_err(text)?;
    // The mean over all tokens, of which one a sequence has no target.
    let share = seq as f32 / (seq - 1) as f32;
    let mut total = block_on(tape.value(lm).to_f32()).map_err(text)?[0] * share;
    for &aux in &output.losses {
        total += block_on(tape.value(aux).to_f32()).map_err(text)?[0];
    }
    let want = stored.expected[loss].as_f64().ok_or("no loss")?;
    if (f64::from(total) - want).abs() > 1e-5 {
        return Err(format!("{loss}: {total}, expected {want}"));
    }
    let one = |x: f32| Tensor::from_f32(gpu, [1], &[x]).map_err(text);
    let mut seeds = vec![(lm, one(share)?)];
    for &aux in &output.losses {
        seeds.push((aux, one(1.0)?));
    }
    drop(tape.backward(&seeds).map_err(text)?);

    // The hub's gradients, laid out as ours.
    let hub = stored.file(case)?;
    let map = TensorMap::new(stored.family, &config, Layout::PerExpert);
    for (p, parameter) in map.parameters.iter().enumerate().filter(|(_, p)| !p.state) {
        let param = model.params().iter().find(|param| param.name == parameter.name).ok_or("no parameter")?;
        let got = block_on(param.gradient.as_ref().unwrap().to_f32()).map_err(text)?;
        for tensor in map.tensors.iter().filter(|tensor| hub.contains_key(&tensor.name)) {
            for piece in tensor.pieces.iter().filter(|piece| piece.parameter == p) {
                let value = |r: usize, c: usize| {
                    let at = if piece.transposed { c * piece.rows + r } else { r * piece.columns + c };
                    got[piece.offset + at]
                };
                let all = (0..piece.rows).flat_map(|r| (0..piece.columns).map(move |c| (r, c)));
                let ours: Vec<f32> = all.map(|(r, c)| value(r, c)).collect();
                let theirs = hub[&tensor.name].data[piece.first..piece.first + piece.rows * piece.columns].to_vec();
                if ours.iter().all(|x| *x == 0.0) && theirs.iter().all(|x| *x == 0.0) {
                    continue;
                }
                compare(&tensor.name, &ours, &Array::new(&[theirs.len()], theirs), BACKWARD)?;
            }
        }
    }
    Ok(())
}

/// Compares the losses of twelve AdamW steps on one batch.
pub fn trajectory(gpu: &Gpu, stored: &Stored) -> Result<(), String> {
    let told = &stored.expected["adamw_trajectory"];
    let numbers = |key: &str| -> Vec<f64> {
        told[key].as_array().map(|list| list.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
    };
    let (losses, norms) = (numbers("loss"), numbers("grad_norm"));
    let mut config = RunConfig::default();
    config.spectral.enabled = false;
    config.model = stored.config.clone();
    config.model.moe.balance_loss = 0.0;
    let (batch, seq) = (stored.batch()?, stored.tokens()?.1);
    (config.train.batch, config.train.seq, config.train.steps) = (batch.tokens.len() / seq, seq, losses.len() as u64);
    let optimizer = &mut config.optimizer;
    (optimizer.lr, optimizer.warmup_steps, optimizer.clip) = (0.002, 0, 0.0);
    (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay) = (0.9, 0.95, 1e-8, 0.1);
    optimizer.min_lr_ratio = 1.0;
    let (lr, decay) = (optimizer.lr, optimizer.weight_decay);
    let model = stored.model(gpu, &config.model)?;
    let mut trainer = Trainer::with_model(gpu, &config, model, SpectralInit::Fresh).map_err(text)?;
    let share = seq as f64 / (seq - 1) as f64;
    for (step, (want, norm)) in losses.iter().zip(&norms).enumerate() {
        // There all parameters decay, here vectors do not: they are moved by hand.
        let params = trainer.model().params().clone();
        let vectors: Vec<_> = params.iter().filter(|p| p.group == Group::NoDecay).collect();
        let read = |x: &Tensor| block_on(x.to_f32()).map_err(text);
        let before = vectors.iter().map(|p| read(&p.value)).collect::<Result<Vec<_>, _>>()?;
        trainer.step(std::slice::from_ref(&batch)).map_err(text)?;
        let report = block_on(trainer.reports(true)).map_err(text)?.pop().ok_or("no report")?;
        for (param, before) in vectors.iter().zip(before) {
            let after = read(&param.value)?;
            let moved: Vec<f32> = after.iter().zip(&before).map(|(a, b)| a - lr * decay * b).collect();
            param.value.write_f32(&moved).map_err(text)?;
        }
        // Gradients here are of the mean over all tokens.
        for (what, got, want) in [("loss", report.loss, want), ("gradient norm", report.grad_norm, norm)] {
            let got = f64::from(got) * share;
            if (got - want).abs() > 1e-3 * want.abs() {
                return Err(format!("step {}: {what} {got}, expected {want}", step + 1));
            }
        }
    }
    Ok(())
}

/// Compares the logits of the same weights with YaRN's frequencies.
pub fn yarn(gpu: &Gpu, stored: &Stored) -> Result<bool, String> {
    let (Ok(want), yarn) = (stored.expected("logits_yarn"), &stored.expected["yarn"]) else { return Ok(false) };
    let mut json: Value = serde_json::from_str(&stored.config_text).map_err(text)?;
    json["rope_scaling"] = yarn.clone();
    let config = FamilyModel::parse(&json.to_string()).map_err(text)?.config;
    let model = stored.model(gpu, &config)?;
    let (tokens, seq) = stored.tokens()?;
    let mut tape = Tape::new(gpu);
    let tokens = Tensor::from_u32(gpu, [tokens.len()], &tokens).map_err(text)?;
    let output = model.forward(&mut tape, &Pass::plain(model.params(), seq, Mode::Inference), &tokens).map_err(text)?;
    let got = block_on(tape.value(output.logits).to_f32()).map_err(text)?;
    let worst = got.iter().zip(&want.data).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if worst <= FORWARD { Ok(true) } else { Err(format!("logits_yarn: off by {worst:e}")) }
}

/// Compares greedy continuations.
pub fn continuations(gpu: &Gpu, stored: &Stored) -> Result<bool, String> {
    let Some(generate) = &stored.generate else { return Ok(false) };
    let model = stored.model(gpu, &stored.config)?;
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().map(|l| l.iter().filter_map(Value::as_u64).map(|x| x as u32).collect()).unwrap_or_default()
    };
    for case in generate["cases"].as_array().ok_or("no cases")? {
        let (prompt, want) = (ids(&case["prompt_ids"]), ids(&case["new_ids"]));
        let mut generator = Generator::new(gpu, &model, &prompt, prompt.len() + want.len()).map_err(text)?;
        for step in 1..=want.len() {
            let logits = block_on(generator.logits()).map_err(text)?;
            if let Some(told) = case["logits"].get(step.to_string()).and_then(Value::as_array) {
                let told = told.iter().filter_map(Value::as_f64);
                let worst = logits.iter().zip(told).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                if worst > FORWARD {
                    return Err(format!("prompt of {}, step {step}: logits off by {worst:e}", prompt.len()));
                }
            }
            block_on(generator.next(&Sampling::greedy(), 0.0)).map_err(text)?;
        }
        if generator.text()[prompt.len()..] != want {
            return Err(format!("prompt of {}: {:?}, expected {want:?}", prompt.len(), generator.text()));
        }
    }
    Ok(true)
}
