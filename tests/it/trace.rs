//! A forward pass with its intermediate results by name.

use crate::common::{download, lent_gpu};
use sdmoe::autograd::Tape;
use sdmoe::nn::config::{Preset, SharedGate};
use sdmoe::nn::model::Model;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::nn::trace::trace;
use sdmoe::tensor::Tensor;

#[test]
fn every_layer_is_there_by_its_number_and_adds_up_to_what_the_model_computes() {
    let gpu = lent_gpu();
    let mut config = Preset::Tiny.model();
    (config.layers, config.dense_layers, config.d_dense) = (3, vec![0], 48);
    (config.moe.d_shared, config.moe.shared_gate) = (40, SharedGate::Sigmoid);
    let model = Model::new(&gpu, &config).unwrap();
    model.init(5).unwrap();
    let ids: Vec<u32> = (0..2 * 9).map(|i| i * 37 % 256).collect();
    let tokens = Tensor::from_u32(&gpu, [ids.len()], &ids).unwrap();
    let found = trace(&model, &tokens, 9).unwrap();

    let names: Vec<&str> = found.iter().map(|(name, _)| name).collect();
    let dense = ["layers.0.ffn_input", "layers.0.ffn_output", "layers.0.output"].map(str::to_owned);
    let routed =
        ["ffn_input", "router.logits", "router.scores", "router.experts", "router.weights", "experts", "shared"];
    let routed = [&routed[..], &["ffn_output", "output"]].concat();
    let of = |l: usize| routed.iter().map(move |name| format!("layers.{l}.{name}"));
    let wanted: Vec<String> = dense.into_iter().chain(of(1)).chain(of(2)).chain(["logits".to_owned()]).collect();
    assert_eq!(names, wanted);

    let (tokens_seen, d) = (ids.len(), config.d_model);
    let (experts, k) = (config.moe.experts, config.moe.top_k);
    let value = |name: &str| download(found.get(name).unwrap_or_else(|| panic!("no {name}")));
    for l in [1, 2] {
        let at = |name: &str| value(&format!("layers.{l}.{name}"));
        let scores = at("router.scores");
        let chosen = found.get(&format!("layers.{l}.router.experts")).unwrap();
        assert_eq!(chosen.dims(), [tokens_seen, k]);
        let chosen = pollster::block_on(chosen.to_u32()).unwrap();
        for (t, scores) in scores.chunks(experts).enumerate() {
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5, "softmax");
            // No expert that was left has a higher score than one that was chosen.
            let own = &chosen[t * k..(t + 1) * k];
            let least = own.iter().map(|&e| scores[e as usize]).fold(f32::INFINITY, f32::min);
            assert!((0..experts).all(|e| own.contains(&(e as u32)) || scores[e] <= least), "token {t}");
        }
        let (sum, shared, output) = (at("experts"), at("shared"), at("ffn_output"));
        assert!(sum.iter().zip(&shared).zip(&output).all(|((a, b), c)| a + b == *c));
        // The router's logits are those of this layer's input and router.
        let (input, router) = (at("ffn_input"), download(model.router(l).unwrap()));
        for (t, row) in at("router.logits").chunks(experts).enumerate() {
            let own = |e: usize| (0..d).map(|i| input[t * d + i] * router[i * experts + e]).sum::<f32>();
            assert!((0..experts).all(|e| (row[e] - own(e)).abs() < 1e-5), "layer {l}, token {t}");
        }
        // Combine weights: the chosen scores, which add up to 1 where the model renormalises them.
        for (t, weights) in at("router.weights").chunks(k).enumerate() {
            let own: Vec<f32> = chosen[t * k..(t + 1) * k].iter().map(|&e| scores[t * experts + e as usize]).collect();
            let total = if config.moe.renormalize { own.iter().sum() } else { 1.0 };
            assert!(weights.iter().zip(&own).all(|(w, s)| (w - s / total).abs() < 1e-6), "layer {l}, token {t}");
        }
    }
    // The stream behind the last layer, normed, gives the logits.
    let (stream, embed) = (value("layers.2.output"), download(&model.params().iter().next().unwrap().value));
    let logits = value("logits");
    for t in [0, tokens_seen - 1] {
        let row = &stream[t * d..(t + 1) * d];
        let scale = (row.iter().map(|x| x * x).sum::<f32>() / d as f32 + config.norm_eps).sqrt().recip();
        let logit = |v: usize| (0..d).map(|i| scale * row[i] * embed[v * d + i]).sum::<f32>();
        assert!((0..256).all(|v| (logits[t * 256 + v] - logit(v)).abs() < 1e-4), "token {t}");
    }

    let mut tape = Tape::new(&gpu);
    let output = model.forward(&mut tape, &Pass::plain(model.params(), 9, Mode::Inference), &tokens).unwrap();
    assert_eq!(download(tape.value(output.logits)), value("logits"));
    assert!(found.get("layers.0.router.logits").is_none());
}
