//! One look at a model: everything that the charts show, measured between two steps.

use std::sync::Arc;

use sdmoe::Trainer;
use sdmoe::analysis::load::{Choices, Sources, load};
use sdmoe::autograd::Tape;
use sdmoe::error::Result;
use sdmoe::linalg::svd_small::svd_small;
use sdmoe::nn::config::ExpertMatrix;
use sdmoe::nn::pass::{Mode, Pass};
use sdmoe::optim::MetricOptions;
use sdmoe::tensor::Tensor;
use sdmoe::train::specialisation::{PairSimilarity, pair_similarities};

use crate::settings::SEQ;
use crate::texts::Source;

/// Windows of each source from which the load by source is counted.
const WINDOWS: usize = 6;

/// A look at one of the two models. What is slow to measure is from an earlier one where [`look`] was asked to be quick.
#[derive(Clone, Debug)]
pub struct Look {
    /// The probe text's layers.
    pub probe: Vec<ProbeLayer>,
    /// The likeliest next byte of each probe token, with its probability.
    pub guesses: Vec<(u8, f32)>,
    /// Loss on held-out text, nats per byte.
    pub held_out_loss: f32,
    /// Tokens of each expert in the last step, by layer.
    pub counts: Vec<Vec<u32>>,
    /// Which source goes to which expert, by layer.
    pub by_source: Vec<BySource>,
    /// The measurements of the weights.
    pub weights: Arc<Weights>,
}

/// The measurements of the experts' weights: slow to take, and slow to change.
#[derive(Debug, Default)]
pub struct Weights {
    /// The step of the measurement; 0 before the first, with nothing else.
    pub step: u64,
    /// Similarity of each pair of experts.
    pub similarity: Vec<PairSimilarity>,
    /// Spectra of the decoupled parts; none of a model without.
    pub spectra: Vec<Spectrum>,
}

/// A layer's decisions about the probe text.
#[derive(Clone, Debug)]
pub struct ProbeLayer {
    /// Scores, softmax of the router's logits, `[tokens, E]`.
    pub scores: Vec<f32>,
    /// The expert with the largest combine weight of each token, and that weight over the sum of its weights.
    pub top: Vec<(u32, f32)>,
}

/// Where the tokens of each source go in a layer.
#[derive(Clone, Debug)]
pub struct BySource {
    /// Fraction of a source's choices that went to each expert, by source.
    pub shares: Vec<Vec<f64>>,
    /// Mutual information of source and expert, nats.
    pub information: Option<f64>,
    /// The information that chance gives: the mean over permutations of the sources among the tokens.
    pub chance: Option<f64>,
}

/// Singular values of one matrix kind of a layer, falling.
#[derive(Clone, Debug)]
pub struct Spectrum {
    /// The layer.
    pub layer: usize,
    /// The kind.
    pub matrix: ExpertMatrix,
    /// The values of `W_c`.
    pub common: Vec<f32>,
    /// The values of the `W_u`, mean over the experts.
    pub unique: Vec<f32>,
    /// `sigma_k / sigma_(k+1)` at the last refresh.
    pub gap: Option<f64>,
    /// Share of `W_u` inside the common directions: model side, hidden side.
    pub drift: [f64; 2],
    /// Drift that random matrices have on each side: `sqrt(k / m)`, `sqrt(k / n)`.
    pub drift_chance: [f64; 2],
    /// Largest angle between the last two bases, radians.
    pub angle: Option<f64>,
}

/// The texts that a look reads.
#[derive(Clone, Debug)]
pub struct Readings {
    /// The probe text: one window of each source.
    pub probe: Vec<u8>,
    /// The source of each window of the probe.
    pub names: Vec<String>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    source: Vec<u32>,
}

impl Readings {
    /// Windows of the held-out parts.
    pub fn new(sources: &[Source]) -> Self {
        let (mut probe, mut tokens, mut targets, mut source) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, text) in sources.iter().enumerate() {
            for (j, window) in text.windows(WINDOWS, SEQ).enumerate() {
                // The probe is read on its own: first of each source's windows.
                if j == 0 {
                    probe.extend_from_slice(&window[..SEQ]);
                }
                tokens.extend(window[..SEQ].iter().map(|&b| u32::from(b)));
                targets.extend(window[1..].iter().map(|&b| u32::from(b)));
                source.extend(std::iter::repeat_n(i as u32, SEQ));
            }
        }
        Self { probe, names: sources.iter().map(|s| s.name.clone()).collect(), tokens, targets, source }
    }

    /// The held-out windows as one batch.
    pub fn batch(&self) -> sdmoe::Batch {
        sdmoe::Batch { tokens: self.tokens.clone(), targets: self.targets.clone() }
    }
}

/// Looks at a model; of its weights again where `weights` are not given.
///
/// # Errors
/// Those of the library; nothing of the model has changed.
pub async fn look(trainer: &Trainer, readings: &Readings, weights: Option<Arc<Weights>>) -> Result<Look> {
    let (probe, guesses) = probe(trainer, &readings.probe).await?;
    let (by_source, held_out_loss) = sources(trainer, readings).await?;
    let counts = trainer.expert_counts().await?;
    let weights = match weights {
        Some(weights) => weights,
        None => Arc::new(Weights {
            step: trainer.step_number(),
            similarity: pair_similarities(trainer).await?,
            spectra: spectra(trainer).await?,
        }),
    };
    Ok(Look { probe, guesses, held_out_loss, counts, by_source, weights })
}

async fn probe(trainer: &Trainer, text: &[u8]) -> Result<(Vec<ProbeLayer>, Vec<(u8, f32)>)> {
    let tokens: Vec<u32> = text.iter().map(|&b| u32::from(b)).collect();
    let model = trainer.model();
    let mut tape = Tape::new(trainer.gpu()).keeping();
    let pass = Pass::plain(model.params(), SEQ, Mode::Inference);
    let output = model.forward(&mut tape, &pass, &Tensor::from_u32(trainer.gpu(), [tokens.len()], &tokens)?)?;
    let moe = &model.config().moe;
    let mut layers = Vec::new();
    for (vars, routing) in output.experts.iter().zip(&output.routings) {
        let logits = tape.value(vars.logits).to_f32().await?;
        let weights = tape.value(vars.weights).to_f32().await?;
        let index = routing.index.to_u32().await?;
        let top = index.chunks(moe.top_k).zip(weights.chunks(moe.top_k)).map(|(index, weights)| {
            let sum: f32 = weights.iter().sum();
            let best = (0..weights.len()).max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap_or(0);
            (index[best], if sum > 0.0 { weights[best] / sum } else { 0.0 })
        });
        layers.push(ProbeLayer { scores: logits.chunks(moe.experts).flat_map(softmax).collect(), top: top.collect() });
    }
    let logits = tape.value(output.logits).to_f32().await?;
    let guess = |logits: &[f32]| {
        let scores = softmax(logits);
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
        (best as u8, scores[best])
    };
    Ok((layers, logits.chunks(model.config().vocab).map(guess).collect()))
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let exp: Vec<f32> = logits.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

/// Where each source's tokens go, and the loss on them.
async fn sources(trainer: &Trainer, readings: &Readings) -> Result<(Vec<BySource>, f32)> {
    let model = trainer.model();
    let moe = &model.config().moe;
    let mut tape = Tape::new(trainer.gpu());
    let pass = Pass::plain(model.params(), SEQ, Mode::Inference);
    let tokens = Tensor::from_u32(trainer.gpu(), [readings.tokens.len()], &readings.tokens)?;
    let output = model.forward(&mut tape, &pass, &tokens)?;
    let mut layers = Vec::new();
    for (layer, routing) in output.routings.iter().enumerate() {
        let index = routing.index.to_u32().await?;
        let ones = vec![1.0; index.len()];
        let choices = Choices { experts: moe.experts, top_k: moe.top_k, index: &index, weight: &ones };
        let sources = Sources { of_token: &readings.source, names: &readings.names };
        let found = load(layer, choices, Some(sources), 1);
        let shares = found.by_source.iter().map(|row| row.iter().map(|x| x.unwrap_or(0.0)).collect()).collect();
        layers.push(BySource { shares, information: found.mutual_information, chance: found.control });
    }
    Ok((layers, trainer.evaluate([readings.batch()]).await?))
}

async fn spectra(trainer: &Trainer) -> Result<Vec<Spectrum>> {
    let measured = trainer.optimizer().metrics(MetricOptions::default().similarity(false))?.read().await?;
    let mut spectra = Vec::new();
    for bank in trainer.optimizer().banks() {
        for stack in &bank.stacks {
            let &[layers, experts, m, n] = stack.w.dims() else { continue };
            let (common, unique) = (
                singular_values(&stack.w_c.reshape([layers, m, n])?).await?,
                singular_values(&stack.unique()?.reshape([layers * experts, m, n])?).await?,
            );
            let width = common.len() / layers;
            for (i, &layer) in stack.numbers.iter().enumerate() {
                let of_layer = &unique[i * experts * width..][..experts * width];
                let mean = |j: usize| of_layer.iter().skip(j).step_by(width).sum::<f32>() / experts as f32;
                let figures = measured.iter().find(|x| (x.layer, x.matrix) == (layer, bank.matrix));
                let rank = stack.basis.rank() as f64;
                let (model, hidden) = if bank.matrix == ExpertMatrix::Down { (n, m) } else { (m, n) };
                spectra.push(Spectrum {
                    layer,
                    matrix: bank.matrix,
                    common: common[i * width..][..width].to_vec(),
                    unique: (0..width).map(mean).collect(),
                    gap: figures.and_then(|x| Some(x.refresh?.common_gap)).filter(|gap| gap.is_finite()),
                    drift: figures.map_or([0.0; 2], |x| [x.drift_model, x.drift_hidden]),
                    drift_chance: [(rank / model as f64).sqrt(), (rank / hidden as f64).sqrt()],
                    angle: figures.and_then(|x| Some(x.refresh?.basis_angle)),
                });
            }
        }
    }
    Ok(spectra)
}

/// The singular values of a batch of matrices that are at most 64 wide on one side; of larger ones the leading 32.
async fn singular_values(x: &Tensor) -> Result<Vec<f32>> {
    let &[_, m, n] = x.dims() else { return Ok(Vec::new()) };
    if m.min(n) <= 64 {
        return svd_small(x, 1)?.values().await;
    }
    sdmoe::linalg::svd::randomized_svd(x, 32, sdmoe::linalg::svd::SvdOptions::default(), None)?.values().await
}
