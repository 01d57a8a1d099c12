//! Trains a model that the crate does not have: attention and experts side by side on one norm, as in GPT-J, with the
//! input's embedding added once more at the end.

use sdmoe::autograd::Tape;
use sdmoe::nn::attention::AttentionLayer;
use sdmoe::nn::moe::MoeLayer;
use sdmoe::nn::norm::Norm;
use sdmoe::nn::params::{Group, Init, ParamBuilder, ParamId, ParamSet};
use sdmoe::nn::pass::Pass;
use sdmoe::ops::{Add, Embedding, MatMul};
use sdmoe::optim::SpectralInit;
use sdmoe::prelude::*;
use sdmoe::{ExpertCount, LanguageModel, Output};

/// `x += attn(norm(x)) + moe(norm(x))`.
struct Layer {
    norm: Norm,
    attention: AttentionLayer,
    moe: MoeLayer,
}

struct Parallel {
    params: ParamSet,
    embed: ParamId,
    layers: Vec<Layer>,
    norm: Norm,
    experts: ExpertCount,
}

impl Parallel {
    fn new(gpu: &Gpu, config: &ModelConfig, seed: u64) -> sdmoe::Result<Self> {
        let mut params = ParamBuilder::default();
        let (d, eps) = (config.d_model, config.norm_eps);
        let embed = params.add("embed", Group::Decay, &[config.vocab, d], Init::Normal(0.02));
        let layers = (0..config.layers).map(|l| Layer {
            norm: Norm::new(&mut params, format!("{l}.norm"), d, eps),
            attention: AttentionLayer::new(&mut params, &format!("{l}.attention"), l, config),
            moe: MoeLayer::new(&mut params, &format!("{l}.moe"), l, config),
        });
        let layers: Vec<Layer> = layers.collect();
        let norm = Norm::new(&mut params, "norm", d, eps);
        let params = params.build(gpu)?;
        params.init(seed)?;
        let experts = ExpertCount { layers: layers.len(), experts: config.moe.experts, top_k: config.moe.top_k };
        Ok(Self { params, embed, layers, norm, experts })
    }
}

impl LanguageModel for Parallel {
    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn experts(&self) -> ExpertCount {
        self.experts
    }

    fn forward(&self, tape: &mut Tape, pass: &Pass<'_>, tokens: &Tensor) -> sdmoe::Result<Output> {
        let (tokens, embed) = (tape.constant(tokens), pass.param(tape, self.embed));
        let start = tape.apply(Embedding, &[embed, tokens])?;
        let (mut x, mut routed) = (start, Vec::new());
        for layer in &self.layers {
            let normed = layer.norm.forward(tape, pass, x)?;
            let mixed = layer.attention.forward(tape, pass, normed)?;
            let moe = layer.moe.forward(tape, pass, normed)?;
            let branches = tape.apply(Add, &[mixed, moe.output])?;
            x = tape.apply(Add, &[x, branches])?;
            routed.push((normed, moe.routed));
        }
        let x = tape.apply(Add, &[x, start])?;
        let normed = self.norm.forward(tape, pass, x)?;
        let mut output = Output::new(tape.apply(MatMul { trans_b: true }, &[normed, embed])?);
        routed.into_iter().for_each(|(input, routed)| output.routed(input, routed));
        Ok(output)
    }
}

fn main() -> sdmoe::Result<()> {
    let gpu = pollster::block_on(Gpu::open(&GpuOptions::default()))?;
    let mut config = RunConfig::preset(Preset::Tiny);
    (config.model.layers, config.model.d_model, config.model.head_dim) = (2, 64, 16);
    (config.model.moe.d_expert, config.model.moe.d_shared) = (64, 0);
    (config.train.steps, config.train.seq, config.optimizer.warmup_steps) = (40, 64, 10);
    let model = Parallel::new(&gpu, &config.model, config.seed)?;
    let mut trainer = Trainer::with_model(&gpu, &config, model, SpectralInit::Fresh)?;
    let batches = Batches::new(include_bytes!("own_model.rs"), config.train.batch, config.train.seq, config.seed)?;
    for step in 1..=config.train.steps {
        trainer.step(&[batches.batch(step, 0)])?;
        for report in pollster::block_on(trainer.reports(step == config.train.steps))? {
            if report.step % 10 == 0 {
                println!("step {:3}  loss {:.3} nats per byte", report.step, report.loss);
            }
        }
    }
    Ok(())
}
