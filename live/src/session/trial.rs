//! The loss of a model when an expert is switched off, or merged with its nearest: tried on the spot, beside a random pick.

use sdmoe::analysis::jacobian::{Experts, JacobianOptions, jacobians};
use sdmoe::autograd::Tape;
use sdmoe::error::Result;
use sdmoe::linalg::random::words;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::nn::mask::ExpertMask;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::tensor::Tensor;
use sdmoe::train::evaluate::evaluate_pass;
use sdmoe::{Error, Trainer};

use super::look::Readings;
use crate::settings::SEQ;

/// Tokens at which Jacobians are compared.
const TOKENS: usize = 12;

/// A trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The expert is switched off: its tokens go to the next best.
    Off,
    /// The expert and the one with the most similar Jacobian become their mean.
    Merge,
}

/// An expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expert {
    /// The layer, counted among those with experts.
    pub layer: usize,
    /// Its number in the layer.
    pub number: usize,
}

/// The result of a trial, in nats per byte on held-out text. The model is as it was.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The trial.
    pub kind: Kind,
    /// Whether with the decoupled model.
    pub decoupled: bool,
    /// The layer.
    pub layer: usize,
    /// The expert.
    pub expert: usize,
    /// The expert it was merged with, and their alignment.
    pub partner: Option<(usize, f64)>,
    /// The step.
    pub step: u64,
    /// The loss before.
    pub before: f32,
    /// The loss after.
    pub after: f32,
    /// The expert that was picked at random in its place (or the partner's), and the loss after that; none where there is no other.
    pub random: Option<(usize, f32)>,
}

/// Tries it in the `layer`-th layer that has experts.
///
/// # Errors
/// Those of the library; the model is then as it was unless the device is lost.
pub async fn try_out(
    trainer: &Trainer,
    readings: &Readings,
    (kind, decoupled): (Kind, bool),
    Expert { layer, number: expert }: Expert,
) -> Result<Outcome> {
    let config = trainer.model().config();
    let (experts, layers) = (config.moe.experts, config.moe_layers().len());
    if experts < 2 || expert >= experts {
        let message = format!("expected one of at least two below {experts}, got {expert}");
        return Err(Error::config("expert", message));
    }
    if layer >= layers {
        return Err(Error::config("layer", format!("expected one below {layers}, got {layer}")));
    }
    let before = trainer.evaluate([readings.batch()]).await?;
    // Any of those that are left, evenly.
    let draw = words(trainer.step_number(), layer as u32, expert as u32)[0] as usize;
    let other = |taken: &[usize]| {
        let left: Vec<usize> = (0..experts).filter(|e| !taken.contains(e)).collect();
        (!left.is_empty()).then(|| left[draw % left.len()])
    };
    let (after, partner, random) = match kind {
        Kind::Off => {
            let after = loss_without(trainer, readings, layer, expert).await?;
            let random = match other(&[expert]) {
                Some(other) => Some((other, loss_without(trainer, readings, layer, other).await?)),
                None => None,
            };
            (after, None, random)
        }
        Kind::Merge => {
            let (nearest, alignment) = nearest(trainer, readings, layer, expert).await?;
            let after = loss_merged(trainer, readings, layer, [expert, nearest]).await?;
            let random = match other(&[expert, nearest]) {
                Some(other) => Some((other, loss_merged(trainer, readings, layer, [expert, other]).await?)),
                None => None,
            };
            (after, Some((nearest, alignment)), random)
        }
    };
    Ok(Outcome { kind, decoupled, layer, expert, partner, step: trainer.step_number(), before, after, random })
}

async fn loss_without(trainer: &Trainer, readings: &Readings, layer: usize, expert: usize) -> Result<f32> {
    let config = trainer.model().config();
    let mut off = vec![Vec::new(); config.moe_layers().len()];
    off[layer].push(expert);
    let mask = ExpertMask::new(trainer.gpu(), config.moe.experts, config.moe.top_k, &off)?;
    let model = trainer.model();
    let pass = Pass { mask: Some(&mask), ..Pass::plain(model.params(), SEQ, Mode::Inference) };
    Ok(evaluate_pass(trainer.gpu(), model, &pass, [readings.batch()]).await?.loss)
}

/// The expert whose Jacobian is most aligned with that of `expert`, with the alignment.
async fn nearest(trainer: &Trainer, readings: &Readings, layer: usize, expert: usize) -> Result<(usize, f64)> {
    let (gpu, model) = (trainer.gpu(), trainer.model());
    let number = model.config().moe_layers()[layer];
    let batch = readings.batch();
    let mut tape = Tape::new(gpu).keeping();
    let pass = Pass::plain(model.params(), SEQ, Mode::Inference);
    let tokens = Tensor::from_u32(gpu, [batch.tokens.len()], &batch.tokens)?;
    let output = model.forward(&mut tape, &pass, &tokens)?;
    let x = tape.value(output.experts[layer].input);
    let (all, d) = (x.to_f32().await?, x.cols());
    let rows = all.len() / d;
    // Spread over windows and places in them.
    let at = |i: usize| (i * rows / TOKENS + 7 * i % SEQ).min(rows - 1);
    let chosen: Vec<f32> = (0..TOKENS).flat_map(|i| &all[at(i) * d..][..d]).copied().collect();
    let x = Tensor::from_f32(gpu, [TOKENS, d], &chosen)?;
    let bank = |matrix| {
        let missing = || Error::config("layer", format!("expected one with experts, got {number}"));
        model.experts(number, matrix).ok_or_else(missing)
    };
    let experts =
        Experts { gate: bank(ExpertMatrix::Gate)?, up: bank(ExpertMatrix::Up)?, down: bank(ExpertMatrix::Down)? };
    let found = jacobians(gpu, number, experts, &x, JacobianOptions::default()).await?;
    let row = found.mean_of_cosines[expert].iter().enumerate().filter(|&(other, _)| other != expert);
    let best = row.filter_map(|(other, x)| Some((other, (*x)?))).max_by(|a, b| a.1.total_cmp(&b.1));
    best.ok_or_else(|| Error::Data("no Jacobian is defined: experts are zero".into()))
}

/// The loss with both experts replaced by their mean.
async fn loss_merged(trainer: &Trainer, readings: &Readings, layer: usize, pair: [usize; 2]) -> Result<f32> {
    let number = trainer.model().config().moe_layers()[layer];
    let mut kept = Vec::new();
    for matrix in ExpertMatrix::ALL {
        let Some(bank) = trainer.model().experts(number, matrix) else { continue };
        let whole = bank.to_f32().await?;
        let size = whole.len() / bank.dims()[0];
        let mut merged = whole.clone();
        for i in 0..size {
            let mean = 0.5 * (whole[pair[0] * size + i] + whole[pair[1] * size + i]);
            pair.iter().for_each(|&expert| merged[expert * size + i] = mean);
        }
        bank.write_f32(&merged)?;
        kept.push((bank, whole));
    }
    let loss = trainer.evaluate([readings.batch()]).await;
    for (bank, whole) in kept {
        bank.write_f32(&whole)?;
    }
    loss
}
