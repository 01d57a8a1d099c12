//! `sdmoe eval`: the loss of a model on a text.

use std::f64::consts::LN_2;
use std::path::PathBuf;

use crate::data::corpus;
use crate::data::text_tokenizer::TextTokenizer;
use crate::data::tokens::Tokens;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::train::compiling::CompileNotice;
use crate::train::perplexity::{Perplexity, Window, perplexity};
use crate::train::pretrained::Pretrained;
use crate::train::progress::say;
use crate::train::run::evaluate_text;

use super::by_layer::{ByLayerArgs, Loaded};
use super::device::DeviceArgs;
use super::usage::whole;
use super::weights::WeightArgs;

/// The longest context that is taken without being asked for, tokens: what a window costs grows with it.
const USUAL_CONTEXT: usize = 1024;

/// Flags of `sdmoe eval`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a run, checkpoint, or Hugging Face folder
    #[arg(long, visible_alias = "checkpoint", value_name = "DIR")]
    model: PathBuf,
    /// Files or folders to evaluate on, or - for standard input: any bytes for models of bytes, else UTF-8
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Tokens of a window that slides over the text [default: the model's context, at most 1024; without --context, --stride
    /// and --top-k a run of this program is measured in windows of its training length, one behind the other]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    context: Option<usize>,
    /// Tokens from one window to the next [default: half the context]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    stride: Option<usize>,
    /// Evaluate with so many experts a token, several numbers as a table: 1,2,4
    #[arg(long, value_name = "K,..", value_delimiter = ',', value_parser = whole::<usize>)]
    top_k: Vec<usize>,
    #[command(flatten)]
    by_layer: ByLayerArgs,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Evaluates.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = Pretrained::open(&args.model)?;
    let tokenizer = model.tokenizer()?;
    args.by_layer.check(&model)?;
    let text = corpus::read(&args.data)?;
    // Models of others have seen the tokens that their tokenizer puts around a text.
    let published = model.family_model()?.is_some();
    // A run's own measure: windows of its training length, behind each other.
    if let Pretrained::Saved(saved) = &model
        && !published
        && args.context.is_none()
        && args.stride.is_none()
        && args.top_k.is_empty()
    {
        let (unit, bytes) = (tokenizer.unit(), text.bytes.len());
        let ids;
        let tokens = match &tokenizer {
            TextTokenizer::Bytes => Tokens::from(&text.bytes),
            _ => {
                ids = tokenizer.encode(&text.bytes, false)?;
                Tokens::from(&ids)
            }
        };
        tokens.require(saved.config.train.seq, "the text to evaluate on")?;
        let result = pollster::block_on(evaluate_text(saved, &args.device.options(), tokens))?;
        let per_token = if unit == "byte" { 1.0 } else { bytes as f64 / result.targets as f64 };
        return super::print(&format!(
            "loss {:.4} nats per {unit}, {:.4} bits per byte, over {} {unit}s ({})\n",
            result.loss,
            f64::from(result.loss) / LN_2 / per_token,
            result.targets,
            text.description
        ));
    }
    model.complete()?;
    let context = args.context.unwrap_or(model.context().min(USUAL_CONTEXT));
    let window = Window { context, stride: args.stride.unwrap_or(context / 2) };
    window.validate().map_err(super::as_flag)?;
    let config = model.config();
    if !args.top_k.is_empty() && config.moe_layers().is_empty() {
        return Err(Error::config("--top-k", "expected a model with experts, got a dense one"));
    }
    let reach = config.moe.reach();
    if let Some(k) = args.top_k.iter().find(|k| !(1..=reach).contains(*k)) {
        let message = format!("expected at least 1 and at most the {reach} experts that a token can visit, got {k}");
        return Err(Error::config("--top-k", message));
    }
    let tokens = tokenizer.encode(&text.bytes, published)?;
    pollster::block_on(async {
        let gpu = Gpu::open(&args.device.options()).await?;
        let _notice = CompileNotice::start(&gpu, say);
        let weights = args.weights.weight_type();
        let (gpu, loaded) = args.by_layer.load(&model, weights.into(), &args.device, gpu).await?;
        let numbers: Vec<Option<usize>> =
            if args.top_k.is_empty() { vec![None] } else { args.top_k.iter().copied().map(Some).collect() };
        let found = match &loaded {
            // All numbers of experts in one passage, for each reads the weights.
            Loaded::ByLayer(model) => model.perplexity(&tokens, window, &numbers).await?,
            Loaded::Whole(model) => {
                let mut found = Vec::new();
                for &top_k in &numbers {
                    found.push(perplexity(&gpu, model, &tokens, window, top_k).await?);
                }
                found
            }
        };
        if args.top_k.is_empty() {
            let found = found[0];
            let place = format!("windows of {context}, stride {}; {}", window.stride, text.description);
            return super::print(&format!("{} ({place})\n", words(&tokenizer, found, text.bytes.len())));
        }
        super::print(&format!("experts a token    loss, nats per {}    perplexity\n", tokenizer.unit()))?;
        for (&k, found) in args.top_k.iter().zip(found) {
            let own = if k == config.moe.top_k { "   (the model's own)" } else { "" };
            super::print(&format!("{k:15} {:22.4} {:13.3}{own}\n", found.mean(), found.perplexity()))?;
        }
        Ok(())
    })
}

/// `loss 5.8585 nats per byte, perplexity 350.2, 8.4521 bits per byte, over 599 bytes`.
fn words(tokenizer: &TextTokenizer, found: Perplexity, bytes: usize) -> String {
    let unit = tokenizer.unit();
    format!(
        "loss {:.4} nats per {unit}, perplexity {:.4}, {:.4} bits per byte, over {} {unit}s",
        found.mean(),
        found.perplexity(),
        found.sum / LN_2 / if unit == "byte" { found.targets as f64 } else { bytes as f64 },
        found.targets
    )
}
