//! `sdmoe decouple`: the experts of a model as a common part and unique ones, without changing what the model computes.

use std::path::PathBuf;

use crate::checkpoint::require_new;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::linalg::MAX_COLUMNS;
use crate::nn::config::SpectralConfig;
use crate::train::decouple::{DecoupledMatrix, decouple, settings};
use crate::train::pretrained::Pretrained;
use crate::train::warnings::CLOSED_GAP;

use super::device::DeviceArgs;
use super::usage::{Layers, layers, whole};
use super::{shown, warn};

/// Flags of `sdmoe decouple`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A Hugging Face folder, a run or a checkpoint
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Rank k of the experts' common part
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    rank: usize,
    /// Layers to decouple, such as 0-3,7 [default: all that have experts]
    #[arg(long, value_name = "LAYERS", value_parser = layers)]
    layers: Option<Layers>,
    /// The folder of the decoupled model, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Decouples.
pub(super) fn run(args: &Args) -> Result<()> {
    require_new(&args.out)?;
    let layers = args.layers.clone().map_or(Vec::new(), |layers| layers.0);
    let spectral = SpectralConfig {
        rank: args.rank,
        oversampling: SpectralConfig::default().oversampling.min(MAX_COLUMNS.saturating_sub(args.rank)),
        layers,
        ..SpectralConfig::default()
    };
    let source = Pretrained::open(&args.model)?;
    settings(&source, &spectral)?;
    source.complete()?;
    // A tokenizer that does not fit is found before the work.
    source.tokenizer()?;
    let decoupled = pollster::block_on(async {
        let gpu = Gpu::open(&args.device.options()).await?;
        decouple(&gpu, &source, &spectral, 1).await
    })?;
    decoupled.save(&args.out)?;
    super::print(&table(decoupled.matrices(), args.rank))?;
    let flat = decoupled.matrices().iter().filter(|m| m.gap.is_some_and(|gap| gap < f64::from(CLOSED_GAP))).count();
    if flat > 0 {
        warn(&format!(
            "sigma_k / sigma_(k+1) is below {CLOSED_GAP} in {flat} of {}: which {} directions are common is hardly defined there",
            decoupled.matrices().len(),
            args.rank
        ));
    }
    super::print(&format!("decoupled model: {}\n", shown(&args.out)))
}

/// A line for each layer and kind.
fn table(matrices: &[DecoupledMatrix], rank: usize) -> String {
    let title = format!("common, k = {rank}");
    let mut text = format!("layer  matrix  experts' mean  {title:>14}  sigma_k / sigma_(k+1)\n");
    for m in matrices {
        let gap = match m.gap {
            Some(gap) if gap.is_finite() => format!("{gap:.3}"),
            Some(_) => "infinite".into(),
            None => "not computed".into(),
        };
        text += &format!(
            "{:5}  {:<6}  {:11.2} %  {:12.2} %  {gap:>21}\n",
            m.layer,
            m.matrix.name(),
            100.0 * m.mean_fraction,
            100.0 * m.common_fraction
        );
    }
    text + "(percent of the experts' energy, the sum of all squares; the rest is their unique parts)\n"
}
