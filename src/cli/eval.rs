//! `sdmoe eval`: the loss of a model on a text.

use std::f64::consts::LN_2;
use std::path::PathBuf;

use crate::data::corpus;
use crate::data::text_tokenizer::TextTokenizer;
use crate::data::tokens::Tokens;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::model::Model;
use crate::nn::size::mib;
use crate::train::by_layer::ByLayer;
use crate::train::compiling::CompileNotice;
use crate::train::perplexity::{Perplexity, Window, perplexity};
use crate::train::pretrained::Pretrained;
use crate::train::progress::say;
use crate::train::run::evaluate_text;

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
    /// Run a published model a layer at a time, so that the device holds the largest layer alone; auto: where the whole does
    /// not fit
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Layers::Auto)]
    by_layer: Layers,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Layers {
    /// Where its weights do not fit the memory
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// A model that is ready to be evaluated.
enum Loaded<'a> {
    Whole(Box<Model>),
    ByLayer(ByLayer<'a>),
}

/// Evaluates.
pub(super) fn run(args: &Args) -> Result<()> {
    let model = Pretrained::open(&args.model)?;
    let tokenizer = model.tokenizer()?;
    if args.by_layer == Layers::On && matches!(model, Pretrained::Saved(_)) {
        let message = "expected a Hugging Face folder, got a checkpoint of this program, which is loaded whole";
        return Err(Error::config("--by-layer", message));
    }
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
        let (gpu, loaded) = load(args, &model, gpu).await?;
        let numbers: Vec<Option<usize>> =
            if args.top_k.is_empty() { vec![None] } else { args.top_k.iter().copied().map(Some).collect() };
        // All numbers of experts in one passage, for each reads the weights.
        let together = match &loaded {
            Loaded::ByLayer(model) => model.perplexity(&tokens, window, &numbers).await?,
            Loaded::Whole(_) => Vec::new(),
        };
        let measure = async |i: usize| match &loaded {
            Loaded::ByLayer(_) => Ok(together[i]),
            Loaded::Whole(model) => perplexity(&gpu, model, &tokens, window, numbers[i]).await,
        };
        if args.top_k.is_empty() {
            let found = measure(0).await?;
            let place = format!("windows of {context}, stride {}; {}", window.stride, text.description);
            return super::print(&format!("{} ({place})\n", words(&tokenizer, found, text.bytes.len())));
        }
        super::print(&format!("experts a token    loss, nats per {}    perplexity\n", tokenizer.unit()))?;
        for (i, &k) in args.top_k.iter().enumerate() {
            let found = measure(i).await?;
            let own = if k == config.moe.top_k { "   (the model's own)" } else { "" };
            super::print(&format!("{k:15} {:22.4} {:13.3}{own}\n", found.mean(), found.perplexity()))?;
        }
        Ok(())
    })
}

/// Loads the model, or prepares to run it by layer, on `gpu` or one that takes its place.
async fn load<'a>(args: &Args, model: &'a Pretrained, mut gpu: Gpu) -> Result<(Gpu, Loaded<'a>)> {
    let weights = args.weights.weight_type();
    let auto = args.by_layer == Layers::Auto && matches!(model, Pretrained::Family(_));
    let by_layer = args.by_layer == Layers::On || auto && !model.fits(&gpu, weights)?;
    if !by_layer {
        match model.load_for_inference(&gpu, weights) {
            Ok(model) => return Ok((gpu, Loaded::Whole(Box::new(model)))),
            Err(_) if auto && matches!(gpu.check(), Err(Error::OutOfMemory { .. })) => {}
            Err(error) => return Err(error),
        }
        // A device that was full stays out of use.
        gpu = Gpu::open(&args.device.options()).await?;
    }
    let parts = model.by_layer(&gpu, weights)?;
    if auto {
        let (plan, shown) = (parts.memory()?, |bytes: u64| mib(u128::from(bytes)));
        let (all, part) = (shown(plan.bytes(weights)), shown(plan.part_bytes(weights)));
        say(&format!("the weights take {all}, more than there is: the model runs by layer, {part} of them at a time"));
    }
    Ok((gpu, Loaded::ByLayer(parts)))
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
