//! `sdmoe generate`: text from a model, printed as it comes.

use std::path::PathBuf;

use crate::data::offsets::uniform;
use crate::data::text_tokenizer::TextTokenizer;
use crate::data::tokenizer::{encode, printable};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::nn::generate::Generator;
use crate::nn::sample::Sampling;
use crate::train::compiling::CompileNotice;
use crate::train::pretrained::Pretrained;
use crate::train::progress::say;

use super::device::DeviceArgs;
use super::usage::whole;
use super::warn;
use super::weights::WeightArgs;

/// A gigabyte of text, which takes years.
const MOST_TOKENS: usize = 1 << 30;

/// The longest context that is taken without being asked for, tokens: keys and values of so many are kept.
const USUAL_CONTEXT: usize = 4096;

/// Flags of `sdmoe generate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder of a run, checkpoint, or Hugging Face folder
    #[arg(long, visible_alias = "checkpoint", value_name = "DIR")]
    model: PathBuf,
    /// Text to go on from, or - for standard input
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Take the prompt as a user's message and answer it, by the tokenizer's chat template
    #[arg(long)]
    chat: bool,
    /// Tokens to generate; those of this program's own runs are bytes
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>)]
    tokens: usize,
    /// Divides the logits: below 1 safer, above 1 wilder; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Draw from at most so many of the likeliest tokens
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability [default: 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Draw only from tokens that have this fraction of the likeliest one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Make tokens that the text has less likely: above 1; 1 for none
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Seed of the draws [default: 1]
    #[arg(long, value_name = "S", value_parser = whole::<u64>)]
    seed: Option<u64>,
    /// Tokens that the model sees at most [default: the model's context, at most 4096]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    context: Option<usize>,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(0.95),
            min_p: self.min_p.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
        };
        sampling.validate().map_err(super::as_flag)?;
        if self.temperature == 0.0 {
            for (flag, given) in [
                ("--top-k", self.top_k.is_some()),
                ("--top-p", self.top_p.is_some()),
                ("--min-p", self.min_p.is_some()),
                ("--seed", self.seed.is_some()),
            ] {
                if given {
                    warn(&format!("{flag} has no effect: with --temperature 0 the likeliest token is always taken"));
                }
            }
        }
        Ok(sampling)
    }
}

/// Generates.
pub(super) fn run(args: &Args) -> Result<()> {
    if args.prompt.is_empty() {
        return Err(Error::config("--prompt", "expected at least one byte, got none"));
    }
    let sampling = args.sampling()?;
    if args.tokens > MOST_TOKENS {
        return Err(Error::config("--tokens", format!("expected at most {MOST_TOKENS}, got {}", args.tokens)));
    }
    if args.context == Some(0) {
        return Err(Error::config("--context", "expected at least 1 token, got 0"));
    }
    let model = Pretrained::open(&args.model)?;
    model.complete()?;
    let tokenizer = model.tokenizer()?;
    let stops = model.stops(&tokenizer);
    let given = match args.prompt.as_str() {
        "-" => crate::data::read(&["-".into()])?.bytes,
        text => text.as_bytes().to_vec(),
    };
    // Models of others have seen the tokens that their tokenizer puts around a text.
    let published = model.family_model()?.is_some();
    let prompt = if args.chat { tokenizer.chat(&given)? } else { tokenizer.encode(&given, published)? };
    // What a pipe brings is shown as what is generated: with nothing in it that a terminal obeys. Of a chat the answer is shown.
    let shown = match args.prompt.as_str() {
        _ if args.chat => String::new(),
        "-" => printable(&encode(&given)),
        text => text.to_owned(),
    };
    let context = args.context.unwrap_or(model.context().min(USUAL_CONTEXT));
    let seed = args.seed.unwrap_or(1);
    pollster::block_on(async {
        let gpu = Gpu::open(&args.device.options()).await?;
        let _notice = CompileNotice::start(&gpu, say);
        let loaded = model.load_for_inference(&gpu, args.weights.weight_type())?;
        // No cache is longer than the text.
        let longest = prompt.len().saturating_add(args.tokens);
        let mut generator = Generator::new(&gpu, &loaded, &prompt, context.min(longest))?;
        let mut printer = tokenizer.stream();
        if !matches!(tokenizer, TextTokenizer::Bytes) && !args.chat {
            // What the first tokens are depends on the prompt's last.
            prompt.iter().try_for_each(|&token| printer.push(token).map(drop))?;
        }
        // The prompt comes with the first token, so that a device that fails leaves nothing on standard output.
        let mut first = Some(shown.as_str());
        for position in 0..args.tokens {
            let token = generator.next(&sampling, uniform(seed, &[position as u64])).await?;
            super::print(first.take().unwrap_or_default())?;
            if stops.contains(&token) {
                break;
            }
            super::print(&printer.push(token)?)?;
        }
        super::print(&format!("{}{}\n", first.unwrap_or_default(), printer.finish()?))
    })
}
