//! `sdmoe upcycle`: a dense model as one with experts, each a copy of its feed-forward network.

use std::path::PathBuf;

use crate::checkpoint::require_new;
use crate::error::Result;
use crate::nn::upcycle::Upcycle;
use crate::train::pretrained::Pretrained;
use crate::train::upcycle::UpcyclePlan;

use super::export::Dtype;
use super::shown;
use super::usage::whole;

/// Flags of `sdmoe upcycle`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A dense model: a Hugging Face folder (llama, qwen2, qwen3), a run or a checkpoint
    #[arg(value_name = "DENSE")]
    model: PathBuf,
    /// Experts in each layer
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    experts: usize,
    /// Experts a token visits; their weights are renormalised
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    top_k: usize,
    /// Standard deviation of the noise on each copy, in units of the matrix' root mean square; without it the model computes what
    /// the dense one does
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    noise: f32,
    /// Seed of the routers and of the noise
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole::<u64>)]
    seed: u64,
    /// The type of the numbers of a Hugging Face folder; a run's stay f32
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// The new folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Upcycles.
pub(super) fn run(args: &Args) -> Result<()> {
    require_new(&args.out)?;
    let source = Pretrained::open(&args.model)?;
    let mut options = Upcycle::new(args.experts, args.top_k);
    (options.noise, options.seed) = (args.noise, args.seed);
    let plan = UpcyclePlan::new(&source, options).map_err(super::as_flag)?;
    source.complete()?;
    // A tokenizer that does not fit is found before the work.
    source.tokenizer()?;
    plan.write(args.dtype.into(), &args.out)?;
    let config = plan.upcycled().config();
    let numel = |shape: &[usize]| shape.iter().product::<usize>();
    let (mut all, mut routed) = (0, 0);
    for (name, shape) in plan.upcycled().shapes() {
        all += numel(shape);
        routed += if name.contains(".moe.experts.") { numel(shape) } else { 0 };
    }
    let what = plan.family().map_or("a checkpoint of this program", |family| family.name());
    super::print(&format!(
        "{} layers of {} experts of width {}, top {}: {all} parameters, {} of them active for a token\n{what} in {}\n",
        config.layers,
        config.moe.experts,
        config.moe.d_expert,
        config.moe.top_k,
        all - routed + routed / config.moe.experts * config.moe.top_k,
        shown(&args.out)
    ))
}
