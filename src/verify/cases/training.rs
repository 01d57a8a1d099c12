//! Ten steps of a small model: twice, through a checkpoint, and with losses that are known from f64.

use std::path::Path;

use crate::checkpoint::TensorToSave;
use crate::data::{Batch, Batches};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tier};
use crate::nn::config::{GradientForm, Precision, Preset};
use crate::tensor::Tensor;
use crate::train::config::RunConfig;
use crate::train::resume::restore;
use crate::train::saved::{self, Position, SavedRun};
use crate::train::trainer::Trainer;
use crate::verify::Level::{Quick, Usual};
use crate::verify::context::{Case, Context, Findings, Needs};

const STEPS: u64 = 10;

/// The losses of the ten steps in f64, from the initial weights, which are the same on every device. `tests/it/training.rs` computes
/// them.
const LOSSES: [f64; STEPS as usize] = [
    5.565009969778874,
    5.568994422510924,
    5.517185211210806,
    5.452108070975417,
    5.457421455290288,
    5.41164946864578,
    5.336768780239549,
    5.346906676801835,
    5.306442893458517,
    5.297237677190588,
];

/// The run of the cases: settings, text, and its losses in f64.
pub(in crate::verify) fn reference() -> (RunConfig, Vec<u8>, &'static [f64]) {
    (config(), text(), &LOSSES)
}

/// Each loss of ten steps against f64: the whole model, forward, backward and optimizer.
async fn losses(context: &Context, config: &RunConfig) -> Result<Findings> {
    let mut found = Findings::default();
    let mut trainer = Trainer::new(&context.gpu, config)?;
    let got = train(&mut trainer, STEPS).await?;
    for (step, (got, want)) in got.iter().zip(LOSSES).enumerate() {
        found.at_most(
            &format!("the loss of step {} is {got}, expected {want}; off by", step + 1),
            (f64::from(*got) - want).abs(),
            1e-5 * want,
        );
    }
    Ok(found)
}

/// All of them.
pub(super) fn cases(tier: Tier) -> Vec<Case> {
    let f16 = || RunConfig {
        train: crate::train::config::TrainConfig { precision: Precision::F16, ..config().train },
        ..config()
    };
    let half = || format!("{} f16", tier.name());
    vec![
        Case::new(Quick, "training/losses/decoupled", async move |c| losses(c, &config()).await),
        // The same split in another order of its products.
        Case::new(Usual, "training/losses/token space", async move |c| {
            let mut config = config();
            config.spectral.gradient_form = GradientForm::TokenSpace;
            losses(c, &config).await
        }),
        Case::new(Usual, "training/repeats/decoupled", async move |c| repeats(c, &config()).await),
        Case::new(Usual, "training/repeats/f16", async move |c| repeats(c, &f16()).await)
            .needs(Needs::F16)
            .variant(half()),
        Case::new(Quick, "training/resumes/decoupled", async move |c| resumes(c, &config()).await).needs(Needs::Folder),
        Case::new(Usual, "training/resumes/f16", async move |c| resumes(c, &f16()).await)
            .needs(Needs::F16)
            .needs(Needs::Folder)
            .variant(half()),
    ]
}

/// A model of a few thousand parameters, with grouped heads, a shared expert and sizes that divide no tile.
fn config() -> RunConfig {
    let mut config = RunConfig::preset(Preset::Tiny);
    config.model.d_model = 36;
    config.model.layers = 2;
    config.model.heads = 6;
    config.model.kv_heads = 3;
    config.model.head_dim = 6;
    config.model.moe.experts = 5;
    config.model.moe.d_expert = 28;
    config.model.moe.d_shared = 20;
    config.train.batch = 2;
    config.train.seq = 33;
    config.train.steps = 1000;
    config.spectral.rank = 3;
    config.spectral.oversampling = 5;
    config.spectral.refresh_every = 4;
    config.optimizer.lr = 1e-3;
    // With a tiny epsilon AdamW turns the rounding of gradients near zero into full steps.
    config.optimizer.eps = 1e-5;
    config.optimizer.warmup_steps = 1;
    config
}

/// Words in an order without pattern; the same bytes everywhere.
fn text() -> Vec<u8> {
    let words = ["experts ", "often ", "end ", "up ", "alike", ", and ", "share ", "directions", ".\n", "the "];
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words[(state >> 16) as usize % words.len()]
    };
    (0..1000).flat_map(|_| next().bytes()).collect()
}

fn batch(config: &RunConfig, text: &[u8], step: u64) -> Result<Batch> {
    Ok(Batches::new(text, config.train.batch, config.train.seq, config.seed)?.batch(step, 0))
}

/// Trains up to step `last`; the losses.
async fn train(trainer: &mut Trainer, last: u64) -> Result<Vec<f32>> {
    let (config, text) = (trainer.config().clone(), text());
    let mut losses = Vec::new();
    for step in trainer.step_number() + 1..=last {
        trainer.step(&[batch(&config, &text, step)?])?;
        losses.extend(trainer.reports(step == last).await?.iter().map(|report| report.loss));
    }
    Ok(losses)
}

/// Parameters and all state, by name.
type Host = Vec<(String, Vec<usize>, Vec<f32>)>;

async fn download(named: impl IntoIterator<Item = (String, Tensor)>) -> Result<Host> {
    let mut all = Host::new();
    for (name, x) in named {
        all.push((name, x.dims().to_vec(), x.to_f32().await?));
    }
    Ok(all)
}

async fn parameters(trainer: &Trainer) -> Result<Host> {
    download(trainer.model().params().iter().map(|p| (p.name.clone(), p.value.clone()))).await
}

async fn state(trainer: &Trainer) -> Result<Host> {
    download(trainer.state()?).await
}

/// Notes the first tensor that differs by a bit.
fn compare(found: &mut Findings, what: &str, one: &Host, other: &Host) {
    if one.len() != other.len() {
        found.wrong(format!("{what}: {} tensors, expected {}", other.len(), one.len()));
    }
    for ((name, _, a), (_, _, b)) in one.iter().zip(other) {
        if let Some(i) = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits()) {
            return found.wrong(format!("{what}: {name}, element {i} is {}, expected {}", b[i], a[i]));
        }
    }
}

/// The same steps with poisoned memory give the same bits, and the model learns.
async fn repeats(context: &Context, config: &RunConfig) -> Result<Findings> {
    let mut found = Findings::default();
    let run = async || -> Result<(Vec<f32>, Host)> {
        let mut trainer = Trainer::new(&context.gpu, config)?;
        let losses = train(&mut trainer, STEPS).await?;
        Ok((losses, [parameters(&trainer).await?, state(&trainer).await?].concat()))
    };
    let (losses, first) = run().await?;
    context.gpu.fill_free(64 << 20, crate::verify::context::POISON)?;
    let (_, second) = run().await?;
    compare(&mut found, "a second run", &first, &second);
    // Before it has learnt anything it knows nothing of the 256 bytes.
    let known = f64::from(losses[0]) - 256f64.ln();
    found.at_most("the first loss is off from ln 256 by", known.abs(), 0.2);
    if !losses.iter().all(|loss| loss.is_finite()) || losses[losses.len() - 1] >= losses[0] {
        found.wrong(format!("the loss does not sink: {losses:?}"));
    }
    Ok(found)
}

fn tensors(host: &Host) -> Vec<TensorToSave<'_>> {
    host.iter().map(|(name, shape, data)| TensorToSave::f32(name, shape, data)).collect()
}

async fn save(trainer: &Trainer, folder: &Path) -> Result<()> {
    let (model, optimizer) = (parameters(trainer).await?, state(trainer).await?);
    let at = Position { step: trainer.step_number(), ..Position::default() };
    saved::save(folder, trainer.config(), at, &tensors(&model), &tensors(&optimizer))
}

/// Half of the steps, a checkpoint, and the rest from it give what all give in a row.
async fn resumes(context: &Context, config: &RunConfig) -> Result<Findings> {
    let mut found = Findings::default();
    let gpu: &Gpu = &context.gpu;
    let mut whole = Trainer::new(gpu, config)?;
    train(&mut whole, STEPS).await?;
    gpu.fill_free(64 << 20, crate::verify::context::POISON)?;
    let place = tempfile::tempdir().map_err(Error::io("making", &std::env::temp_dir()))?;
    let folder = place.path().join("checkpoint");
    let mut first = Trainer::new(gpu, config)?;
    train(&mut first, STEPS / 2).await?;
    save(&first, &folder).await?;
    drop(first);
    let mut second = restore(gpu, config, &SavedRun::open(&folder)?)?;
    train(&mut second, STEPS).await?;
    compare(&mut found, "a resumed run", &parameters(&whole).await?, &parameters(&second).await?);
    compare(&mut found, "a resumed run", &state(&whole).await?, &state(&second).await?);
    Ok(found)
}
