//! What is measured of each layer: the library's Jacobians, routed PCA and load, each beside its control.

use sdmoe::Result;
use sdmoe::analysis::activations::rows;
use sdmoe::analysis::jacobian::{Experts, JacobianOptions, jacobians};
use sdmoe::analysis::load::{Choices, Sources, load};
use sdmoe::analysis::observe::observe;
use sdmoe::analysis::positions::spread;
use sdmoe::analysis::record::RoutedPca;
use sdmoe::analysis::routed::Routed;
use sdmoe::analysis::routed_pca::{PcaOptions, routed_pca};
use sdmoe::analysis::similarity::mean_offdiag;
use sdmoe::data::sources::SourceWindows;
use sdmoe::gpu::Gpu;
use sdmoe::linalg::random::fill_normal;
use sdmoe::nn::model::Model;
use sdmoe::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::models::{Assignment, Kind, experts};
use super::support;

/// Tokens at which Jacobians are taken, as many as `sdmoe analyze` takes.
const JACOBIANS: usize = 32;
/// Dimensions of the compared subspaces, as in `sdmoe analyze`.
const R: usize = 8;
/// Random subspaces whose pairs show what chance gives: 276 pairs, a mean good to 0.002 of similarity in 64 dimensions.
pub const RANDOM: usize = 24;

/// The text, and how the top-K model sees its tokens.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Tokens of a sequence.
    pub seq: usize,
    pub windows: &'a SourceWindows,
    pub names: &'a [String],
    /// E and K of the top-K model: what dense and soft models are read with.
    pub experts: usize,
    pub top_k: usize,
    pub seed: u64,
}

/// Routed subspaces, means over experts and pairs; distances as shares of their largest values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subspaces {
    pub similarity: Option<f64>,
    pub geodesic: Option<f64>,
    pub chordal: Option<f64>,
    pub projection: Option<f64>,
    pub explained_variance: Option<f64>,
    pub participation_ratio: Option<f64>,
}

impl Subspaces {
    async fn of(gpu: &Gpu, layer: usize, routed: Routed<'_>, seed: u64) -> Result<Self> {
        let options = PcaOptions::default().r(R.min(routed.d)).seed(seed);
        let found = routed_pca(gpu, layer, routed.check()?, options).await?;
        let RoutedPca { r, chordal, projection, explained_variance, participation_ratio, .. } = found;
        Ok(Self {
            similarity: found.mean_offdiag,
            geodesic: found.mean_geodesic,
            chordal: mean_offdiag(&chordal).map(|c| c / (r as f64).sqrt()),
            projection: mean_offdiag(&projection),
            explained_variance: mean(&explained_variance),
            participation_ratio: mean(&participation_ratio),
        })
    }

    /// What independent random subspaces of `d` dimensions give: white noise, each token with one of [`RANDOM`]
    /// experts.
    ///
    /// # Errors
    /// [`sdmoe::Error::Device`].
    pub async fn chance(gpu: &Gpu, d: usize, seed: u64) -> Result<Self> {
        let (groups, tokens) = (RANDOM, 4 * d * RANDOM);
        let x = Tensor::empty_f32(gpu, [tokens, d])?;
        fill_normal(&x, seed, 0, 1.0)?;
        let index: Vec<u32> = (0..tokens).map(|t| (t % groups) as u32).collect();
        let one_each = Assignment { weight: vec![1.0; tokens], index, top_k: 1, experts: groups };
        Self::of(gpu, 0, one_each.of(&x.to_f32().await?, d), seed).await
    }
}

/// One layer's figures. Jacobians and subspaces are means over experts, or pairs of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerFigures {
    /// Mean over tokens of the cosine of two experts' Jacobians.
    pub mean_of_cosines: Option<f64>,
    /// The same of Gaussian matrices of the same norms.
    pub gaussian: Option<f64>,
    /// Cosine of two experts' mean Jacobians.
    pub cosine_of_means: Option<f64>,
    /// Leading singular value of an expert's Jacobian; of a dense model that of the whole layer.
    pub leading: Option<f64>,
    /// Effective rank of the same Jacobian.
    pub effective_rank: Option<f64>,
    /// Of the tokens as they are routed, weighted as they are combined.
    pub routed: Subspaces,
    /// Of the same routing at permuted tokens.
    pub permuted: Subspaces,
    /// Of soft routing: with the K best experts of each token, as if they were routed by top-K; and permuted.
    pub best: Option<[Subspaces; 2]>,
    /// How many experts share a token.
    pub experts_a_token: f64,
    /// Entropy of the load over its largest value; of soft routing that of the K best experts.
    pub load_entropy: f64,
    /// Mutual information of source and expert in nats, of the same choices.
    pub information: Option<f64>,
    /// With the sources permuted among tokens.
    pub information_control: Option<f64>,
}

/// Of what is defined.
fn mean(values: &[Option<f64>]) -> Option<f64> {
    support::mean(values.iter().flatten().copied())
}

/// Measures all layers.
///
/// # Errors
/// [`sdmoe::Error::Device`]; [`sdmoe::Error::Data`] where something is not finite.
pub async fn measure(gpu: &Gpu, model: &Model, kind: Kind, setting: Setting<'_>) -> Result<Vec<LayerFigures>> {
    let Setting { seq, windows, names, experts: e, top_k, seed } = setting;
    let observed = observe(gpu, model, seq, windows, seed).await?;
    let (d, tokens) = (observed.d, observed.source.len());
    let sources = Sources { of_token: &observed.source, names };
    let mut figures = Vec::new();
    for (layer, view) in observed.layers.iter().enumerate() {
        let assigned = match kind {
            Kind::DenseTotal | Kind::DenseActive => Assignment::random(tokens, e, top_k, seed),
            Kind::TopK | Kind::Soft => {
                Assignment { index: view.index.clone(), weight: view.weight.clone(), top_k: observed.top_k, experts: e }
            }
        };
        let best = assigned.best(top_k);
        let pair = async |assigned: &Assignment| -> Result<[Subspaces; 2]> {
            let permuted = assigned.permuted(seed);
            let routed = Subspaces::of(gpu, layer, assigned.of(&view.x, d), seed).await?;
            Ok([routed, Subspaces::of(gpu, layer, permuted.of(&view.x, d), seed).await?])
        };
        let [routed, permuted] = pair(&assigned).await?;
        let choices = Choices { experts: e, top_k, index: &best.index, weight: &best.weight };
        let load = load(layer, choices, Some(sources), seed);

        let chosen = spread(tokens / seq, seq, JACOBIANS, seed);
        let x = rows(gpu, &view.x, d, chosen.into_iter())?;
        let options = JacobianOptions::default().spectra(true).seed(seed);
        let of =
            async |[gate, up, down]: &[Tensor; 3]| jacobians(gpu, layer, Experts { gate, up, down }, &x, options).await;
        let found = of(&experts(gpu, model, layer, e, seed).await?).await?;
        let whole = if kind.is_dense() { Some(of(&experts(gpu, model, layer, 1, seed).await?).await?) } else { None };
        let spectra = whole.as_ref().unwrap_or(&found);
        let leading: Vec<_> = spectra.singular_values.iter().map(|s| s.first().copied()).collect();
        figures.push(LayerFigures {
            mean_of_cosines: found.mean_offdiag,
            gaussian: found.control,
            cosine_of_means: found.means_offdiag,
            leading: mean(&leading),
            effective_rank: mean(&spectra.effective_rank),
            routed,
            permuted,
            best: if kind == Kind::Soft { Some(pair(&best).await?) } else { None },
            experts_a_token: assigned.experts_a_token(),
            load_entropy: load.entropy / (e as f64).ln(),
            information: load.mutual_information,
            information_control: load.control,
        });
    }
    Ok(figures)
}
