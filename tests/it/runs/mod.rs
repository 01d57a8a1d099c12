//! Whole runs, through the program and through the library: what they write, that they repeat, stop and go on bit for bit,
//! and what is left when they fail.

mod ended;
mod failed;
mod switched;
mod warned;
mod whole;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::common::place::Place;
use pollster::block_on;
use sdmoe::data::Corpus;
use sdmoe::data::text_tokenizer::TextTokenizer;
use sdmoe::nn::config::Preset;
use sdmoe::train::config::RunConfig;
use sdmoe::train::metrics::StepMetrics;
use sdmoe::train::progress::Display;
use sdmoe::train::run::run;
use sdmoe::train::run_folder::RunFolder;
use sdmoe::train::saved::SavedRun;
use sdmoe::train::summary::Summary;
use sdmoe::train::{Outcome, Plan};

const TEXT: &str = "the quick brown fox jumps over the lazy dog. ";

/// A model that trains a step in milliseconds.
fn tiny() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.d_model = 32;
    config.model.layers = 1;
    (config.model.heads, config.model.kv_heads, config.model.head_dim) = (2, 1, 16);
    (config.model.moe.experts, config.model.moe.d_expert, config.model.moe.d_shared) = (4, 32, 16);
    (config.train.steps, config.train.batch, config.train.seq) = (12, 2, 32);
    (config.train.log_every, config.train.eval_every, config.train.spectral_every) = (1, 4, 4);
    config.train.checkpoint_every = 4;
    config.optimizer.warmup_steps = 2;
    config.optimizer.lr = 1e-2;
    (config.spectral.rank, config.spectral.oversampling, config.spectral.refresh_every) = (3, 4, 2);
    config.data.paths = vec!["text".into()];
    config
}

/// A place with a text and the settings `config`.
fn place(config: &RunConfig) -> Place {
    let place = Place::new();
    place.write("text", TEXT.repeat(90));
    place.write("run.toml", config.to_toml().unwrap());
    place
}

fn lines(metrics: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(metrics).unwrap();
    assert!(text.ends_with('\n'), "whole lines: {text}");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{l}: {e}"))).collect()
}

fn checkpoint(run: &Path) -> [Vec<u8>; 2] {
    ["model.safetensors", "optimizer.safetensors"].map(|f| fs::read(run.join("checkpoint").join(f)).unwrap())
}

fn summary(run: &Path) -> Summary {
    serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap()
}

/// Trains in `dir`, from its checkpoint where it has one; with `stop` for one step only.
fn session(config: &RunConfig, dir: &Path, stop: bool) -> Outcome {
    let corpus = Corpus::from_bytes(TEXT.repeat(90).into_bytes(), 0.1, "a text".into());
    let (folder, resume) = match RunFolder::resume(dir) {
        Ok(folder) => (folder, Some(SavedRun::open(dir).unwrap())),
        Err(_) => (RunFolder::create(dir).unwrap(), None),
    };
    let plan = Plan { config: config.clone(), corpus, tokenizer: TextTokenizer::Bytes, folder, resume, from: None };
    block_on(run(plan, Display::Quiet, &AtomicBool::new(stop))).unwrap_or_else(|e| panic!("{e}"))
}

/// A place with a finished run `a` of 4 steps.
fn finished() -> Place {
    let mut config = tiny();
    // Together with a learning rate that breaks a run it would be warned of.
    (config.train.steps, config.optimizer.weight_decay) = (4, 0.0);
    let place = place(&config);
    place.runs("train --config run.toml --out a --quiet --report off");
    place
}
